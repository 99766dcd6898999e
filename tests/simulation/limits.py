"""Activities of which only so many may run: what runs is counted over all processes, at every start. And workflows of
which only so many instances may be under way, as the store says.

A process that stands still, or that nobody hears, still runs what it runs. Only what has run for longer than the time
of grace is not counted: placement has to give up on it at some time.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from perdure.errors import InvalidState
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, Commit, TypePartition
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.registry import Registry
from perdure.workflow.state import Details, RuntimeStatus
from tests.simulation.ledger import LEDGER
from tests.simulation.loop import PROCESS, SimLoop
from tests.simulation.network import LATEST, base
from tests.simulation.node import SimNode
from tests.simulation.process import Process
from tests.simulation.programs import Op
from tests.simulation.programs import registry as programs
from tests.simulation.stories import PausedStory, PurgedStory, Story, TerminatedStory
from tests.simulation.world import World

#: How many run in the cluster, and on one node.
SCARCE = 2
SINGLE = 1
#: How many instances are under way in the cluster, and on one node.
NARROW = 2
TIGHT = 1
#: Seconds that one takes at most, unless its process stands still, and for which it counts although nobody hears of
#: its process.
LONGEST = 1.5
GRACE = 2.5
#: Seconds for which a share is good.
SHARE = 2.0


class Run(NamedTuple):
    process: Process
    began: float


class Uses:
    """What runs now, by the name of the activity."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"{world.seed}-uses")
        self._runs: dict[str, dict[Run, None]] = {}
        self.most = 0

    async def run(self, name: str, ctx: ActivityContext) -> None:
        process = PROCESS.get()
        assert process is not None
        run = Run(process, self._world.loop.now + self._rng.random() / 1e9)
        runs = self._runs.setdefault(name, {})
        runs[run] = None
        self._check(name, process)
        try:
            await LEDGER.get().run(ctx)
            await process.sleep(self._rng.random() * LONGEST)
        finally:
            runs.pop(run, None)

    def _check(self, name: str, process: Process) -> None:
        now = self._world.loop.now
        runs = [run for run in self._runs[name] if not run.process.dead and now - run.began <= GRACE]
        if name == "single":
            here = [run for run in runs if run.process is process]
            self._world.checker.require(len(here) <= SINGLE, "too many run on one node", name, here)
        else:
            self.most = max(self.most, len(runs))
            self._world.checker.require(len(runs) <= SCARCE, "too many run in the cluster", name, runs)


