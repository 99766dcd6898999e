"""Code that does not do what its history says: found, shown with both sides, and forgiven when it is right again."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext


def version(first: str, *, also: bool = False) -> App:
    """One release of an app. All have the same activities."""
    app = App("d")

    @app.activity
    async def pay(ctx: ActivityContext) -> str:
        return "paid"

    @app.activity
    async def ship(ctx: ActivityContext) -> str:
        return "shipped"

    @app.workflow
    async def order(ctx: WorkflowContext) -> list[Any]:
        done = [await ctx.call_activity(first)]
        if also:
            done.append(await ctx.call_activity("ship"))
        done.append(await ctx.wait_for_external_event("go"))
        return done

    return app


async def _until_waiting(node: Any, eventually: Any) -> None:
    async def paid() -> bool:
        kinds = [type(event).__name__ for _, event in (await node.client.history("o")).items]
        return "TaskCompleted" in kinds

    await eventually(paid)


@pytest.mark.parametrize(
    ("wrong", "now"),
    [(version("ship"), "activity 'ship'"), (version("pay", also=True), "activity 'ship'")],
    ids=["another", "more"],
)
async def test_wrong_code_stalls_the_instance_and_the_right_code_goes_on(
    place: Any, eventually: Any, until_status: Any, wrong: App, now: str
) -> None:
    async with place.serve(version("pay")) as node:
        await node.client.schedule_new_workflow("order", instance_id="o")
        await _until_waiting(node, eventually)
    async with place.serve(wrong) as node:
        await node.client.raise_workflow_event("o", "go", data=1)
        state = await until_status(node.client, "o", RuntimeStatus.STALLED)
        assert "History:" in state.reason
        assert now in state.reason
        # Trying again with the same code changes nothing, and no event is lost by it.
        await node.client.resume_workflow("o")
        await until_status(node.client, "o", RuntimeStatus.STALLED)
    async with place.serve(version("pay")) as node:
        assert (await node.client.wait_for_workflow_completion("o", timeout=30)).output == ["paid", 1]


async def test_a_stalled_instance_takes_events_and_can_be_ended(
    place: Any, eventually: Any, until_status: Any
) -> None:
    async with place.serve(version("pay")) as node:
        await node.client.schedule_new_workflow("order", instance_id="o")
        await _until_waiting(node, eventually)
    async with place.serve(version("ship")) as node:
        await node.client.raise_workflow_event("o", "go", data=1)
        await until_status(node.client, "o", RuntimeStatus.STALLED)
        await node.client.raise_workflow_event("o", "go", data=2)
        assert (await node.client.list(statuses=["stalled"])).items[0].instance_id == "o"
        await node.client.terminate_workflow("o")
        await until_status(node.client, "o", RuntimeStatus.TERMINATED)


async def test_a_stalled_instance_is_not_tried_over_and_over(
    place: Any, eventually: Any, until_status: Any, evict: Any
) -> None:
    async with place.serve(version("pay")) as node:
        await node.client.schedule_new_workflow("order", instance_id="o")
        await _until_waiting(node, eventually)
    async with place.serve(version("ship")) as node:
        await node.client.raise_workflow_event("o", "go", data=1)
        await until_status(node.client, "o", RuntimeStatus.STALLED)
        before = len(place.last.of("o"))
        for n in range(5):
            await node.client.raise_workflow_event("o", "go", data=n)
            evict(node, "o")
        assert len(place.last.of("o")) == before + 5


async def test_replaying_finds_what_would_only_show_after_a_restart(place: Any, until_status: Any) -> None:
    app = App("d")
    count = itertools.count()

    @app.activity
    async def step(ctx: ActivityContext, n: int) -> int:
        return n

    @app.workflow
    async def hidden(ctx: WorkflowContext) -> None:
        if next(count) % 2:
            await ctx.call_activity(step, input=1)
        await ctx.wait_for_external_event("x")

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(hidden, instance_id="h")
        state = await until_status(node.client, "h", RuntimeStatus.STALLED)
        assert "step" in state.reason


async def test_clock_randomness_and_ids_of_the_context_are_the_same_on_replay(
    place: Any, run: Any, evict: Any, eventually: Any
) -> None:
    app = App("d")

    @app.workflow
    async def sample(ctx: WorkflowContext) -> list[str]:
        seen = []
        for _ in range(3):
            seen += [str(ctx.new_uuid()), str(ctx.random().random()), ctx.current_utc_datetime.isoformat()]
            await ctx.wait_for_external_event("x")
        ctx.set_custom_status(seen)
        await ctx.wait_for_external_event("x")
        return seen

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(sample)
        for _ in range(3):
            await node.client.raise_workflow_event(id, "x")
        status = (await node.client.get_workflow_state(id)).custom_status
        await eventually(lambda: evict(node, id))
        await node.client.raise_workflow_event(id, "x")
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == status


async def test_what_workflow_code_must_not_do_fails_at_that_line(place: Any, run: Any) -> None:
    app = App("d")

    @app.workflow
    async def sleeps(ctx: WorkflowContext) -> None:
        import asyncio

        await asyncio.sleep(1)

    async with place.serve(app) as node:
        state = await run(node.client, sleeps)
        assert state.runtime_status is RuntimeStatus.FAILED
        assert "create_timer" in state.failure_details.message
