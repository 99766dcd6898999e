"""Timers and external events: order, buffering, time limits, parallel branches."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext, when_all, when_any


async def test_a_timer_is_not_early(place: Any, run: Any) -> None:
    app = App("t")

    @app.workflow
    async def nap(ctx: WorkflowContext) -> float:
        before = ctx.current_utc_datetime
        await ctx.create_timer(timedelta(milliseconds=30))
        return (ctx.current_utc_datetime - before).total_seconds()

    async with place.serve(app) as node:
        states = [await node.client.schedule_new_workflow(nap) for _ in range(20)]
        for id in states:
            state = await node.client.wait_for_workflow_completion(id, timeout=30)
            assert state.output >= 0.03
            assert state.completed_at is not None
            assert state.started_at is not None
            assert state.completed_at - state.started_at >= timedelta(milliseconds=30)


async def test_timers_of_the_past_and_of_zero_are_due_at_once(place: Any, run: Any) -> None:
    app = App("t")

    @app.workflow
    async def past(ctx: WorkflowContext) -> str:
        await ctx.create_timer(timedelta(0))
        await ctx.create_timer(timedelta(days=-1))
        await ctx.create_timer(datetime(2020, 1, 1, tzinfo=UTC))
        return "done"

    async with place.serve(app) as node:
        assert (await run(node.client, past)).output == "done"


async def test_a_timer_of_a_year_is_kept(place: Any, until_status: Any) -> None:
    app = App("t")

    @app.workflow
    async def year(ctx: WorkflowContext) -> None:
        await ctx.create_timer(timedelta(days=365))

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(year, instance_id="y")
        state = await until_status(node.client, "y", RuntimeStatus.RUNNING)
        (reminder,) = await node.store.reminders(node.runtime.engine.actor("y"))
        expected = state.started_at + timedelta(days=365)
        assert reminder.due == int(expected.timestamp() * 1_000_000)
    async with place.serve(app) as node:
        assert await node.store.reminders(node.runtime.engine.actor("y"))
        await node.client.terminate_workflow("y")
        assert not await node.store.reminders(node.runtime.engine.actor("y"))


async def test_a_timer_that_became_due_while_nobody_ran_fires_at_the_start(
    place: Any, until_status: Any
) -> None:
    app = App("t")

    @app.workflow
    async def nap(ctx: WorkflowContext) -> str:
        await ctx.create_timer(timedelta(milliseconds=50))
        return "woken"

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(nap, instance_id="n")
        await until_status(node.client, "n", RuntimeStatus.RUNNING)
    await asyncio.sleep(0.06)
    async with place.serve(app) as node:
        assert (await node.client.wait_for_workflow_completion("n", timeout=30)).output == "woken"


async def test_a_timer_fires_for_an_instance_out_of_memory(
    place: Any, until_status: Any, eventually: Any, evict: Any
) -> None:
    app = App("t")

    @app.workflow
    async def nap(ctx: WorkflowContext) -> str:
        await ctx.create_timer(timedelta(milliseconds=300))
        return "woken"

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(nap, instance_id="n")
        await until_status(node.client, "n", RuntimeStatus.RUNNING)
        await eventually(lambda: evict(node, "n"))
        assert (await node.client.wait_for_workflow_completion("n", timeout=30)).output == "woken"


async def test_a_thousand_timers(memory_place: Any) -> None:
    app = App("t")

    @app.workflow
    async def naps(ctx: WorkflowContext, n: int) -> int:
        timers = [ctx.create_timer(timedelta(milliseconds=i % 50)) for i in range(n)]
        return len(await when_all(timers))

    async with memory_place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow(naps, input=1000)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == 1000


async def test_events_of_one_name_come_in_order_and_without_case(place: Any, run: Any) -> None:
    app = App("e")

    @app.workflow
    async def collect(ctx: WorkflowContext, n: int) -> list[Any]:
        return [await ctx.wait_for_external_event("Item") for _ in range(n)]

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(collect, input=20)
        for i in range(20):
            await node.client.raise_workflow_event(id, ["item", "ITEM", "Item"][i % 3], data=i)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == list(range(20))


async def test_an_event_may_come_before_anybody_waits(place: Any, eventually: Any) -> None:
    app = App("e")
    go = asyncio.Event()

    @app.activity
    async def hold(ctx: ActivityContext) -> None:
        await go.wait()

    @app.workflow
    async def later(ctx: WorkflowContext) -> list[Any]:
        await ctx.call_activity(hold)
        return [await ctx.wait_for_external_event(name) for name in ("b", "a", "b")]

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(later)
        for name, data in (("a", 1), ("b", 2), ("b", 3), ("never", 4)):
            await node.client.raise_workflow_event(id, name, data=data)
        go.set()
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == [2, 1, 3]


async def test_an_event_may_come_with_the_start(place: Any) -> None:
    app = App("e")

    @app.workflow
    async def ask(ctx: WorkflowContext) -> Any:
        return await ctx.wait_for_external_event("x")

    async with place.serve(app) as node:
        start = asyncio.ensure_future(node.client.schedule_new_workflow(ask, instance_id="i"))
        await asyncio.sleep(0)  # the start is sent, and not committed
        await node.client.raise_workflow_event("i", "x", data="early")
        await start
        assert (await node.client.wait_for_workflow_completion("i", timeout=30)).output == "early"


async def test_waits_of_one_name_take_turns(place: Any) -> None:
    app = App("e")

    @app.workflow
    async def two(ctx: WorkflowContext) -> list[Any]:
        return await when_all([ctx.wait_for_external_event("x"), ctx.wait_for_external_event("x")])

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(two)
        await node.client.raise_workflow_event(id, "x", data=1)
        await node.client.raise_workflow_event(id, "x", data=2)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == [1, 2]


async def test_a_time_limit_ends_a_wait(place: Any) -> None:
    app = App("e")

    @app.workflow
    async def limited(ctx: WorkflowContext) -> list[Any]:
        await ctx.wait_for_external_event("begin")
        told: list[Any] = []
        for limit in (timedelta(milliseconds=5), timedelta(0)):
            try:
                told.append(await ctx.wait_for_external_event("never", timeout=limit))
            except TimeoutError:
                told.append("late")
        told.append(await ctx.wait_for_external_event("comes", timeout=timedelta(hours=1)))
        told.append(await ctx.wait_for_external_event("comes", timeout=timedelta(0)))
        return told

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(limited, instance_id="l")
        for name, data in (("comes", 1), ("comes", 2), ("begin", None)):
            await node.client.raise_workflow_event(id, name, data=data)
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == ["late", "late", 1, 2]


async def test_a_cancelled_time_limit_deletes_its_reminder(place: Any, eventually: Any) -> None:
    app = App("e")

    @app.workflow
    async def first(ctx: WorkflowContext) -> None:
        await ctx.wait_for_external_event("x", timeout=timedelta(hours=1))
        await ctx.wait_for_external_event("y")

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(first)
        actor = node.runtime.engine.actor(id)

        async def count() -> int:
            return len(await node.store.reminders(actor))

        await eventually(count)
        await node.client.raise_workflow_event(id, "x")
        assert await count() == 0


async def test_the_first_of_several(place: Any, run: Any) -> None:
    app = App("e")
    hold = asyncio.Event()

    @app.activity
    async def slow(ctx: ActivityContext) -> str:
        await hold.wait()
        return "slow"

    @app.activity
    async def quick(ctx: ActivityContext) -> str:
        return "quick"

    @app.workflow
    async def race(ctx: WorkflowContext) -> list[Any]:
        lame, fast = ctx.call_activity(slow), ctx.call_activity(quick)
        first = await when_any([lame, fast, ctx.create_timer(timedelta(hours=1))])
        return [first is fast, await first]

    async with place.serve(app) as node:
        assert (await run(node.client, race)).output == [True, "quick"]
        hold.set()


async def test_branches_run_side_by_side(place: Any, run: Any) -> None:
    app = App("e")

    @app.activity
    async def add(ctx: ActivityContext, n: int) -> int:
        return n + 1

    async def branch(ctx: WorkflowContext, n: int) -> int:
        for _ in range(3):
            n = await ctx.call_activity(add, input=n)
            await ctx.create_timer(timedelta(milliseconds=1))
        return n

    @app.workflow
    async def parallel(ctx: WorkflowContext) -> list[int]:
        return await when_all([branch(ctx, 10 * n) for n in range(5)])

    async with place.serve(app) as node:
        assert (await run(node.client, parallel)).output == [3, 13, 23, 33, 43]
