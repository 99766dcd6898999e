"""Workflows that are cancelled and undo what they have done, tasks that lose their use, and time limits."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import msgspec

from perdure.errors import InstanceNotFound, InvalidState
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.context import WorkflowContext
from perdure.workflow.events import CancelRequested, ExecutionCompleted, TaskCompleted, TaskScheduled
from perdure.workflow.retry import RetryPolicy
from perdure.workflow.tasks import (
    ActivityTimeout,
    ChildFailedError,
    TaskCancelledError,
    WorkflowCancelled,
    when_all,
)
from tests.simulation.ledger import LEDGER
from tests.simulation.loop import PROCESS
from tests.simulation.programs import registry
from tests.simulation.stories import Story
from tests.simulation.world import World

Step = list[Any]
SOON = RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=2)
#: Seconds after which what nobody has cancelled ends by itself: its node may not have been told.
STUCK = 6.0


@registry.activity(name="do")
async def do(ctx: ActivityContext, what: str) -> str:
    await LEDGER.get().run(ctx)
    return what


@registry.activity(name="undo")
async def undo(ctx: ActivityContext, what: str) -> str:
    await LEDGER.get().run(ctx)
    return what


@registry.activity(name="stuck")
async def stuck(ctx: ActivityContext) -> str:
    process = PROCESS.get()
    assert process is not None
    with LEDGER.get().noted(ctx, process):
        await process.sleep(STUCK)
    return "ended"


@registry.activity(name="counted", heartbeat_timeout=timedelta(milliseconds=100))
async def counted(ctx: ActivityContext, number: int) -> int:
    """Falls silent once, and goes on from there."""
    process = PROCESS.get()
    assert process is not None
    begin = ctx.heartbeat_details or 0
    with LEDGER.get().noted(ctx, process):
        for done in range(begin, number):
            ctx.heartbeat(done)
            if done == number // 2 and ctx.attempt == 1:
                await process.sleep(STUCK)
    return number


@registry.workflow(name="undoing")
async def undoing(ctx: WorkflowContext, steps: list[Step]) -> list[Any]:
    """Each step is undone, the last one first, if it is cancelled."""
    done: list[str] = []
    out: list[Any] = []
    try:
        for number, step in enumerate(steps):
            out.append(await _perform(ctx, step, done, f"step {number}"))
        await ctx.wait_for_external_event("never")
    except WorkflowCancelled:
        for what in reversed(done):
            await ctx.call_activity(undo, input=what)
        if steps[0][0] == "catches":
            return ["caught"]
        raise
    return out


async def _perform(ctx: WorkflowContext, step: Step, done: list[str], what: str) -> Any:
    match step:
        case ["do"] | ["catches"]:
            done.append(await ctx.call_activity(do, input=what))
            return "done"
        case ["both"]:

            async def branch(name: str) -> None:
                done.append(await ctx.call_activity(do, input=name))

            await when_all([branch(f"{what} a"), branch(f"{what} b")])
            return "both"
        case ["given_up", milliseconds]:
            task = ctx.call_activity(stuck)
            await ctx.create_timer(timedelta(milliseconds=milliseconds))
            task.cancel()
            try:
                return await task
            except TaskCancelledError:
                return "given up"
        case ["late", milliseconds]:
            try:
                limit = timedelta(milliseconds=milliseconds)
                return await ctx.call_activity(stuck, retry_policy=SOON, start_to_close_timeout=limit)
            except ActivityTimeout:
                return "late"
        case ["late in all", milliseconds]:
            try:
                limit = timedelta(milliseconds=milliseconds)
                return await ctx.call_activity(stuck, retry_policy=SOON, schedule_to_close_timeout=limit)
            except ActivityTimeout:
                return "late"
        case ["counted", number]:
            try:
                return await ctx.call_activity(counted, input=number, retry_policy=SOON)
            except ActivityTimeout:
                return "late"
        case ["child", steps]:
            try:
                return await ctx.call_child_workflow(undoing, input=steps)
            except ChildFailedError as error:
                return error.details.type
        case ["child given up", steps, milliseconds]:
            child = ctx.call_child_workflow(undoing, input=steps)
            try:
                await ctx.create_timer(timedelta(milliseconds=milliseconds))
            finally:
                # What nobody waits for goes on by itself.
                child.cancel()
            return "given up"
    raise AssertionError(step)


class Cancelled(Story):
    """It never ends by itself, but when it is cancelled, once or twice, from the first moment on."""

    workflow = "undoing"

    def __init__(self, world: World, id: str, steps: list[Step], *, pauses: bool) -> None:
        super().__init__(world, id, [])
        self.steps = steps
        self.pauses = pauses

    async def run(self) -> None:
        await self.world.sleep(self.rng.random())
        start_id = self.rng.randbytes(16).hex()
        data = msgspec.json.encode(self.steps)
        await self.request(lambda c: c._workflows.start(self.workflow, data, self.id, start_id=start_id))
        for _ in range(self.rng.randint(1, 2)):
            await self.world.sleep(self.rng.choice([0.0, 0.01, 0.05, 0.3, 1.0, 4.0]) * self.rng.random())
            self.world.checker.cancelled.add(self.id)
            if self.pauses:
                await self._paused()
            else:
                await self._cancel()

    async def _cancel(self) -> None:
        await self.request(lambda c: c.cancel_workflow(self.id, reason="enough"))

    async def _paused(self) -> None:
        """What it is told while it is paused it finds when it goes on."""
        try:
            await self.request(lambda c: c.pause_workflow(self.id))
            await self._cancel()
            await self.request(lambda c: c.resume_workflow(self.id))
        except InvalidState:
            await self._cancel()

    def check(self) -> None:
        checker, shadow = self.world.checker, self.shadow
        checker.require(shadow is not None, "an instance is gone", self.id)
        assert shadow is not None
        checker.require(shadow.finished, "a cancelled instance goes on", self.id, shadow.meta)
        end = shadow.history[-1]
        assert isinstance(end, ExecutionCompleted)
        if checker.crashed:
            return
        caught = end.status == "completed"
        wanted = self.steps[0][0] == "catches" if caught else end.status == "terminated"
        checker.require(wanted, "a cancelled instance ended otherwise", self.id, end)
        told = [event for event in shadow.history if isinstance(event, CancelRequested)]
        checker.require(told, "an instance ended, and was not told to", self.id)
        names = {event.id: event for event in shadow.history if isinstance(event, TaskScheduled)}
        ended = [names[event.id] for event in shadow.history if isinstance(event, TaskCompleted)]
        undone = {task.input for task in ended if task.name == "undo"}
        # What answered in the turn in which it was cancelled did so too late for the code.
        done = {task.input for task in ended if task.name == "do" and task.id not in shadow.cancelled}
        checker.require(done <= undone, "something was not undone", self.id, done - undone)


class Gone(Story):
    """Nobody has it."""

    async def run(self) -> None:
        try:
            await self.request(lambda c: c.cancel_workflow(self.id))
        except InstanceNotFound:
            return
        self.world.checker.violated("an instance that never was has been cancelled")

    def check(self) -> None:
        pass


def stories(world: World, count: int) -> list[Story]:
    rng = random.Random(f"{world.seed}-cancels")
    found: list[Story] = [Gone(world, "nobody", [])]
    for number in range(count):
        steps = [_step(rng, 0) for _ in range(rng.randint(1, 4))]
        found.append(Cancelled(world, f"c{number}", steps, pauses=rng.random() < 0.2))
    return found


def _step(rng: random.Random, depth: int) -> Step:
    kinds = ["do", "do", "both", "catches", "given_up", "late", "late in all", "counted"]
    kind = rng.choice(kinds + ["child", "child given up"] * (depth == 0))
    milliseconds = rng.choice([0, 5, 50, 300])
    match kind:
        case "do" | "both" | "catches":
            return [kind]
        case "given_up":
            return [kind, milliseconds]
        case "late" | "late in all":
            return [kind, milliseconds + 1]
        case "counted":
            return [kind, rng.randint(1, 9)]
        case "child":
            return [kind, [_step(rng, 1) for _ in range(rng.randint(1, 2))]]
    return [kind, [_step(rng, 1) for _ in range(rng.randint(1, 2))], milliseconds]
