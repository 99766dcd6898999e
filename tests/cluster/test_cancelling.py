"""Activities on another node, of another app, that nobody wants any more: over a real link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    ActivityContext,
    App,
    HeartbeatTimeout,
    Node,
    RetryPolicy,
    RuntimeStatus,
    WorkflowCancelled,
    WorkflowContext,
)
from perdure.statestore import MemoryStore
from tests.waiting import eventually, until

PATIENCE = 30.0
Began = list[str]


def far(began: Began, ended: Began) -> App:
    app = App("far")

    @app.activity
    async def on_loop(ctx: ActivityContext) -> None:
        began.append("on_loop")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(ctx.cancel_reason)

    @app.activity
    def in_thread(ctx: ActivityContext) -> None:
        began.append("in_thread")
        until(lambda: ctx.cancelled)
        ended.append(ctx.cancel_reason)

    @app.activity(heartbeat_timeout=timedelta(milliseconds=200))
    async def silent(ctx: ActivityContext) -> list[Any]:
        if ctx.attempt > 1:
            return [ctx.attempt, ctx.heartbeat_details]
        ctx.heartbeat({"page": 7})
        await asyncio.Event().wait()
        return []

    @app.activity
    async def undo(ctx: ActivityContext) -> None:
        ended.append("undone")

    return app


def near() -> App:
    app = App("near")

    @app.workflow
    async def ask(ctx: WorkflowContext, name: str) -> None:
        try:
            await ctx.call_activity(name, app_id="far")
        except WorkflowCancelled:
            await ctx.call_activity("undo", app_id="far")
            raise

    @app.workflow
    async def give_up(ctx: WorkflowContext, name: str) -> str:
        task = ctx.call_activity(name, app_id="far")
        await ctx.wait_for_external_event("enough")
        task.cancel("found elsewhere")
        return "over"

    @app.workflow
    async def retry(ctx: WorkflowContext) -> Any:
        policy = RetryPolicy(first_retry_interval=timedelta(0), max_number_of_attempts=2)
        found = [await ctx.call_activity("silent", app_id="far", retry_policy=policy)]
        try:
            await ctx.call_activity("silent", app_id="far")
        except HeartbeatTimeout as error:
            found.append(error.details.type)
        return found

    return app


@pytest.fixture
def began() -> Began:
    return []


@pytest.fixture
def ended() -> Began:
    return []


@pytest.fixture
async def nodes(began: Began, ended: Began) -> AsyncIterator[tuple[Node, Node]]:
    store = MemoryStore(partitions=8, shared=True)
    async with AsyncExitStack() as stack:
        asking = await stack.enter_async_context(near().serve(store=store))
        running = await stack.enter_async_context(far(began, ended).serve(store=store))
        yield asking, running


@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
@pytest.mark.parametrize("how", ["terminate", "cancel", "give_up"])
async def test_it_is_told_so(
    nodes: tuple[Node, Node], began: Began, ended: Began, kind: str, how: str
) -> None:
    asking, running = nodes
    client = asking.client
    workflow = "give_up" if how == "give_up" else "ask"
    id = await client.schedule_new_workflow(workflow, input=kind)
    await eventually(lambda: began == [kind], "it runs on the other node")
    if how == "terminate":
        await client.terminate_workflow(id)
    elif how == "cancel":
        await client.cancel_workflow(id)
    else:
        await client.raise_workflow_event(id, "enough")
    state = await client.wait_for_workflow_completion(id, timeout=PATIENCE)
    over = RuntimeStatus.COMPLETED if how == "give_up" else RuntimeStatus.TERMINATED
    assert state.runtime_status is over
    activities = running.runtime.engine.activities
    await eventually(lambda: (activities.running, activities.known) == (0, 0), "nothing runs any more")
    assert ("undone" in ended) == (how == "cancel")
    assert len(ended) == 1 + (how == "cancel")
    assert "" not in ended


async def test_its_silence_is_noticed_there_and_its_details_come_back(nodes: tuple[Node, Node]) -> None:
    asking, _ = nodes
    id = await asking.client.schedule_new_workflow("retry")
    state = await asking.client.wait_for_workflow_completion(id, timeout=PATIENCE)
    assert state.output == [[2, {"page": 7}], "HeartbeatTimeout"]
