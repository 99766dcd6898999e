"""One run: a seed, a scenario, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from perdure.actors.expiry import EXPIRE
from perdure.client import WorkflowClient
from perdure.errors import PerdureError
from perdure.workflow import rebuild, stall
from tests.simulation import cancels, limits, reruns, starts, whole_rules
from tests.simulation.counting import CountStory, counting
from tests.simulation.loop import Violation
from tests.simulation.network import LATEST
from tests.simulation.programs import Maker, app_of
from tests.simulation.rings import SPEC, RingStory, ringing
from tests.simulation.scenarios import SCENARIOS, Scenario, disturb, heal
from tests.simulation.shadow import Shadow
from tests.simulation.stories import (
    TYPE,
    CorruptStory,
    LethalStory,
    PoisonStory,
    SendingStory,
    Story,
    corrupt,
    lethal,
    long,
    poison,
    stories,
)
from tests.simulation.world import TraceLog, World

#: Seconds without faults within which everything must have come to its end.
PATIENCE = 150.0


class Failed(AssertionError):
    """A run that found something, with all that is needed to see it again."""


def simulate(seed: int, scenario: str, *, verbose: bool = False) -> World:
    """Runs one seed of a scenario; raises `Failed` with the trace of its last events."""
    how = SCENARIOS[scenario]
    mixed = zlib.crc32(f"{scenario}-{seed}".encode())
    world = World(mixed, idle=how.idle)
    world.skewed = how.skewed
    if how.limited:
        limits.prepare(world)
    try:
        with _logs(world if verbose else None), _replays_that_yield(how.long > 0):
            world.loop.run(_play(world, how))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the run found
        raise Failed(_report(seed, scenario, world, error)) from (error if verbose else None)
    finally:
        with _logs(None):
            world.close()
    return world


async def _play(world: World, how: Scenario) -> None:
    rng = random.Random(f"{world.seed}-faults")
    world.more_actors = (SPEC,) if how.rings else ()
    world.add_leader()
    names = [f"n{number}" for number in range(how.nodes)] + [f"o{number}" for number in range(how.others)]
    for name in names:
        world.add_node(name)
    told = _stories(world, how)
    if how.poison:
        told += [poison(world, "poison"), corrupt(world, "corrupt")]
    told += [long(world, number) for number in range(how.long)]
    if how.lethal:
        told.append(lethal(world, how.lethal))
    world.ledger.longest = how.longest_activity
    counters = [*counting(world, how.counters, longest=how.longest_turn), *ringing(world, how.rings)]
    world.graceful = world.checker.graceful = how.graceful
    clients = [world.spawn(client.run()) for client in counters]
    tasks = [world.spawn(_surviving(story) if how.rollback else story.run()) for story in told]
    nemesis = world.spawn(disturb(world, how, rng))
    if how.rollback:
        await _roll_back(world, how, rng)
    else:
        await world.sleep(how.seconds)
    heal(world, names)
    await nemesis
    if how.rollback:
        world.spawn(_go_on(world, told))
    await _told(world, [*told, *counters], [*tasks, *clients])
    await _rest(world, told)
    # Messages that are late find everything at rest, and leave it so.
    await world.sleep(LATEST)
    await _rest(world, told)
    world.resting = True
    _check(world, told)
    for count in world.counts:
        count.check()
    if how.rollback:
        await _fresh(world)


def _stories(world: World, how: Scenario) -> list[Story]:
    if how.limited:
        return limits.stories(world, how.stories, how.limited)
    if how.cancels:
        return cancels.stories(world, how.stories)
    if how.reruns:
        return reruns.stories(world, how.stories)
    if how.starts:
        return starts.stories(world, how.stories)
    return stories(world, how.stories, apps=how.others > 0)


async def _roll_back(world: World, how: Scenario, rng: random.Random) -> None:
    """The store goes back to what it was: a replica that lags takes over, while everything goes on."""
    for _ in range(2):
        await world.sleep(rng.random() * how.seconds / 4)
        state = world.server.memory.snapshot()
        await world.sleep(rng.random() * how.seconds / 4)
        world.trace("store", "rolled back")
        world.server.roll_back(state, rng.choice([0.0, 0.2, 1.0]))
        world.checker.roll_back()
        for count in world.counts:
            count.rolled_back()
    await world.sleep(how.seconds / 4)


async def _surviving(story: Story) -> None:
    """What its client did may be lost, and what it does then may be refused: it finds nothing wrong with that."""
    try:
        await story.run()
    except PerdureError as error:
        story.world.trace(story.id, "gives up", repr(error))


async def _go_on(world: World, told: list[Story]) -> None:
    """Clients do again what may be lost. Whatever is still there has to come to its end by that."""
    stories = {story.actor: story for story in told} | {
        story.receiver.actor: story.receiver for story in told if isinstance(story, SendingStory)
    }
    while not world.resting:
        for actor, shadow in list(world.checker.shadows.items()):
            story = stories.get(actor)
            if story is None or shadow.active_since is None or shadow.meta is None:
                continue
            with contextlib.suppress(PerdureError):
                if shadow.meta.status == "suspended":
                    await story.resume()
                for name in story.awaited():
                    await story.raise_event(name)
        await world.sleep(1.0)


async def _fresh(world: World) -> None:
    """What begins now must work as if nothing had been."""
    story = Story(world, "fresh", Maker(random.Random(world.seed)).program(size=3))
    await story.run()
    await story.request(lambda client: client.wait_for_workflow_completion("fresh"))
    story.check_result(story.id, story.ops)


async def _told(
    world: World, told: list[Story | CountStory | RingStory], tasks: list[asyncio.Task[None]]
) -> None:
    """Until every client has its answers."""
    until = world.loop.now + PATIENCE
    while not all(task.done() for task in tasks):
        await world.sleep(0.2)
        if world.loop.now > until:
            stuck = [
                (story.id, type(story).__name__, story.ops, story.asking, _lines(task))
                for story, task in zip(told, tasks, strict=True)
                if not task.done()
            ]
            world.checker.violated(f"clients have no answer {PATIENCE:.0f} s after the last fault: {stuck}")
    for task in tasks:
        task.result()


# --- the end -------------------------------------------------------------------------------------------------------------


async def _rest(world: World, told: list[Story]) -> None:
    """Until nothing is owed and no timer is left."""
    excepted = {story.actor for story in told if isinstance(story, PoisonStory | CorruptStory | LethalStory)}
    until = world.loop.now + PATIENCE
    while True:
        await world.sleep(0.5)
        restless = []
        for actor, record in world.server.memory.actors.items():
            if actor in excepted:
                continue
            shadow = world.checker.shadows.get(actor)
            if shadow is not None and shadow.meta is not None and shadow.meta.status == "stalled":
                await _resume(world, told[0], shadow)
            timers = [name for name in record.reminders if name not in ("forget", EXPIRE)]
            if record.recover or timers or (shadow is not None and shadow.active_since is not None):
                restless.append((actor.id, record.recover, timers, sorted(record.values)))
        # What a terminated instance had asked for runs all the same if it is not told otherwise: when there is a share
        # for it, which takes a while after leaders have changed.
        running = [node.id for node in world.living(None) if node.runtime.engine.activities.known]
        if not restless and not running:
            return
        if world.loop.now > until:
            world.trace("activities known to", running)
            for actor, *rest in restless:
                world.trace("restless", actor, *rest, *_where(world, actor))
            world.checker.violated(f"not at rest {PATIENCE:.0f} s after the last fault: {restless}")


def _lines(task: asyncio.Task[None]) -> list[str]:
    """Where a client's code waits."""
    found: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None and hasattr(waiting, "cr_frame"):
        if waiting.cr_frame is not None:
            found.append(f"{waiting.__qualname__}:{waiting.cr_frame.f_lineno}")
        waiting = waiting.cr_await
    return found


