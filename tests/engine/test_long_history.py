"""Histories of thousands of events: read in pages, replayed in slices, and nothing lost meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext, when_all

COUNT = 10_000


@pytest.fixture
def held() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def app(held: asyncio.Event) -> App:
    app = App("h")

    @app.activity
    async def late(ctx: ActivityContext) -> str:
        await held.wait()
        return "late"

    @app.workflow
    async def long(ctx: WorkflowContext, n: int) -> list[Any]:
        total = 0
        for _ in range(n):
            total += await ctx.wait_for_external_event("x")
        # Asked for far behind the first page of the history.
        task = ctx.call_activity(late)
        timer = ctx.create_timer(timedelta(milliseconds=300))
        ctx.set_custom_status("ready")
        more = [await ctx.wait_for_external_event("y") for _ in range(3)]
        await when_all([task, timer])
        return [total, more, await task]

    return app


async def _filled(node: Any) -> None:
    await node.client.schedule_new_workflow("long", input=COUNT, instance_id="l")
    for start in range(0, COUNT, 1000):
        await asyncio.gather(
            *(node.client.raise_workflow_event("l", "x", data=n) for n in range(start, start + 1000))
        )
    await node.client.wait_for_workflow_start("l")


async def test_it_goes_on_after_leaving_memory(
    app: App, place: Any, held: asyncio.Event, evict: Any, eventually: Any
) -> None:
    async with place.serve(app, replay_check="off") as node:
        await _filled(node)

        async def ready() -> bool:
            return (await node.client.get_workflow_state("l")).custom_status == "ready"

        await eventually(ready)
        await eventually(lambda: evict(node, "l"))
        # All of it at once, while the history is being read: the activity's result, events, and the timer.
        held.set()
        await asyncio.gather(*(node.client.raise_workflow_event("l", "y", data=n) for n in range(3)))
        state = await node.client.wait_for_workflow_completion("l", timeout=30)
        assert state.runtime_status is RuntimeStatus.COMPLETED
        total, more, last = state.output
        assert (total, sorted(more), last) == (sum(range(COUNT)), [0, 1, 2], "late")
        assert len((await node.client.history("l", start=COUNT)).items) < 20


async def test_it_goes_on_on_the_next_node_and_can_be_steered_at_once(
    app: App, place: Any, held: asyncio.Event, eventually: Any
) -> None:
    async with place.serve(app, replay_check="off", drain_seconds=0) as node:
        await _filled(node)

        async def ready() -> bool:
            return (await node.client.get_workflow_state("l")).custom_status == "ready"

        await eventually(ready)
    held.set()
    async with place.serve(app, replay_check="off") as node:
        await node.client.pause_workflow("l")
        await node.client.resume_workflow("l")
        for n in range(3):
            await node.client.raise_workflow_event("l", "y", data=n)
        state = await node.client.wait_for_workflow_completion("l", timeout=30)
        assert state.output == [sum(range(COUNT)), [0, 1, 2], "late"]


async def test_others_go_on_while_it_is_replayed(app: App, place: Any, held: asyncio.Event, run: Any) -> None:
    @app.workflow
    async def short(ctx: WorkflowContext) -> str:
        return "short"

    held.set()
    async with place.serve(app, replay_check="off") as node:
        await _filled(node)
    async with place.serve(app, replay_check="off") as node:
        await node.client.raise_workflow_event("l", "y", data=0)
        assert (await run(node.client, short)).output == "short"
        await node.client.raise_workflow_event("l", "y", data=1)
        await node.client.raise_workflow_event("l", "y", data=2)
        await node.client.wait_for_workflow_completion("l", timeout=30)
