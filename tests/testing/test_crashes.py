"""The runner that kills a process at every commit finds what a crash changes, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    ActivityContext,
    App,
    RuntimeStatus,
    TaskFailedError,
    WorkflowClient,
    WorkflowContext,
    when_all,
)
from perdure.testing import CrashMattered, TimeStandsStill, crash_everywhere

app = App("crashing")
#: What was done outside: by idempotency key, and by count.
done: dict[str, str] = {}
counted: list[str] = []
finalized: list[str] = []


@app.activity
async def pay(ctx: ActivityContext, what: str) -> str:
    try:
        await asyncio.sleep(0)
        done[ctx.idempotency_key] = what
        counted.append(what)
        return f"paid {what}"
    finally:
        finalized.append(what)


@app.activity
def thread(ctx: ActivityContext, what: str) -> str:
    done[ctx.idempotency_key] = what
    return f"thread {what}"


@app.activity
async def refuse(ctx: ActivityContext) -> None:
    raise ValueError("no")


@app.workflow
async def child(ctx: WorkflowContext, what: str) -> str:
    await ctx.create_timer(timedelta(hours=1))
    return await ctx.call_activity(pay, input=what)


@app.workflow
async def everything(ctx: WorkflowContext, what: str) -> list[Any]:
    found: list[Any] = [await ctx.call_activity(thread, input=what)]
    found += await when_all([ctx.call_child_workflow(child, input=f"{what}{n}") for n in range(2)])
    try:
        await ctx.call_activity(refuse)
    except TaskFailedError as error:
        found.append(error.details.message)
    found.append(await ctx.wait_for_external_event("go", timeout=timedelta(days=1)))
    return found


@app.workflow
async def rounds(ctx: WorkflowContext, left: int) -> str:
    await ctx.create_timer(timedelta(days=1))
    if left:
        ctx.continue_as_new(left - 1)
        return ""
    return await ctx.wait_for_external_event("end", type=str)


async def story(client: WorkflowClient) -> object:
    done.clear()
    id = await client.schedule_new_workflow(everything, input="x")
    await client.raise_workflow_event(id, "go", data=7)
    turning = await client.schedule_new_workflow(rounds, input=2, instance_id="turning")
    await client.pause_workflow(turning)
    await client.resume_workflow(turning)
    state = await client.wait_for_workflow_completion(id)
    await client.raise_workflow_event(turning, "end", data="over")
    end = await client.wait_for_workflow_completion(turning)
    await client.purge_workflow(turning)
    assert await client.get_workflow_state(turning) is None
    page = await client.list()
    return state.output, end.output, sorted(done.values()), sorted(row.instance_id for row in page.items)


def test_no_crash_matters_to_workflows_that_are_right() -> None:
    report = crash_everywhere(app, story)
    output, end, paid, instances = report.outcome
    assert output == ["thread x", "paid x0", "paid x1", "no", 7]
    assert end == "over"
    assert paid == ["x", "x0", "x1"]
    assert instances[0] == "scenario-1"
    assert report.commits > 15
    # What a thread answers shares a commit with others or does not: it is not the same number in every run.
    assert report.crashes > report.commits


def test_starts_with_keys_and_for_later_and_cancelling() -> None:
    undoing = App("undoing")
    undone: set[str] = set()

    @undoing.activity
    async def undo(ctx: ActivityContext) -> None:
        undone.add(ctx.instance_id)

    @undoing.workflow
    async def waits(ctx: WorkflowContext) -> str:
        try:
            await ctx.wait_for_external_event("never")
        finally:
            await ctx.call_activity(undo)
        return "never"

    async def scenario(client: WorkflowClient) -> object:
        undone.clear()
        ids = [await client.schedule_new_workflow(waits, idempotency_key="k") for _ in range(2)]
        ids.append(await client.schedule_new_workflow(waits, start_at=timedelta(days=3)))
        for id in sorted(set(ids)):
            await client.wait_for_workflow_start(id)
            await client.cancel_workflow(id)
        ended = [(await client.wait_for_workflow_completion(id)).runtime_status for id in ids]
        return len(set(ids)), [status.finished for status in ended], sorted(undone) == sorted(set(ids))

    assert crash_everywhere(undoing, scenario).outcome == (2, [True] * 3, True)


def test_an_activity_that_must_not_run_twice_is_found() -> None:
    async def counts(client: WorkflowClient) -> object:
        counted.clear()
        id = await client.schedule_new_workflow(child, input="money")
        await client.wait_for_workflow_completion(id)
        return list(counted)

    with pytest.raises(
        CrashMattered, match=r"killed (before|after) commit \d+ of \d+ \(scenario-1: history-"
    ) as found:
        crash_everywhere(app, counts)
    assert "the outcome was ['money', 'money']; undisturbed it is ['money']" in str(found.value)


def test_whoever_keeps_something_in_memory_is_found() -> None:
    """A process that dies takes along what a workflow learned past its history."""
    forgetful = App("forgetful")
    lives = threading.local()

    @forgetful.activity
    async def look(ctx: ActivityContext) -> int:
        lives.looks = getattr(lives, "looks", 0) + 1
        return int(lives.looks)

    @forgetful.workflow
    async def looks(ctx: WorkflowContext) -> int:
        await ctx.call_activity(look)
        return await ctx.call_activity(look)

    async def scenario(client: WorkflowClient) -> object:
        lives.looks = 0
        id = await client.schedule_new_workflow(looks)
        return (await client.wait_for_workflow_completion(id)).output

    with pytest.raises(CrashMattered, match="the outcome was 3; undisturbed it is 2"):
        crash_everywhere(forgetful, scenario)
    assert crash_everywhere(forgetful, scenario, same=lambda whole, crashed: crashed in (2, 3)).outcome == 2


def test_the_dead_do_nothing_any_more() -> None:
    """Neither tasks that an activity has begun, nor `finally`, nor what waits in real time."""
    ghostly = App("ghostly")
    seen: list[str] = []
    life = 0

    @ghostly.activity
    async def haunt(ctx: ActivityContext) -> None:
        me = life

        async def later() -> None:
            await asyncio.sleep(0.005)
            if me != life:
                seen.append("a ghost")

        child = asyncio.create_task(later())
        try:
            await child
        finally:
            if me != life:
                seen.append("a finally of the dead")

    @ghostly.workflow
    async def house(ctx: WorkflowContext) -> None:
        nonlocal life
        if ctx.is_replaying:
            life += 1
        await ctx.call_activity(haunt)
        await ctx.create_timer(timedelta(days=1))

    async def scenario(client: WorkflowClient) -> object:
        id = await client.schedule_new_workflow(house)
        state = await client.wait_for_workflow_completion(id)
        await asyncio.sleep(0.02)
        return state.runtime_status, list(seen)

    assert crash_everywhere(ghostly, scenario).outcome == (RuntimeStatus.COMPLETED, [])


def test_a_status_that_a_crash_changes_is_found() -> None:
    changing = App("changing")
    attempts: list[int] = []

    @changing.activity
    async def once(ctx: ActivityContext) -> None:
        attempts.append(1)
        if len(attempts) > 1:
            raise RuntimeError("a second time")

    @changing.workflow
    async def only_once(ctx: WorkflowContext) -> None:
        await ctx.call_activity(once)

    async def scenario(client: WorkflowClient) -> None:
        attempts.clear()
        id = await client.schedule_new_workflow(only_once)
        await client.wait_for_workflow_completion(id)

    with pytest.raises(
        CrashMattered, match="instance 'scenario-1' was failed in the end; undisturbed it is completed"
    ):
        crash_everywhere(changing, scenario)


def test_what_is_wrong_with_the_scenario_itself_is_its_own_error() -> None:
    async def fails(client: WorkflowClient) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash_everywhere(app, fails)

    async def waits(client: WorkflowClient) -> None:
        id = await client.schedule_new_workflow(rounds, input=0)
        await client.wait_for_workflow_completion(id)

    with pytest.raises(TimeStandsStill, match="it waits for event end"):
        crash_everywhere(app, waits, patience=2)


async def test_within_a_running_event_loop() -> None:
    async def scenario(client: WorkflowClient) -> object:
        id = await client.schedule_new_workflow(child, input="y")
        return (await client.wait_for_workflow_completion(id)).output

    assert crash_everywhere(app, scenario).outcome == "paid y"


def test_no_thread_is_left() -> None:
    before = threading.active_count()

    async def scenario(client: WorkflowClient) -> object:
        done.clear()
        id = await client.schedule_new_workflow(everything, input="t")
        await client.raise_workflow_event(id, "go")
        return (await client.wait_for_workflow_completion(id)).output

    crash_everywhere(app, scenario)
    for one in threading.enumerate():
        if one.name.startswith("perdure-activity"):
            one.join(30)
    assert threading.active_count() <= before
