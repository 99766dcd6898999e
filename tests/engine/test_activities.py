"""Activities: on the loop and in threads, in order and at once, failing and not awaited."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

from perdure import (
    ActivityContext,
    App,
    RetryPolicy,
    RuntimeStatus,
    TaskFailedError,
    WorkflowContext,
    when_all,
)
from perdure.workflow.retry import NonRetriableError


async def test_async_activities_run_on_the_loop_and_plain_ones_in_threads(place: Any, run: Any) -> None:
    app = App("a")
    main = threading.get_ident()

    @app.activity
    async def on_loop(ctx: ActivityContext) -> bool:
        return threading.get_ident() == main

    @app.activity
    def in_thread(ctx: ActivityContext) -> bool:
        return threading.get_ident() == main

    @app.workflow
    async def both(ctx: WorkflowContext) -> list[bool]:
        return [await ctx.call_activity(on_loop), await ctx.call_activity(in_thread)]

    async with place.serve(app) as node:
        assert (await run(node.client, both)).output == [True, False]


async def test_the_context_says_for_whom_an_activity_runs(place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    async def who(ctx: ActivityContext) -> list[Any]:
        return [
            ctx.instance_id,
            ctx.workflow_name,
            ctx.activity_name,
            ctx.task_id,
            ctx.app_id,
            ctx.idempotency_key,
        ]

    @app.workflow
    async def ask(ctx: WorkflowContext) -> Any:
        return [await ctx.call_activity(who), ctx.execution_id]

    async with place.serve(app) as node:
        told, execution = (await run(node.client, ask, instance_id="i1")).output
        assert told == ["i1", "ask", "who", 0, "a", f"{execution}:0"]


async def test_a_generator_workflow_does_the_same(place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    async def double(ctx: ActivityContext, n: int) -> int:
        return n * 2

    @app.workflow
    def chain(ctx: WorkflowContext, n: int) -> Any:
        for _ in range(3):
            n = yield ctx.call_activity(double, input=n)
        return n

    async with place.serve(app) as node:
        assert (await run(node.client, chain, 1)).output == 8


async def test_more_activities_than_the_limit_wait_in_order(place: Any, eventually: Any) -> None:
    app = App("a")
    at_once = most = 0
    began: list[int] = []
    gate = asyncio.Event()

    @app.activity
    async def work(ctx: ActivityContext, n: int) -> int:
        nonlocal at_once, most
        began.append(n)
        at_once += 1
        most = max(most, at_once)
        if n == 0:
            await gate.wait()
        at_once -= 1
        return n

    @app.workflow
    async def many(ctx: WorkflowContext) -> int:
        return sum(await when_all([ctx.call_activity(work, input=n) for n in range(20)]))

    async with place.serve(app, max_concurrent_activities=2) as node:
        activities = node.runtime.engine.activities
        id = await node.client.schedule_new_workflow(many)
        await eventually(lambda: most == 2)
        gate.set()
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == sum(range(20))
        assert most == 2
        assert began == list(range(20))
        assert (activities.running, activities.queued, activities.known) == (0, 0, 0)


async def test_threads_are_limited_too(memory_place: Any, run: Any) -> None:
    app = App("a")
    lock = threading.Lock()
    at_once = most = 0
    both = threading.Barrier(2, timeout=30)

    @app.activity
    def work(ctx: ActivityContext) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        both.wait()  # two do run at the same time
        with lock:
            at_once -= 1

    @app.workflow
    async def many(ctx: WorkflowContext) -> None:
        await when_all([ctx.call_activity(work) for _ in range(6)])

    async with memory_place.serve(app, max_concurrent_activities=2) as node:
        assert (await run(node.client, many)).runtime_status is RuntimeStatus.COMPLETED
        assert most == 2


async def test_a_thousand_at_once_take_few_commits(place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    async def double(ctx: ActivityContext, n: int) -> int:
        return n * 2

    @app.workflow
    async def fan(ctx: WorkflowContext, n: int) -> int:
        return sum(await when_all([ctx.call_activity(double, input=i) for i in range(n)]))

    async with place.serve(app, replay_check="off") as node:
        state = await run(node.client, fan, 1000, instance_id="f")
        assert state.output == sum(range(1000)) * 2
        assert len(place.last.of("f")) < 50


async def test_a_chain_takes_one_commit_per_activity(place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    async def step(ctx: ActivityContext, n: int) -> int:
        return n + 1

    @app.workflow
    async def chain(ctx: WorkflowContext) -> int:
        n = 0
        for _ in range(10):
            n = await ctx.call_activity(step, input=n)
        return n

    async with place.serve(app) as node:
        assert (await run(node.client, chain, instance_id="c")).output == 10
        # The start and the first request are one; then each result with the next request.
        assert len(place.last.of("c")) == 11


async def test_what_nobody_awaits_runs_even_after_the_end(
    place: Any, run: Any, eventually: Any, keys: Any
) -> None:
    app = App("a")
    go = asyncio.Event()
    ran: list[str] = []

    @app.activity
    async def late(ctx: ActivityContext, name: str) -> None:
        await go.wait()
        ran.append(name)

    @app.workflow
    async def leave(ctx: WorkflowContext) -> str:
        ctx.call_activity(late, input="one")
        ctx.call_activity(late, input="two")
        return "left"

    async with place.serve(app) as node:
        assert (await run(node.client, leave, instance_id="l")).output == "left"
        assert [key for key in await keys(node, "l") if key.startswith("outbox-")]
        go.set()
        await eventually(lambda: sorted(ran) == ["one", "two"])

        async def emptied() -> bool:
            return not [key for key in await keys(node, "l") if key.startswith("outbox-")]

        await eventually(emptied)
        await eventually(lambda: node.runtime.engine.activities.known == 0)


async def test_what_nobody_awaits_runs_on_the_next_node(place: Any, run: Any, eventually: Any) -> None:
    app = App("a")
    ran: list[str] = []
    hold = asyncio.Event()

    @app.activity
    async def late(ctx: ActivityContext) -> None:
        ran.append(ctx.idempotency_key)
        if len(ran) == 1:
            await hold.wait()

    @app.workflow
    async def leave(ctx: WorkflowContext) -> str:
        ctx.call_activity(late)
        return "left"

    async with place.serve(app, drain_seconds=0) as node:
        await run(node.client, leave)
        await eventually(lambda: ran)
    async with place.serve(app):
        await eventually(lambda: len(ran) == 2)
    assert ran[0] == ran[1]


async def test_a_failure_reaches_the_code_with_its_reason(place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    async def fail(ctx: ActivityContext) -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    @app.workflow
    async def caught(ctx: WorkflowContext) -> list[Any]:
        try:
            await ctx.call_activity(fail)
        except TaskFailedError as error:
            details = error.details
            return [details.type, details.message, details.inner.type if details.inner else None]
        return []

    @app.workflow
    async def uncaught(ctx: WorkflowContext) -> None:
        await ctx.call_activity(fail)

    async with place.serve(app) as node:
        assert (await run(node.client, caught)).output == ["ValueError", "outer", "KeyError"]
        state = await run(node.client, uncaught)
        assert state.runtime_status is RuntimeStatus.FAILED
        assert state.failure_details is not None
        assert "ValueError: outer" in state.failure_details.message
        assert state.failure_details.inner is not None
        assert state.failure_details.inner.type == "ValueError"
        assert "in fail" in state.failure_details.inner.stack


async def test_an_activity_that_exits_has_failed(memory_place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    def in_thread(ctx: ActivityContext) -> None:
        raise SystemExit(3)

    @app.activity
    async def on_loop(ctx: ActivityContext) -> None:
        raise SystemExit(3)

    @app.workflow
    async def both(ctx: WorkflowContext) -> list[str]:
        failed = []
        for activity in (in_thread, on_loop):
            try:
                await ctx.call_activity(activity)
            except TaskFailedError as caught:
                failed.append(caught.details.type)
        return failed

    async with memory_place.serve(app) as node:
        assert (await run(node.client, both)).output == ["SystemExit", "SystemExit"]


async def test_retries_are_as_many_as_the_policy_says(place: Any, run: Any) -> None:
    app = App("a")
    tries: list[str] = []

    @app.activity
    async def flaky(ctx: ActivityContext, good_at: int) -> int:
        tries.append(ctx.idempotency_key)
        if len(tries) < good_at:
            raise ValueError("not yet")
        return len(tries)

    policy = RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=3)

    @app.workflow
    async def attempt(ctx: WorkflowContext, good_at: int) -> int:
        return await ctx.call_activity(flaky, input=good_at, retry_policy=policy)

    async with place.serve(app) as node:
        assert (await run(node.client, attempt, 3)).output == 3
        assert len(set(tries)) == 1, "the idempotency key is the same over retries"
        tries.clear()
        state = await run(node.client, attempt, 4)
        assert state.runtime_status is RuntimeStatus.FAILED
        assert len(tries) == 3


async def test_what_cannot_be_retried_is_not(place: Any, run: Any) -> None:
    app = App("a")
    tries = 0

    @app.activity
    async def hopeless(ctx: ActivityContext) -> None:
        nonlocal tries
        tries += 1
        raise NonRetriableError("never")

    @app.workflow
    async def attempt(ctx: WorkflowContext) -> None:
        policy = RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=5)
        await ctx.call_activity(hopeless, retry_policy=policy)

    async with place.serve(app) as node:
        assert (await run(node.client, attempt)).runtime_status is RuntimeStatus.FAILED
        assert tries == 1


async def test_an_unregistered_activity_fails_its_call_only(place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    async def known(ctx: ActivityContext) -> None: ...

    @app.workflow
    async def ask(ctx: WorkflowContext) -> list[str]:
        try:
            await ctx.call_activity("unknown")
        except TaskFailedError as error:
            return [error.details.type, error.details.message]
        return []

    async with place.serve(app) as node:
        kind, message = (await run(node.client, ask)).output
        assert kind == "ActivityNotRegistered"
        assert "'unknown'" in message
        assert "known" in message


async def test_a_result_that_is_no_json_fails_the_call(place: Any, run: Any) -> None:
    app = App("a")

    @app.activity
    async def strange(ctx: ActivityContext) -> Any:
        return object()

    @app.workflow
    async def ask(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity(strange)
        except TaskFailedError as error:
            return error.details.type
        return ""

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == "InvalidInput"


async def test_map_bounds_what_runs_at_once(place: Any, run: Any) -> None:
    app = App("a")
    at_once = most = 0

    @app.activity
    async def work(ctx: ActivityContext, n: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return n

    @app.workflow
    async def mapped(ctx: WorkflowContext) -> list[int]:
        return await ctx.map(work, range(30), max_concurrency=4)

    async with place.serve(app) as node:
        assert (await run(node.client, mapped)).output == list(range(30))
        assert 1 < most <= 4


async def test_code_that_cancels_itself_or_stops_an_iteration_has_failed(memory_place: Any, run: Any) -> None:
    """Both are control flow to asyncio and to futures; taken as such, the activity would never end."""
    app = App("endings")

    @app.activity
    async def cancelled(ctx: ActivityContext) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @app.activity
    def stopped(ctx: ActivityContext) -> None:
        raise StopIteration(3)

    @app.workflow
    async def both(ctx: WorkflowContext) -> list[str]:
        errors = []
        for activity in (cancelled, stopped):
            try:
                await ctx.call_activity(activity)
            except TaskFailedError as error:
                errors.append(error.details.type)
        return errors

    async with app.serve(store="memory://") as node:
        await node.client.schedule_new_workflow(both, instance_id="b")
        state = await node.client.wait_for_workflow_completion("b", timeout=30)
    assert state.output == ["CancelledError", "RuntimeError"]
