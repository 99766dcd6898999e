"""Actors that are called back while they wait, calls that are repeated until they are answered, and reminders whose
handlers fail: what of it is stored belongs together, and is there once."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any, TypedDict

import msgspec

from perdure.actors.actor import Actor
from perdure.actors.schedule import FailurePolicy
from perdure.errors import Moved, PerdureError
from perdure.runtime import ActorSpec
from perdure.statestore.contract import ActorId
from tests.simulation.loop import PROCESS
from tests.simulation.node import NodeLost, SimNode
from tests.simulation.world import World

#: Seconds that a client waits for an answer, before it asks again or gives up.
TIMEOUT = 6.0
#: How often each reminder fires in all.
TICKS = 3
#: How often its handler fails, of ten.
FAILING = 3


class Round(TypedDict):
    token: str
    #: The ring that is called in between, which calls back.
    through: str


class Ring(Actor):
    """Reentrant. Its value is the list of what it was told, in order."""

    async def round(self, call: Round) -> list[str]:
        """Notes `-a`, has another ring note `-b` here, and notes `-c`: one turn, stored in two parts."""
        token = call["token"]
        await self._note(f"{token}-a")
        await self.proxy(Ring, call["through"], timeout=3.0).bounce({"token": token, "through": self.id})
        return await self._note(f"{token}-c")

    async def bounce(self, call: Round) -> None:
        """Notes here that it was answered."""
        token = call["token"]
        await self.proxy(Ring, call["through"], timeout=2.0).inner(token)
        if f"{token}-heard" not in await self._notes():
            await self._note(f"{token}-heard")

    async def inner(self, token: str) -> list[str]:
        """Its caller's turn may move, and then asks again."""
        noted = await self._notes()
        # It sees what the turn that waits for it has done, or that turn is over.
        return noted if f"{token}-b" in noted else await self._note(f"{token}-b")

    async def note(self, token: str) -> list[str]:
        return await self._note(token)

    async def wake(self, name: str) -> None:
        await self.set_reminder(
            name,
            "0.1s",
            f"R{TICKS}/PT0.2S",
            failure_policy=FailurePolicy.constant("1s", None),
            overwrite=False,
        )

    async def on_reminder(self, name: str, data: object) -> None:
        ticks = await self.state.get(f"ticks-{name}", int, default=0)
        self.state.set(f"ticks-{name}", ticks + 1)
        process = PROCESS.get()
        assert process is not None
        if process.token(1)[0] % 10 < FAILING:
            raise ValueError("not now")

    async def read(self) -> list[str]:
        return await self._notes()

    async def _note(self, token: str) -> list[str]:
        noted = [*await self._notes(), token]
        self.state.set("notes", noted)
        process = PROCESS.get()
        assert process is not None
        await process.sleep(process.token(1)[0] / 2550)
        return noted

    async def _notes(self) -> list[str]:
        found: list[str] = await self.state.get("notes", list[str], default=[])
        return found


SPEC = ActorSpec(Ring, idle_timeout=3.0, reentrant=True, keep_replies=timedelta(hours=1))


class RingCount:
    """What is known of one ring from outside."""

    def __init__(self, world: World, id: str) -> None:
        self.world = world
        self.id = id
        self.actor = ActorId(Ring.actor_type, id)
        #: What was asked for; and what is stored, as a client was told.
        self.asked: set[str] = set()
        self.known: set[str] = set()
        self.reminders: set[str] = set()
        #: Where calls were made from here, by token.
        self.inner: dict[str, RingCount] = {}

    @property
    def notes(self) -> list[str]:
        record = self.world.server.memory.actors.get(self.actor)
        found: list[str] = (
            msgspec.json.decode(record.values.get("notes", b"[]")) if record is not None else []
        )
        return found

    def rolled_back(self) -> None:
        raise NotImplementedError("the store of rings is not rolled back")

    def check(self) -> None:
        require = self.world.checker.require
        record = self.world.server.memory.actors.get(self.actor)
        values = dict(record.values) if record is not None else {}
        notes = self.notes
        require(len(notes) == len(set(notes)), "something was noted twice", self.id, notes)
        require(self.known <= set(notes), "what was acknowledged is lost", self.id, self.known - set(notes))
        require(set(notes) <= self.asked, "noted, and nobody asked for it", self.id, set(notes) - self.asked)
        for note in notes:
            # The inner call's caller was answered only when what it had seen was stored too.
            token, _, part = note.rpartition("-")
            if part == "c":
                before = [other for other in notes if other.startswith(f"{token}-") and other[-1] in "abc"]
                right = [f"{token}-a", f"{token}-b", f"{token}-c"]
                require(before == right, "a turn of which a part is missing", self.id, before)
            if part == "heard":
                there = {f"{token}-a", f"{token}-b"} <= set(self.inner[token].notes)
                require(there, "answered, and what the answer was about is not stored", self.id, token)
        for name in self.reminders:
            ticks = msgspec.json.decode(values.get(f"ticks-{name}", b"0"))
            require(ticks == TICKS, "a reminder has not fired as often as it should", self.id, name, ticks)


