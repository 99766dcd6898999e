"""What clients do with one instance, and what must come of it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from perdure.client import WorkflowClient
from perdure.errors import InstanceNotFound, InvalidState, PerdureError, Unavailable
from perdure.statestore.contract import ActorId
from perdure.workflow.engine import workflow_type
from perdure.workflow.events import ExecutionCompleted
from tests.simulation.node import NodeLost, SimNode
from tests.simulation.programs import Maker, Op, detached_of, events_of, expected, fits
from tests.simulation.shadow import Shadow
from tests.simulation.world import World

TYPE = workflow_type("default", "sim")


class Story:
    """A client starts a program, raises the events that it needs, and sees it end."""

    #: Under which name it is registered.
    workflow = "program"

    def __init__(self, world: World, id: str, ops: list[Op]) -> None:
        self.world = world
        self.id = id
        self.ops = ops
        self.rng = random.Random(f"{world.seed}-story-{id}")
        self.actor = ActorId(TYPE, id)
        self._tokens = 0
        #: What the client waits for: the node, and since when.
        self.asking: object = None

    async def run(self) -> None:
        await self.world.sleep(self.rng.random() * 2.0)
        await self.start()
        await self.raise_events()

    # --- what clients do -----------------------------------------------------------------------------------------------

    async def request(self, do: Callable[[WorkflowClient], Awaitable[Any]], *, app: str = "sim") -> Any:
        """Tries on any node until there is an answer. Errors of the request itself are raised."""
        world = self.world
        while True:
            nodes = world.living(app)
            if not nodes:
                await world.sleep(0.1)
                continue
            try:
                return await self._ask(self.rng.choice(nodes), do)
            except (NodeLost, Unavailable):
                await world.sleep(0.05)

    async def _ask(self, node: SimNode, do: Callable[[WorkflowClient], Awaitable[Any]]) -> Any:
        self.asking = node.id, self.world.loop.now, do.__qualname__
        result = await node.ask(do)
        self.asking = None
        return result

    async def start(self) -> None:
        """All tries are one start: a try that comes late must not begin it again."""
        data = msgspec.json.encode({"ops": self.ops, "out": []})
        start_id = self.rng.randbytes(16).hex()
        await self.request(lambda c: c._workflows.start(self.workflow, data, self.id, start_id=start_id))

    async def raise_events(self) -> None:
        for name, count in events_of(self.ops):
            if count < 0:
                # Races with the end of the wait, and of the instance.
                if self.rng.random() < 0.7:
                    self.world.spawn(self._race(name))
                continue
            for _ in range(count):
                await self.world.sleep(self.rng.choice([0.0, 0.0, 0.05, 0.5]))
                await self.raise_event(name)

    def awaited(self) -> list[str]:
        """The events that it may wait for, each as often as it does."""
        return [name for name, count in events_of(self.ops) for _ in range(max(count, 0))]

    async def resume(self) -> None:
        await self.request(lambda c: c.resume_workflow(self.id))

    async def raise_event(self, name: str) -> None:
        """Until it is acknowledged: each try has a token of its own, and takes effect at most once."""
        while True:
            nodes = self.world.living()
            self._tokens += 1
            data = {"t": f"{self.id}:{name}:{self._tokens}", "v": f"value of {name}"}
            if not nodes:
                await self.world.sleep(0.1)
                continue
            try:
                await self._ask(
                    self.rng.choice(nodes), lambda c, d=data: c.raise_workflow_event(self.id, name, data=d)
                )
            except (NodeLost, Unavailable):
                await self.world.sleep(0.05)
            except InvalidState:
                return  # finished by an earlier try
            else:
                return

    async def _race(self, name: str) -> None:
        await self.world.sleep(self.rng.random() * 0.5)
        with contextlib.suppress(InstanceNotFound):
            await self.raise_event(name)

    # --- what must come of it --------------------------------------------------------------------------------------------

    @property
    def shadow(self) -> Shadow | None:
        return self.world.checker.shadows.get(self.actor)

    def check(self) -> None:
        self.check_result(self.id, self.ops)
        for app, instance_id, ops in detached_of(self.ops):
            self.check_result(instance_id, ops, app)

    def check_result(self, instance_id: str, ops: list[Op], app: str = "sim") -> None:
        checker = self.world.checker
        shadow = checker.shadows.get(ActorId(workflow_type("default", app), instance_id))
        checker.require(shadow is not None, "an instance is gone", instance_id)
        assert shadow is not None
        checker.require(shadow.finished, "an instance has not finished", instance_id, shadow.meta)
        if checker.crashed:
            return
        end = shadow.history[-1]
        assert isinstance(end, ExecutionCompleted)
        wanted = expected(ops)
        if wanted is None:
            checker.require(end.status == "failed", "a program should have failed", instance_id, end)
            return
        checker.require(end.status == "completed", "a program should have completed", instance_id, end)
        found = msgspec.json.decode(end.result or b"null")
        checker.require(fits(found, wanted), "another result than expected", instance_id, found, wanted)
        tokens = [each for each in found if isinstance(each, str) and each.count(":") >= 2]
        checker.require(len(tokens) == len(set(tokens)), "an event was consumed twice", instance_id, tokens)


class PausedStory(Story):
    """It is suspended and resumed while it runs."""

    async def run(self) -> None:
        await self.world.sleep(self.rng.random())
        await self.start()
        pauses = self.world.spawn(self._pause())
        await self.raise_events()
        await pauses

    async def _pause(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            await self.world.sleep(self.rng.random() * 0.3)
            try:
                await self.request(lambda c: c.pause_workflow(self.id))
                await self.world.sleep(self.rng.random() * 0.5)
                await self.resume()
            except InvalidState:
                return


class TerminatedStory(Story):
    """It is terminated at some time, with its children."""

    async def run(self) -> None:
        await self.world.sleep(self.rng.random())
        await self.start()
        await self.world.sleep(self.rng.choice([0.0, 0.01, 0.05, 0.3, 1.0]) * self.rng.random())
        self.world.checker.terminated.add(self.id)
        await self.request(lambda c: c.terminate_workflow(self.id, reason="enough"))

    def check(self) -> None:
        checker = self.world.checker
        for shadow in checker.shadows.values():
            if shadow.actor.id == self.id or shadow.actor.id.startswith(f"{self.id}:"):
                ended = shadow.finished or shadow.purged
                checker.require(ended, "a terminated tree goes on", shadow.actor.id, shadow.meta)


class PurgedStory(Story):
    """It is waited for and purged; then its id may be used again."""

    def __init__(self, world: World, id: str, ops: list[Op], again: list[Op] | None, *, purge: bool) -> None:
        super().__init__(world, id, ops)
        self._first = ops
        self._again = again
        self._purge = purge

    async def run(self) -> None:
        await super().run()
        await self.request(lambda c: c.wait_for_workflow_completion(self.id))
        if self._purge:
            await self._purge_it()
        if self._again is not None:
            self.ops = self._again
            await super().run()

    def awaited(self) -> list[str]:
        again = self._again or []
        return [name for name, count in events_of([*self._first, *again]) for _ in range(max(count, 0))]

    async def _purge_it(self) -> None:
        # Not found: an earlier try that was not answered.
        with contextlib.suppress(InstanceNotFound):
            await self.request(lambda c: c.purge_workflow(self.id))
        shadow, checker = self.shadow, self.world.checker
        gone = shadow is None or shadow.purged or checker.rolled_back
        checker.require(gone, "purged, and still there", self.id)

    def check(self) -> None:
        if self._again is not None or not self._purge:
            self.check_result(self.id, self.ops)
            return
        shadow = self.shadow
        self.world.checker.require(shadow is None or shadow.purged, "purged, and back again", self.id)


class ForcedStory(Story):
    """It is purged by force, whatever it is doing, with its children. Its id can be used again at once."""

    def __init__(self, world: World, id: str, ops: list[Op], again: list[Op]) -> None:
        super().__init__(world, id, ops)
        self._again = again

    async def run(self) -> None:
        await self.world.sleep(self.rng.random())
        await self.start()
        await self.world.sleep(self.rng.choice([0.0, 0.01, 0.1, 0.5, 2.0]) * self.rng.random())
        self.world.checker.forced.add(self.id)
        with contextlib.suppress(InstanceNotFound):
            await self.request(lambda c: c.purge_workflow(self.id, force=True))
        gone = (shadow := self.shadow) is None or shadow.purged or self.world.checker.rolled_back
        self.world.checker.require(gone, "purged by force, and still there", self.id)
        self.ops = self._again
        await self.start()
        await self.raise_events()

    def check(self) -> None:
        checker = self.world.checker
        self.check_result(self.id, self.ops)
        for shadow in checker.shadows.values():
            if shadow.actor.id.startswith(f"{self.id}:"):
                checker.require(shadow.finished or shadow.purged, "a purged tree goes on", shadow.actor.id)


class SendingStory(Story):
    """It sends events to another program, which waits for them."""

    def __init__(self, world: World, id: str, ops: list[Op], receiver: Story) -> None:
        super().__init__(world, id, ops)
        self.receiver = receiver

    async def run(self) -> None:
        await self.receiver.start()
        await super().run()

    def check(self) -> None:
        super().check()
        self.receiver.check()


class PoisonStory(Story):
    """Something that it writes can never be stored: it alone stalls, and says why."""

    def check(self) -> None:
        checker, shadow = self.world.checker, self.shadow
        checker.require(
            shadow is not None and shadow.meta is not None, "the poison instance is gone", self.id
        )
        assert shadow is not None
        assert shadow.meta is not None
        checker.require(
            shadow.meta.status == "stalled" and shadow.meta.stall == "rejected" and shadow.meta.reason,
            "an instance that cannot be stored is not shown as stalled",
            shadow.meta,
        )


class LethalStory(Story):
    """Each time that its code runs, or its activity, the process ends. It alone is set aside, before too many have."""

    #: Processes that may end by it: the first time nobody suspects it, then each death is counted.
    DEATHS = 4

    async def run(self) -> None:
        await super().run()
        await self.world.sleep(20.0)

    def check(self) -> None:
        checker, shadow = self.world.checker, self.shadow
        checker.require(
            shadow is not None and shadow.meta is not None, "what kills processes is gone", self.id
        )
        assert shadow is not None
        assert shadow.meta is not None
        stalled = shadow.meta.status == "stalled" and shadow.meta.stall == "crashed"
        checker.require(stalled or shadow.finished, "what kills processes is not set aside", shadow.meta)
        deaths = self.world.deaths
        checker.require(deaths <= self.DEATHS, "too many processes died", deaths)
        others = checker.convicted - {self.id}
        checker.require(not others, "taken for what kills processes", others)


class CorruptStory(Story):
    """Its stored state becomes unreadable: it alone fails, and whoever asks is told."""

    async def run(self) -> None:
        await super().run()
        await self.world.sleep(1.0)
        record = self.world.server.memory.actors[self.actor]
        record.values["metadata"] = b"\xc1 not readable"
        # A write that is on its way would make it readable again.
        record.version = b"damaged"
        self.world.checker.corrupted.add(self.actor)
        self.world.trace(self.id, "corrupted")
        for node in self.world.living(None):
            self.world.kill(node)
            self.world.add_node(node.name)
        try:
            await self.request(lambda c: c.raise_workflow_event(self.id, "any"))
        except PerdureError as error:
            told = "metadata" in error.message
            self.world.checker.require(told, "an unreadable instance gives no reason", error)
        else:
            self.world.checker.violated("an unreadable instance took an event")

    def check(self) -> None:
        pass


def stories(world: World, count: int, *, apps: bool = False) -> list[Story]:
    """A seeded mix. `apps`: there is another app."""
    rng = random.Random(f"{world.seed}-stories")
    maker = Maker(rng, apps=apps)
    found: list[Story] = []
    for number in range(count):
        id = f"i{number}"
        ops = maker.program(size=4)
        kind = rng.randrange(9)
        match kind:
            case 0 | 1 | 2:
                found.append(Story(world, id, ops))
            case 3:
                found.append(PausedStory(world, id, ops))
            case 4:
                found.append(TerminatedStory(world, id, ops))
            case 5:
                again = maker.program(size=3) if rng.random() < 0.7 else None
                found.append(PurgedStory(world, id, ops, again, purge=rng.random() < 0.7))
            case 6 | 7:
                found.append(_sending(world, id, maker, rng))
            case 8:
                found.append(ForcedStory(world, id, ops, maker.program(size=2)))
    return found


def _sending(world: World, id: str, maker: Maker, rng: random.Random) -> Story:
    """Some of the sends come from executions that end at once, or from one that begins anew."""
    names = [maker.name("sent") for _ in range(rng.randint(1, 4))]
    receiver = Story(world, f"{id}-receiver", [["event", name] for name in names])
    ops: list[Op] = []
    for name in names:
        ops.append(["send", receiver.id, name, f"value of {name}"])
        if rng.random() < 0.5:
            ops.append(rng.choice([["act", 1], ["again"], ["timer", 10]]))
    return SendingStory(world, id, ops, receiver)


def long(world: World, number: int) -> Story:
    """More than a thousand events, before and after something that it waits for."""
    many: Op = ["all", *range(255)]
    ops: list[Op] = [many, many, ["event", f"long{number}"], ["act", 1], ["again"], ["act", 2]]
    return Story(world, f"long{number}", ops)


def lethal(world: World, kind: str) -> LethalStory:
    """`kind`: its first turn kills, its second, or an activity of it."""
    ops: dict[str, list[Op]] = {
        "start": [["die"]],
        "turn": [["act", 1], ["die"]],
        "activity": [["act", 1], ["deadly", 0.1]],
    }
    return LethalStory(world, "lethal", ops[kind])


def poison(world: World, id: str) -> PoisonStory:
    return PoisonStory(world, id, [["act", 1], ["unstorable"], ["act", 2]])


def corrupt(world: World, id: str) -> CorruptStory:
    return CorruptStory(world, id, [["act", 1], ["timer", 86_400_000]])
