"""Starts for later, starts that replace, and what clients may send again with keys of their own."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime
from typing import Any

import msgspec

from perdure.client import WorkflowClient
from perdure.errors import InstanceNotFound, InvalidState
from tests.simulation.network import LATEST
from tests.simulation.process import EPOCH
from tests.simulation.programs import Maker, Op
from tests.simulation.stories import ForcedStory, PausedStory, PurgedStory, Story, TerminatedStory
from tests.simulation.world import World


class Scheduled(Story):
    """It begins at a time; what is done to it may come before."""

    _begun = False

    async def start(self) -> None:
        if self._begun:
            # A purge of which the outcome was unknown may come late, and it is not to be for this one.
            await self.world.sleep(LATEST)
        self._begun = True
        data = msgspec.json.encode({"ops": self.ops, "out": []})
        start_id = self.rng.randbytes(16).hex()
        seconds = EPOCH / 1e6 + self.world.loop.now + self.rng.choice([-1.0, 0.05, 0.5, 2.0, 5.0])
        at = datetime.fromtimestamp(seconds, UTC)

        async def start(client: WorkflowClient) -> Any:
            return await client._workflows.start(self.workflow, data, self.id, start_id=start_id, start_at=at)

        await self.request(start)


class ScheduledPaused(Scheduled, PausedStory):
    """Paused and resumed before its time, and after."""


class ScheduledTerminated(Scheduled, TerminatedStory):
    """Terminated before its time, or after."""


class ScheduledForced(Scheduled, ForcedStory):
    """Purged by force before its time, or after; then the id has another time."""


class ScheduledPurged(Scheduled, PurgedStory):
    """Its id is used again, at another time."""


class Keyed(Story):
    """Each of its requests has a key, and is sent again with it, also when it was answered."""

    def __init__(self, world: World, id: str, ops: list[Op]) -> None:
        super().__init__(world, id, ops)
        self._sent: list[tuple[str, dict[str, str]]] = []

    async def start(self) -> None:
        data = msgspec.json.encode({"ops": self.ops, "out": []})
        if_exists = self.rng.choice(["error", "return", "replace"])

        async def start(client: WorkflowClient) -> Any:
            return await client._workflows.start(
                self.workflow, data, self.id, if_exists=if_exists, idempotency_key="the start"
            )

        await self.request(start)

    async def raise_event(self, name: str) -> None:
        token = f"{self.id}:{name}:{len(self._sent)}"
        self._sent.append((name, {"t": token, "v": f"value of {name}"}))
        await self._send(*self._sent[-1])

    async def _send(self, name: str, data: dict[str, str]) -> None:
        async def send(client: WorkflowClient) -> None:
            await client.raise_workflow_event(self.id, name, data=data, event_id=data["t"])

        # One that raced with the end, or comes after a purge.
        with contextlib.suppress(InvalidState, InstanceNotFound):
            await self.request(send)

    async def run(self) -> None:
        await super().run()
        for _ in range(self.rng.randint(0, 3)):
            await self.again()
        await self.request(lambda client: client.wait_for_workflow_completion(self.id))
        await self.again()

    async def again(self) -> None:
        """Something that was taken is sent again."""
        shadow, checker = self.shadow, self.world.checker
        before = shadow.meta.start_id if shadow is not None and shadow.meta is not None else ""
        if self._sent and self.rng.random() < 0.5:
            await self._send(*self.rng.choice(self._sent))
        else:
            await self.start()
        shadow = self.shadow
        after = shadow.meta.start_id if shadow is not None and shadow.meta is not None else ""
        checker.require(before == after, "a start with a known key took effect", self.id)


class KeyedPurged(Keyed):
    """What was purged is not begun again by what comes late."""

    async def run(self) -> None:
        await super().run()
        self.world.checker.forced.add(self.id)
        with contextlib.suppress(InstanceNotFound):
            await self.request(lambda client: client.purge_workflow(self.id, force=True))
        await self.again()

    def check(self) -> None:
        shadow = self.shadow
        gone = shadow is not None and shadow.purged
        self.world.checker.require(gone, "purged, and back again", self.id)


class Replaced(Story):
    """Another start takes its place, whatever it is doing."""

    def __init__(self, world: World, id: str, ops: list[Op], again: list[Op]) -> None:
        super().__init__(world, id, ops)
        self._again = again

    async def run(self) -> None:
        await self.world.sleep(self.rng.random())
        await self.start()
        await self.world.sleep(self.rng.choice([0.0, 0.01, 0.1, 0.5, 2.0]) * self.rng.random())
        self.world.checker.terminated.add(self.id)
        self.ops = self._again
        await self.replace()
        await self.raise_events()

    async def replace(self) -> None:
        data = msgspec.json.encode({"ops": self.ops, "out": []})
        start_id = self.rng.randbytes(16).hex()

        async def start(client: WorkflowClient) -> Any:
            return await client._workflows.start(
                self.workflow, data, self.id, start_id=start_id, if_exists="replace"
            )

        await self.request(start)

    def check(self) -> None:
        checker = self.world.checker
        self.check_result(self.id, self.ops)
        for shadow in checker.shadows.values():
            if shadow.actor.id.startswith(f"{self.id}:"):
                checker.require(shadow.finished or shadow.purged, "a replaced tree goes on", shadow.actor.id)


class ScheduledReplaced(Scheduled, Replaced):
    """What is replaced may be for later."""


def stories(world: World, count: int) -> list[Story]:
    """A seeded mix."""
    rng = random.Random(f"{world.seed}-starts")
    maker = Maker(rng)
    found: list[Story] = []
    for number in range(count):
        id = f"i{number}"
        ops = _program(maker, rng, 3)
        match rng.randrange(9):
            case 0:
                found.append(Scheduled(world, id, ops))
            case 1:
                found.append(rng.choice([ScheduledPaused, ScheduledTerminated])(world, id, ops))
            case 2:
                found.append(ScheduledForced(world, id, ops, _program(maker, rng, 2)))
            case 3:
                again = _program(maker, rng, 2) if rng.random() < 0.7 else None
                found.append(ScheduledPurged(world, id, ops, again, purge=rng.random() < 0.7))
            case 4 | 5:
                found.append(Keyed(world, id, ops))
            case 6:
                found.append(KeyedPurged(world, id, ops))
            case 7:
                found.append(Replaced(world, id, ops, _program(maker, rng, 2)))
            case 8:
                found.append(ScheduledReplaced(world, id, ops, _program(maker, rng, 2)))
    return found


def _program(maker: Maker, rng: random.Random, size: int) -> list[Op]:
    ops = maker.program(size=size)
    if rng.random() < 0.3:
        inner = maker.program(size=1, depth=1, events=False)
        ops.insert(0, ["detach_later", maker.name("detached-"), inner, rng.choice([0, 100, 1000, 3000])])
    return ops