class RingStory:
    """One client. It stops when the faults do, but for the calls that it repeats until they are answered."""

    def __init__(self, world: World, id: str, rings: list[RingCount]) -> None:
        self.world = world
        self.id = id
        self.actor = ActorId(Ring.actor_type, id)
        self.ops: list[Any] = []
        self.asking: object = None
        self.rng = random.Random(f"{world.seed}-{id}")
        self._rings = rings
        self._tokens = 0

    async def run(self) -> None:
        while not self.world.healing:
            await self.world.sleep(self.rng.random() * 0.4)
            kind = self.rng.randrange(6)
            if kind < 3:
                await self._round()
            elif kind < 5:
                await self._once()
            else:
                await self._wake()

    async def _call(self, ring: RingCount, method: str, input: Any, key: str | None = None) -> Any:
        """The answer; None when it is not known what came of it."""
        nodes = [node for node in self.world.living() if not node.leaving]
        if not nodes:
            await self.world.sleep(0.1)
            return None
        node: SimNode = self.rng.choice(nodes)
        self.asking = node.id, self.world.loop.now, method
        try:
            return await node.call(ring.actor, method, input, timeout=TIMEOUT, idempotency_key=key)
        except (NodeLost, Moved):
            return None
        except PerdureError as error:
            self.world.trace(self.id, method, ring.id, repr(error))
            return None
        finally:
            self.asking = None

    def _token(self) -> str:
        self._tokens += 1
        return f"{self.id}.{self._tokens}"

    async def _round(self) -> None:
        ring, through = self.rng.sample(self._rings, 2)
        token = self._token()
        parts = {f"{token}-{part}" for part in "abc"}
        ring.asked |= parts
        if self.rng.random() < 0.2:
            through = ring
        through.asked.add(f"{token}-heard")
        through.inner[token] = ring
        if await self._call(ring, "round", {"token": token, "through": through.id}) is not None:
            ring.known |= parts

    async def _once(self) -> None:
        """Asks until there is an answer, and then once more: it is noted once, and the answers are the same."""
        ring, token = self.rng.choice(self._rings), self._token()
        ring.asked.add(token)
        answers: list[Any] = []
        while len(answers) < 2:
            found = await self._call(ring, "note", token, token)
            if found is not None:
                ring.known.add(token)
                answers.append(found)
            else:
                await self.world.sleep(0.2)
        self.world.checker.require(answers[0] == answers[1], "answered in two ways", self.id, answers)

    async def _wake(self) -> None:
        ring, name = self.rng.choice(self._rings), self._token()
        while True:
            # No result: a second call tells whether the first one was answered.
            nodes = [node for node in self.world.living() if not node.leaving]
            if nodes:
                try:
                    await self.rng.choice(nodes).call(
                        ring.actor, "wake", name, timeout=TIMEOUT, idempotency_key=f"wake-{name}"
                    )
                except (NodeLost, PerdureError):
                    pass
                else:
                    ring.reminders.add(name)
                    return
            await self.world.sleep(0.2)


def ringing(world: World, clients: int) -> list[RingStory]:
    """So many clients of a few rings. Before the world has nodes."""
    if not clients:
        return []
    rings = [RingCount(world, f"r{number}") for number in range(4)]
    world.counts += rings
    return [RingStory(world, f"ring{number}", rings) for number in range(clients)]