def _where(world: World, instance_id: str) -> list[str]:
    found = []
    for node in world.living(None):
        for actor, activation in node.runtime.host.activations.items():
            if actor.id == instance_id:
                found.append(f"{node.id}: {activation!r}")
        for task, out in node.runtime.engine.dispatcher._out.items():
            if task.actor.id == instance_id:
                found.append(f"{node.id} has sent task {task.task_id} to {out.node!r} at {out.since:.3f}")
        for execution_id, task_id in node.runtime.engine.activities._known:
            found.append(f"{node.id} knows activity {execution_id[:6]} {task_id}")
    return found


async def _resume(world: World, story: Story, shadow: Shadow) -> None:
    meta = shadow.meta
    assert meta is not None
    instance_id = shadow.actor.id
    crashed = meta.stall == stall.CRASHED and instance_id in world.checker.crashed
    world.checker.require(crashed, "an instance stalled", instance_id, meta.stall, meta.reason)

    async def resume(client: WorkflowClient) -> None:
        await client.resume_workflow(instance_id)

    await story.request(resume, app=app_of(shadow.actor))


def _check(world: World, told: list[Story]) -> None:
    checker = world.checker
    for shadow in checker.shadows.values():
        if shadow.history:
            whole_rules.replay(checker, shadow)
    for story in () if checker.rolled_back else told:
        story.check()
    for asked in checker.asked:
        unanswered = asked.process.running and asked.message.method != "wait"
        checker.require(
            not unanswered, "a message was never answered", asked.message.method, asked.message.target
        )
    _check_activities(world)
    for node in world.living(None):
        runtime = node.runtime
        checker.require(not runtime.committer.pending, "a commit is still pending", node.id)
        checker.require(not runtime.host.reminders._in_flight, "a reminder is still in flight", node.id)
        checker.require(not runtime.engine.activities.known, "an activity's answer is still out", node.id)
        out = list(runtime.engine.dispatcher._out)
        checker.require(not out, "an activity request is still out", node.id, out)


