"""Clients that count: what they were told is counted is counted once, and whoever reads sees it."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from perdure.errors import Moved, PerdureError
from tests.simulation.actors import counter
from tests.simulation.node import NodeLost, SimNode
from tests.simulation.world import World

#: Seconds that a client waits for an answer.
TIMEOUT = 8.0


class Count:
    """What is known of one counter from outside."""

    def __init__(self, world: World, id: str) -> None:
        self.world = world
        self.id = id
        self.actor = counter(id)
        #: Increments that were asked for; and those that are stored, as a client was told.
        self.asked: set[str] = set()
        self.known: set[str] = set()

    @property
    def stored(self) -> list[str]:
        record = self.world.server.memory.actors.get(self.actor)
        found: list[str] = msgspec.json.decode(record.values["tokens"]) if record is not None else []
        return found

    def rolled_back(self) -> None:
        """The store has lost what a client was told."""
        self.known = set(self.stored)

    def check(self) -> None:
        require, tokens = self.world.checker.require, self.stored
        require(len(tokens) == len(set(tokens)), "an increment was counted twice", self.id, tokens)
        require(
            self.known <= set(tokens), "an acknowledged increment is lost", self.id, self.known - set(tokens)
        )
        require(set(tokens) <= self.asked, "counted, and nobody asked for it", self.id)


class CountStory:
    """One client. It stops when the faults do."""

    def __init__(self, world: World, id: str, counts: list[Count], *, longest: float) -> None:
        self.world = world
        self.id = id
        self.actor = counter(id)
        self.ops: list[Any] = []
        self.asking: object = None
        self.rng = random.Random(f"{world.seed}-{id}")
        self._counts = counts
        self._longest = longest
        self._tokens = 0

    async def run(self) -> None:
        while not self.world.healing:
            await self.world.sleep(self.rng.random() * 0.4)
            nodes = [node for node in self.world.living() if not node.leaving]
            if not nodes:
                continue
            node, count = self.rng.choice(nodes), self.rng.choice(self._counts)
            kind = self.rng.randrange(5)
            if kind < 2:
                await self._add(node, count)
            elif kind < 4:
                await self._read(node, count)
            elif not self.world.graceful:
                # A turn that waits for an actor whose partition moves too may hold up both.
                await self._relay(node)
        await self._read(self.rng.choice(await self._nodes()), self.rng.choice(self._counts))

    async def _nodes(self) -> list[SimNode]:
        while not (nodes := self.world.living()):
            await self.world.sleep(0.1)
        return nodes

    async def _call(self, node: SimNode, count: Count, method: str, input: Any = None) -> Any:
        """The answer; None when it is not known what came of it."""
        lineage, began = self.world.server.lineage, self.world.loop.now
        self.asking = node.id, began, method
        try:
            answer = await node.call(count.actor, method, input, timeout=TIMEOUT)
        except NodeLost:
            return None
        except Moved:
            # It was not done, and the node that was asked is going.
            self.world.checker.require(node.leaving, "given up although the node stays", node.id, method)
            return None
        except PerdureError as error:
            self.world.trace(self.id, method, count.id, repr(error))
            if self.world.graceful:
                self.world.checker.violated(f"a call failed although nothing does: {method}: {error!r}")
            return None
        finally:
            self.asking = None
        if self.world.graceful:
            took = self.world.loop.now - began
            self.world.checker.require(took < 2.0, "a call took long although nothing fails", method, took)
        # Who does not know yet that the store has lost it may still have it in memory.
        server = self.world.server
        return answer if lineage == server.lineage and server.known else None

    async def _add(self, node: SimNode, count: Count) -> None:
        token = self._token(count)
        seconds = self.rng.choice([0.0, 0.0, 0.01, self._longest * self.rng.random()])
        if await self._call(node, count, "add", {"token": token, "seconds": seconds}) is not None:
            count.known.add(token)

    async def _relay(self, node: SimNode) -> None:
        through = self.rng.sample(self._counts, min(len(self._counts), self.rng.randint(1, 3)))
        # In one order: two turns that wait for each other would do so until the time-out.
        through.sort(key=lambda count: count.id)
        token = self._token(through[-1])
        first, *rest = through
        if await self._call(node, first, "relay", {"token": token, "through": [c.id for c in rest]}):
            through[-1].known.add(token)

    async def _read(self, node: SimNode, count: Count) -> None:
        known = set(count.known)
        lineage = self.world.server.lineage
        found = await self._call(node, count, "read")
        if found is not None and lineage == self.world.server.lineage:
            lost = known - set(found)
            self.world.checker.require(not lost, "a read from what is no longer so", count.id, node.id, lost)
            count.known |= set(found)

    def _token(self, count: Count) -> str:
        self._tokens += 1
        token = f"{self.id}-{self._tokens}"
        count.asked.add(token)
        return token

    def check(self) -> None:
        for count in self._counts:
            count.check()


def counting(world: World, clients: int, *, longest: float) -> list[CountStory]:
    """So many clients of a few counters. `longest`: seconds that a turn takes at most."""
    counts = [Count(world, f"c{number}") for number in range(4)]
    world.counts += counts
    return [CountStory(world, f"client{number}", counts, longest=longest) for number in range(clients)]
