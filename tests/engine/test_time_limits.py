"""Time limits of activities, heartbeats and what the next attempt knows of them, retries, and payloads."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    ActivityContext,
    ActivityTimeout,
    App,
    HeartbeatTimeout,
    RetryAfter,
    RetryPolicy,
    RuntimeStatus,
    TaskFailedError,
    WorkflowContext,
)
from perdure.payload import LIMIT
from tests.waiting import until

SOON = timedelta(milliseconds=50)
LATE = timedelta(minutes=5)
AT_ONCE = RetryPolicy(first_retry_interval=timedelta(0), max_number_of_attempts=3)


def kinds(app: App, seen: list[str]) -> None:
    """Activities that end only when they are cancelled."""

    @app.activity
    async def on_loop(ctx: ActivityContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(f"{ctx.attempt} {ctx.cancel_reason}")

    @app.activity
    def in_thread(ctx: ActivityContext) -> None:
        until(lambda: ctx.cancelled)
        seen.append(f"{ctx.attempt} {ctx.cancel_reason}")


@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
async def test_an_activity_that_takes_too_long_fails_and_is_told(
    place: Any, run: Any, eventually: Any, kind: str
) -> None:
    app, seen = App("t"), list[str]()
    kinds(app, seen)

    @app.workflow
    async def ask(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity(kind, start_to_close_timeout=SOON)
        except TimeoutError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    async with place.serve(app) as node:
        said = (await run(node.client, ask)).output
        assert f"ActivityTimeout: activity {kind!r} (task 0) failed: ActivityTimeout" in said
        assert "start_to_close_timeout of 0:00:00.05" in said
        await eventually(lambda: len(seen) == 1)
        assert seen[0].startswith("1 it did not end")
        activities = node.runtime.engine.activities
        await eventually(lambda: (activities.running, activities.known) == (0, 0))


@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
async def test_what_takes_too_long_is_tried_again_as_the_policy_says(
    memory_place: Any, run: Any, eventually: Any, kind: str
) -> None:
    app, seen = App("t"), list[str]()
    kinds(app, seen)

    @app.workflow
    async def ask(ctx: WorkflowContext) -> None:
        await ctx.call_activity(kind, retry_policy=AT_ONCE, start_to_close_timeout=SOON)

    async with memory_place.serve(app) as node:
        assert (await run(node.client, ask)).runtime_status is RuntimeStatus.FAILED
        await eventually(lambda: sorted(one[0] for one in seen) == ["1", "2", "3"])


async def test_the_activity_itself_may_say_its_limits(place: Any, run: Any) -> None:
    """Also for callers that know only its name; what a caller says comes first."""
    app = App("t")

    @app.activity(start_to_close_timeout=SOON)
    async def slow(ctx: ActivityContext, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @app.workflow
    async def ask(ctx: WorkflowContext) -> list[Any]:
        try:
            await ctx.call_activity("slow", input=300)
        except ActivityTimeout:
            return ["late", await ctx.call_activity(slow, input=0.1, start_to_close_timeout=LATE)]
        return []

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == ["late", "done"]


async def test_an_activity_that_falls_silent_fails(place: Any, run: Any) -> None:
    app = App("t")

    @app.activity(heartbeat_timeout=timedelta(milliseconds=500), retry_policy=AT_ONCE)
    async def copy(ctx: ActivityContext, total: int) -> list[Any]:
        begin = ctx.heartbeat_details or 0
        for done in range(begin, total):
            ctx.heartbeat(done)
            await asyncio.sleep(0)
            if done in (3, 7) and begin != done:
                await asyncio.Event().wait()
        return [ctx.attempt, begin]

    @app.workflow
    async def ask(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity(copy, input=10)

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == [3, 7]


async def test_heartbeats_keep_a_thread_alive_and_tell_it_when_it_is_over(place: Any, run: Any) -> None:
    app, seen = App("t"), list[Any]()
    nap = threading.Event()

    @app.activity
    def beat(ctx: ActivityContext) -> str:
        for _ in range(30):
            ctx.heartbeat()
            nap.wait(0.05)
        return "alive"

    @app.activity
    def silent(ctx: ActivityContext) -> None:
        ctx.heartbeat({"at": "the beginning"})
        while not ctx.cancelled:
            nap.wait(0.001)
        try:
            ctx.heartbeat()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    @app.workflow
    async def ask(ctx: WorkflowContext) -> list[Any]:
        alive = await ctx.call_activity(beat, heartbeat_timeout=timedelta(seconds=1))
        try:
            await ctx.call_activity(silent, heartbeat_timeout=SOON)
        except HeartbeatTimeout:
            return [alive, "silent"]
        return []

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == ["alive", "silent"]
    assert seen == ["ActivityCancelled"]


async def test_details_of_an_attempt_that_failed_by_itself_are_known_to_the_next(
    place: Any, run: Any
) -> None:
    app = App("t")

    @app.activity(retry_policy=AT_ONCE)
    async def load(ctx: ActivityContext) -> list[Any]:
        if ctx.attempt == 1:
            assert ctx.heartbeat_details is None
            ctx.heartbeat({"page": 4})
        if ctx.attempt < 3:
            raise OSError("again")
        return [ctx.attempt, ctx.heartbeat_details]

    @app.workflow
    async def ask(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity(load)

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == [3, {"page": 4}]


async def test_a_limit_over_all_attempts_holds_over_a_restart(place: Any, eventually: Any) -> None:
    app, began = App("t"), list[int]()

    @app.activity
    async def stuck(ctx: ActivityContext) -> None:
        began.append(ctx.attempt)
        await asyncio.Event().wait()

    @app.workflow
    async def ask(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity(stuck, schedule_to_close_timeout=timedelta(seconds=3))
        except ActivityTimeout:
            return "late"
        return ""

    async with place.serve(app, drain_seconds=0) as node:
        id = await node.client.schedule_new_workflow(ask)
        await eventually(lambda: began == [1])
    async with place.serve(app, drain_seconds=0) as node:
        await eventually(lambda: began == [1, 1])
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == "late"
        await eventually(lambda: node.runtime.engine.activities.running == 0)


async def test_time_limits_that_hold_cost_no_commit(memory_place: Any, run: Any) -> None:
    app = App("t")

    @app.activity(start_to_close_timeout=LATE, heartbeat_timeout=LATE)
    async def work(ctx: ActivityContext, n: int) -> int:
        ctx.heartbeat(n)
        return n

    @app.workflow
    async def chain(ctx: WorkflowContext) -> int:
        total = 0
        for n in range(10):
            total += await ctx.call_activity(work, input=n)
        return total

    async with memory_place.serve(app) as node:
        assert (await run(node.client, chain, instance_id="c")).output == 45
        commits = memory_place.last.of("c")
        assert len(commits) == 11
        assert not any(commit.reminders for commit in commits)


async def test_a_failure_says_when_to_try_again(place: Any, run: Any, keys: Any) -> None:
    app = App("t")

    @app.activity(retry_policy=RetryPolicy(first_retry_interval=LATE, max_number_of_attempts=2))
    async def busy(ctx: ActivityContext) -> int:
        if ctx.attempt == 1:
            raise RetryAfter(timedelta(milliseconds=1), "the queue is full")
        return ctx.attempt

    @app.workflow
    async def ask(ctx: WorkflowContext) -> int:
        return await ctx.call_activity(busy)

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == 2


async def test_types_that_are_not_retriable(place: Any, run: Any) -> None:
    app, tries = App("t"), list[int]()

    class Declined(Exception):
        pass

    class CardExpired(Declined):
        pass

    @app.activity(
        retry_policy=RetryPolicy(
            first_retry_interval=timedelta(0), max_number_of_attempts=5, non_retryable_error_types=[Declined]
        )
    )
    def pay(ctx: ActivityContext) -> None:
        tries.append(ctx.attempt)
        raise CardExpired("in May") if ctx.attempt == 2 else OSError("busy")

    @app.workflow
    async def ask(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity(pay)
        except TaskFailedError as error:
            return error.details.type
        return ""

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == "CardExpired"
        assert tries == [1, 2]


async def test_payloads_that_are_too_large_are_refused_by_name(memory_place: Any, run: Any) -> None:
    """And not tried again: they will be too large the next time, too."""
    app, tries = App("t"), list[int]()

    @app.activity(retry_policy=AT_ONCE)
    async def report(ctx: ActivityContext) -> str:
        tries.append(1)
        return "x" * LIMIT

    @app.activity
    async def take(ctx: ActivityContext, what: str) -> None: ...

    @app.workflow
    async def ask(ctx: WorkflowContext) -> list[str]:
        found = []
        try:
            await ctx.call_activity(report)
        except TaskFailedError as error:
            found += [error.details.type, str(error)]
        try:
            await ctx.call_activity(take, input="x" * LIMIT)
        except ValueError as error:
            found.append(str(error))
        return found

    @app.workflow
    async def huge(ctx: WorkflowContext) -> str:
        return "x" * LIMIT

    async with memory_place.serve(app) as node:
        kind, result, input = (await run(node.client, ask)).output
        assert kind == "PayloadTooLarge"
        assert "activity 'report' (task 0) failed" in result
        assert f"the result of activity 'report' has {LIMIT + 2} bytes; at most {LIMIT} are allowed" in result
        assert f"the input of activity 'take' has {LIMIT + 2} bytes" in input
        assert tries == [1]
        state = await run(node.client, huge)
        assert state.runtime_status is RuntimeStatus.FAILED
        assert "the result of workflow 'huge' has" in state.failure_details.message
