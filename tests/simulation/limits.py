"""Activities of which only so many may run: what runs is counted over all processes, at every start.

A process that stands still, or that nobody hears, still runs what it runs. Only what has run for longer than the time
of grace is not counted: placement has to give up on it at some time.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.registry import Registry
from tests.simulation.ledger import LEDGER
from tests.simulation.loop import PROCESS, SimLoop
from tests.simulation.process import Process
from tests.simulation.programs import Op
from tests.simulation.programs import registry as programs
from tests.simulation.stories import PausedStory, Story, TerminatedStory
from tests.simulation.world import World

#: How many run in the cluster, and on one node.
SCARCE = 2
SINGLE = 1
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

    async def run(self, name: str) -> None:
        process = PROCESS.get()
        assert process is not None
        run = Run(process, self._world.loop.now + self._rng.random() / 1e9)
        runs = self._runs.setdefault(name, {})
        runs[run] = None
        self._check(name, process)
        try:
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


_USES: dict[SimLoop, Uses] = {}
registry = Registry()
for _definition in (*programs.workflows.values(), *programs.activities.values()):
    _register = registry.workflow if _definition.name in programs.workflows else registry.activity
    _register(name=_definition.name)(_definition.fn)


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
    await LEDGER.get().run(ctx)
    await _uses().run("scarce")
    return number


@registry.activity(name="single", max_concurrent=SINGLE)
async def single(ctx: ActivityContext, number: int) -> int:
    await LEDGER.get().run(ctx)
    await _uses().run("single")
    return number


def prepare(world: World) -> None:
    """Before there are nodes."""
    world.registry = registry
    world.placement_options = replace(world.placement_options, share=SHARE)
    _USES.clear()
    _USES[world.loop] = Uses(world)


def stories(world: World, count: int) -> list[Story]:
    """Programs that want much of what is scarce at once, with rests between, in which it may go to others."""
    rng = random.Random(f"{world.seed}-limited")
    return [rng.choice(KINDS)(world, f"i{number}", _program(rng)) for number in range(count)]


KINDS = (Story, Story, Story, PausedStory, TerminatedStory)


def _program(rng: random.Random) -> list[Op]:
    ops: list[Op] = []
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(["scarce", "scarce", "single"])
        ops.append(["limited", name, *(rng.randint(1, 99) for _ in range(rng.randint(1, 4)))])
        if rng.random() < 0.4:
            ops.append(rng.choice([["timer", 1000], ["act", 1], ["again"]]))
    return ops
