"""Continue-as-new: a fresh history, the same instance, and nothing of the old execution in the new one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext


async def test_the_history_begins_again(place: Any, run: Any, keys: Any) -> None:
    app = App("n")

    @app.activity
    async def add(ctx: ActivityContext, n: int) -> int:
        return n + 1

    @app.workflow
    async def loop(ctx: WorkflowContext, n: int) -> list[int] | None:
        n = await ctx.call_activity(add, input=n)
        if n < 50:
            ctx.continue_as_new(n)
            return None
        return [n, ctx.generation]

    async with place.serve(app) as node:
        state = await run(node.client, loop, 0, instance_id="l")
        assert state.output == [50, 50]
        assert state.generation == 50
        assert state.serialized_input == "49"
        stored = await keys(node, "l")
        assert sorted(key for key in stored if key.startswith("history-")) == [
            f"history-{n:06d}" for n in range(4)
        ]


async def test_a_loop_without_any_wait_does_not_block_the_node(
    place: Any, until_status: Any, run: Any
) -> None:
    app = App("n")

    @app.workflow
    async def spin(ctx: WorkflowContext, n: int) -> None:
        ctx.continue_as_new(n + 1)

    @app.workflow
    async def other(ctx: WorkflowContext) -> str:
        return "alive"

    async with place.serve(app, replay_check="off") as node:
        await node.client.schedule_new_workflow(spin, input=0, instance_id="s")
        for _ in range(20):
            assert (await run(node.client, other)).output == "alive"
        await node.client.terminate_workflow("s")
        await until_status(node.client, "s", RuntimeStatus.TERMINATED)


async def test_no_event_is_lost_over_many_cycles(place: Any) -> None:
    app = App("n")
    count = 300

    @app.workflow
    async def gather(ctx: WorkflowContext, seen: list[int]) -> list[int] | None:
        seen = [*seen, await ctx.wait_for_external_event("x")]
        if len(seen) < count:
            ctx.continue_as_new(seen)
            return None
        return seen

    async with place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow(gather, input=[])
        for start in range(0, count, 10):
            await asyncio.gather(
                *(node.client.raise_workflow_event(id, "x", data=n) for n in range(start, start + 10))
            )
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert sorted(state.output) == list(range(count))


async def test_events_in_one_batch_keep_their_order_over_generations(place: Any, until_status: Any) -> None:
    app = App("n")

    @app.workflow
    async def gather(ctx: WorkflowContext, seen: list[int]) -> list[int] | None:
        seen = [*seen, await ctx.wait_for_external_event("x")]
        if len(seen) < 10:
            ctx.continue_as_new(seen)
            return None
        return seen

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(gather, input=[])
        await node.client.pause_workflow(id)
        for n in range(10):
            await node.client.raise_workflow_event(id, "x", data=n)
        await node.client.resume_workflow(id)
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == list(range(10))


@pytest.mark.parametrize("keep", [True, False])
async def test_unread_events_go_on_unless_told_otherwise(place: Any, keep: bool) -> None:
    app = App("n")

    @app.workflow
    async def once(ctx: WorkflowContext, again: bool) -> Any:
        if again:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(False, save_events=keep)
            return None
        try:
            from datetime import timedelta

            return await ctx.wait_for_external_event("kept", timeout=timedelta(milliseconds=30))
        except TimeoutError:
            return "nothing"

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(once, input=True)
        await node.client.raise_workflow_event(id, "kept", data=1)
        await node.client.raise_workflow_event(id, "go")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == (1 if keep else "nothing")


async def test_what_an_old_generation_asked_for_does_not_answer_the_new_one(
    place: Any, eventually: Any, keys: Any
) -> None:
    app = App("n")
    go: dict[int, asyncio.Event] = {1: asyncio.Event(), 2: asyncio.Event()}
    ended: list[int] = []

    @app.activity
    async def slow(ctx: ActivityContext, generation: int) -> int:
        await go[generation].wait()
        ended.append(generation)
        return generation

    @app.workflow
    async def twice(ctx: WorkflowContext, generation: int) -> int | None:
        task = ctx.call_activity(slow, input=generation)  # task 0 in both
        if generation == 1:
            ctx.continue_as_new(2)
            return None
        return await task

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(twice, input=1, instance_id="t")
        await eventually(lambda: node.runtime.engine.activities.running == 2)
        go[1].set()
        await eventually(lambda: ended == [1])
        await eventually(lambda: node.runtime.engine.activities.known == 1)
        state = await node.client.get_workflow_state("t")
        assert state is not None
        assert state.runtime_status is RuntimeStatus.RUNNING
        go[2].set()
        assert (await node.client.wait_for_workflow_completion("t", timeout=30)).output == 2

        async def emptied() -> bool:
            return not [key for key in await keys(node, "t") if key.startswith("outbox-")]

        await eventually(emptied)


async def test_a_parent_hears_the_last_generation_only(place: Any, run: Any) -> None:
    app = App("n")

    @app.workflow
    async def child(ctx: WorkflowContext, n: int) -> int | None:
        if n:
            ctx.continue_as_new(n - 1)
            return None
        return ctx.generation

    @app.workflow
    async def parent(ctx: WorkflowContext) -> int:
        return await ctx.call_child_workflow(child, input=5)

    async with place.serve(app) as node:
        assert (await run(node.client, parent)).output == 6


async def test_a_failure_after_asking_to_continue_is_a_failure(place: Any, run: Any) -> None:
    app = App("n")

    @app.workflow
    async def confused(ctx: WorkflowContext) -> None:
        ctx.continue_as_new(None)
        raise ValueError("no")

    async with place.serve(app) as node:
        assert (await run(node.client, confused)).runtime_status is RuntimeStatus.FAILED
