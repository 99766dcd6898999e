"""What exactly is stored: the rows of simple workflows, and the commits that make them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, WorkflowContext


@pytest.fixture
def app() -> App:
    app = App("r")

    @app.activity
    async def act(ctx: ActivityContext) -> int:
        return 1

    @app.workflow
    async def nothing(ctx: WorkflowContext) -> None: ...

    @app.workflow
    async def activities(ctx: WorkflowContext, n: int) -> None:
        for _ in range(n):
            await ctx.call_activity(act)

    @app.workflow
    async def timers(ctx: WorkflowContext, n: int) -> None:
        for _ in range(n):
            await ctx.create_timer(timedelta(milliseconds=1))

    @app.workflow
    async def events(ctx: WorkflowContext, n: int) -> None:
        for _ in range(n):
            await ctx.wait_for_external_event("x")

    @app.workflow
    async def child(ctx: WorkflowContext) -> None:
        await ctx.call_child_workflow(nothing)

    @app.workflow
    async def status(ctx: WorkflowContext) -> None:
        ctx.set_custom_status("s")

    return app


#: workflow, input, history events, commits
CASES = [
    ("nothing", None, 2, 1),
    ("activities", 1, 4, 2),
    ("activities", 10, 22, 11),
    ("timers", 1, 4, 2),
    ("timers", 3, 8, 4),
    ("events", 1, 3, 2),
    ("events", 4, 6, 5),
    ("child", None, 4, 2),
]


@pytest.mark.parametrize(("name", "input", "events", "commits"), CASES)
async def test_rows_and_commits(
    app: App, place: Any, keys: Any, name: str, input: Any, events: int, commits: int
) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(name, input=input, instance_id="i")
        for n in range(input if name == "events" else 0):
            await node.client.raise_workflow_event("i", "x", data=n)
        await node.client.wait_for_workflow_completion("i", timeout=30)
        assert list(await keys(node, "i")) == [
            "customStatus",
            "metadata",
            *(f"history-{n:06d}" for n in range(events)),
        ]
        assert len(place.last.of("i")) == commits
        assert not await node.store.reminders(node.runtime.engine.actor("i"))
        assert not (await node.store.load(node.runtime.engine.actor("i"))).recover


async def test_a_custom_status_takes_the_key_that_is_always_there(
    app: App, place: Any, run: Any, keys: Any
) -> None:
    async with place.serve(app) as node:
        await run(node.client, "status", instance_id="i")
        stored = await keys(node, "i")
        assert sorted(stored) == ["customStatus", "history-000000", "history-000001", "metadata"]
        assert stored["customStatus"] == b'"s"'


async def test_a_child_owes_its_result_until_it_is_taken(
    app: App, place: Any, run: Any, keys: Any, eventually: Any
) -> None:
    async with place.serve(app) as node:
        await run(node.client, "child", instance_id="i")
        first, last = place.last.of("i:1:0000")[0], place.last.of("i:1:0000")[-1]
        assert first.recover
        assert "outbox-000000" in first.put

        async def settled() -> bool:
            return "outbox-000000" not in await keys(node, "i:1:0000")

        await eventually(settled)
        last = place.last.of("i:1:0000")[-1]
        assert last.recover is False
        assert len(place.last.of("i:1:0000")) == 2


async def test_the_mark_recover_is_written_only_when_it_changes(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "activities", 5, instance_id="i")
        marks = [commit.recover for commit in place.last.of("i")]
        assert marks == [True, None, None, None, None, False]