def _check_activities(world: World) -> None:
    """What was asked for has run, unless its instance was ended from outside."""
    checker = world.checker
    if checker.crashed or checker.rolled_back:
        return
    for key in checker.scheduled - checker.ended_runs - checker.nowhere - checker.dropped:
        root = key.instance.split(":")[0]
        ended = root in checker.terminated | checker.forced or root.startswith(
            ("detached-", "poison", "corrupt", "lethal")
        )
        checker.require(ended, "an activity never ran", key)


# --- what is told ----------------------------------------------------------------------------------------------------------


def _report(seed: int, scenario: str, world: World, error: Exception) -> str:
    lines = [" ".join(map(str, line)) for line in world.lines]
    kind = "" if isinstance(error, Violation) else f"{type(error).__name__}: "
    return "\n".join(
        [
            *lines,
            "",
            f"{kind}{error}",
            f"seed {seed} of {scenario}: python -m tests.simulation --scenario {scenario} --start {seed} --seeds 1 -v",
        ]
    )


@contextmanager
def _replays_that_yield(yields: bool) -> Iterator[None]:
    """No time passes while code runs here: a replay would never let others run in between."""
    usual = rebuild.SLICE
    rebuild.SLICE = -1.0 if yields else usual
    try:
        yield
    finally:
        rebuild.SLICE = usual


def quietly() -> AbstractContextManager[None]:
    """Without the engine's log, and without the garbage collector, whose time would be chance."""
    return _logs(None)


@contextmanager
def _logs(world: World | None) -> Iterator[None]:
    """The engine's log goes into the trace, or nowhere."""
    logger = logging.getLogger("perdure")
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    collecting = gc.isenabled()
    gc.disable()
    try:
        if world is None:
            logger.setLevel(logging.CRITICAL + 1)
        else:
            logger.handlers, logger.propagate = [TraceLog(world)], False
            logger.setLevel(logging.DEBUG)
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
        if collecting:
            gc.enable()


__all__ = ["TYPE", "Failed", "simulate"]