class Starts:
    """Which instances are under way, by what the store says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: dict[str, dict[ActorId, None]] = {"narrow": {}, "tight": {}}
        #: When each was last let in.
        self._admitted: dict[ActorId, float] = {}
        self.most = 0

    def watch(self, node: SimNode) -> None:
        """Notes whom this node lets in, and when."""
        admission, process = node.runtime.engine.admission, node.process
        assert admission is not None
        let_in = admission._admitted

        def admitted(entry: Any) -> None:
            self._admitted[entry.actor] = process.monotonic()
            let_in(entry)

        admission._admitted = admitted  # type: ignore[method-assign]

    def committed(self, process: Process, commit: Commit) -> None:
        row = commit.row
        if commit.delete_row:
            for found in self._under_way.values():
                found.pop(commit.actor, None)
        if row is None or row.name not in self._under_way:
            return
        under_way = self._under_way[row.name]
        started = msgspec.msgpack.decode(row.details, type=Details).started is not None
        if RuntimeStatus(row.status).finished or not started:
            under_way.pop(row.actor, None)
        elif row.actor not in under_way:
            under_way[row.actor] = None
            self._check(row.name, process, commit)

    def _check(self, name: str, process: Process, commit: Commit) -> None:
        under_way = list(self._under_way[name])
        require = self._world.checker.require
        if name == "narrow":
            self.most = max(self.most, len(under_way))
            require(len(under_way) <= NARROW, "too many are under way in the cluster", under_way)
            return
        node = self._world.nodes.get(base(process))
        if node is None or node.process is not process:
            # What a dead process had sent.
            return
        owned = node.runtime.host.owned
        if TypePartition(commit.actor.type, commit.partition) not in owned:
            # The last turn of a partition that was lost: it counts where that is now.
            return
        # What came with partitions after it was let in could not be known.
        partitions, at = self._world.partitions, self._admitted[commit.actor]
        here = []
        for actor in under_way:
            held = owned.get(TypePartition(actor.type, partition_of(actor.id, partitions)))
            if actor == commit.actor or (held is not None and held.since <= at):
                here.append(actor)
        require(len(here) <= TIGHT, "too many are under way on one node", process, here)


_USES: dict[SimLoop, Uses] = {}
_STARTS: dict[SimLoop, Starts] = {}
registry = Registry()
for _definition in (*programs.workflows.values(), *programs.activities.values()):
    if _definition.name == "narrow":
        registry.workflow(name="narrow", global_max_concurrent=NARROW)(_definition.fn)
    elif _definition.name == "tight":
        registry.workflow(name="tight", max_concurrent=TIGHT)(_definition.fn)
    elif _definition.name in programs.workflows:
        registry.workflow(name=_definition.name)(_definition.fn)
    else:
        registry.activity(name=_definition.name)(_definition.fn)


def starts_of(loop: SimLoop) -> Starts:
    return _STARTS[loop]


def uses_of(loop: SimLoop) -> Uses:
    return _USES[loop]


def _uses() -> Uses:
    process = PROCESS.get()
    assert process is not None
    return uses_of(process.loop)


@registry.activity(
    name="scarce", global_max_concurrent=SCARCE, global_grace=timedelta(seconds=GRACE), max_concurrent=SCARCE
)
async def scarce(ctx: ActivityContext, number: int) -> int:
    await _uses().run("scarce", ctx)
    return number


@registry.activity(name="single", max_concurrent=SINGLE)
async def single(ctx: ActivityContext, number: int) -> int:
    await _uses().run("single", ctx)
    return number


def prepare(world: World) -> None:
    """Before there are nodes."""
    world.registry = registry
    world.placement_options = replace(world.placement_options, share=SHARE)
    _USES.clear()
    _USES[world.loop] = Uses(world)
    _STARTS.clear()
    starts = _STARTS[world.loop] = Starts(world)
    committed = world.checker.committed

    def watched(process: Process, commit: Commit) -> None:
        committed(process, commit)
        starts.committed(process, commit)

    world.checker.committed = watched  # type: ignore[method-assign]
    add_node = world.add_node

    def added(name: str) -> SimNode:
        node = add_node(name)
        starts.watch(node)
        return node

    world.add_node = added  # type: ignore[method-assign]


def stories(world: World, count: int, of: str) -> list[Story]:
    """Programs that want much of what is scarce at once, with rests between, in which it may go to others; or many
    instances of what may be under way only so often."""
    rng = random.Random(f"{world.seed}-limited")
    if of == "activities":
        return [rng.choice(KINDS)(world, f"i{number}", _program(rng)) for number in range(count)]
    told = []
    for number in range(count):
        story = _instance(world, f"i{number}", rng)
        story.workflow = rng.choice(["narrow", "narrow", "tight"])
        told.append(story)
    return told


def _instance(world: World, id: str, rng: random.Random) -> Story:
    kind = rng.choice([*KINDS, Paused, Paused, PurgedStory])
    ops, again = ([["timer", rng.choice([0, 10, 300])], *_program(rng)[:1]] for _ in range(2))
    if kind is PurgedStory:
        return PurgedStory(world, id, ops, again if rng.random() < 0.7 else None, purge=rng.random() < 0.7)
    return kind(world, id, ops)


class Paused(PausedStory):
    """Resumed once more at the end: a pause whose node died before it answered may come late."""

    async def run(self) -> None:
        await super().run()
        while not self.world.healing:
            await self.world.sleep(0.5)
        await self.world.sleep(LATEST)
        with contextlib.suppress(InvalidState):
            await self.request(lambda client: client.resume_workflow(self.id))


KINDS: tuple[type[Story], ...] = (Story, Story, Story, Paused, TerminatedStory)


def _program(rng: random.Random) -> list[Op]:
    ops: list[Op] = []
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(["scarce", "scarce", "single"])
        ops.append(["limited", name, *(rng.randint(1, 99) for _ in range(rng.randint(1, 4)))])
        if rng.random() < 0.4:
            ops.append(rng.choice([["timer", 1000], ["act", 1], ["again"]]))
    return ops
