"""What an instance waits for can be told, in memory or not, without changing anything."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, RetryPolicy, WorkflowContext, when_any
from perdure.workflow import metadata
from perdure.workflow.explain import OpenTask, Place
from perdure.workflow.replay import sides


class Gates:
    def __init__(self) -> None:
        self.runs = 0
        self.open = asyncio.Event()
        self.changed = False


@pytest.fixture
async def gates() -> Gates:
    return Gates()


@pytest.fixture
def app(gates: Gates) -> App:
    app = App("e")

    @app.activity
    async def slow(ctx: ActivityContext) -> None:
        await gates.open.wait()

    @app.activity
    async def fail(ctx: ActivityContext) -> None:
        raise ValueError("no")

    @app.workflow
    async def waits(ctx: WorkflowContext) -> Any:
        gates.runs += 1
        task = ctx.call_activity(slow) if not gates.changed else ctx.create_timer(timedelta(hours=9))
        return await when_any(
            [
                task,
                ctx.create_timer(timedelta(hours=1)),
                ctx.wait_for_external_event("plain"),
                ctx.wait_for_external_event("limited", timeout=timedelta(hours=2)),
            ]
        )

    @app.workflow
    async def listens(ctx: WorkflowContext) -> Any:
        gates.runs += 1
        if gates.changed:
            await ctx.create_timer(timedelta(hours=1))
        await ctx.wait_for_external_event("first")
        return await ctx.wait_for_external_event("second")

    @app.workflow
    async def retries(ctx: WorkflowContext) -> None:
        policy = RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=3)
        await ctx.call_activity(fail, retry_policy=policy)

    @app.workflow
    async def lost(ctx: WorkflowContext) -> None:
        await ctx.call_activity("nobody has this", app_id="elsewhere")

    return app


@pytest.fixture
def look(keys: Any) -> Any:
    async def go(node: Any, id: str) -> Any:
        meta = metadata.decode((await keys(node, id))["metadata"])
        return await node.runtime.engine.explainer.waits(node.runtime.engine.actor(id), meta)

    return go


@pytest.fixture
def places(keys: Any) -> Any:
    async def go(node: Any, id: str, *tasks: OpenTask) -> Any:
        meta = metadata.decode((await keys(node, id))["metadata"])
        return node.runtime.engine.explainer.places(node.runtime.engine.actor(id), meta, tasks)

    return go


async def test_an_instance_in_memory(app: App, place: Any, look: Any, places: Any, gates: Gates) -> None:
    async with place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow("waits")
        await node.client.wait_for_workflow_start(id)
        found = await look(node, id)
        kinds = sorted(wait.split(" ")[0] for wait in found.found)
        assert kinds == ["activity", "event", "event", "timer"]
        assert "event plain" in found.found
        assert gates.runs == 1
        assert await places(node, id, OpenTask(0, "slow")) == [Place(node.node_id, "running")]
        gates.open.set()


async def test_an_instance_that_is_not_is_left_there(
    app: App, place: Any, look: Any, gates: Gates, evict: Any, eventually: Any
) -> None:
    async with place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow("listens")
        await node.client.wait_for_workflow_start(id)
        await node.client.raise_workflow_event(id, "first")
        await eventually(lambda: evict(node, id))
        commits = len(place.last.batches)
        assert (await look(node, id)).found == ("event second",)
        # It is asked for again and again, and replayed once.
        assert (await look(node, id)).found == ("event second",)
        assert gates.runs == 2
        assert not node.runtime.engine.explainer.in_memory(node.runtime.engine.actor(id))
        assert len(place.last.batches) == commits
        # Looking has not used up anything.
        await node.client.raise_workflow_event(id, "second")
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).failure_details is None


async def test_code_that_does_not_fit_says_so_and_nothing_else_happens(
    app: App, place: Any, look: Any, gates: Gates, evict: Any, eventually: Any
) -> None:
    async with place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow("waits")
        await node.client.wait_for_workflow_start(id)
        await eventually(lambda: evict(node, id))
        gates.changed = True
        found = await look(node, id)
        assert found.found is None
        assert "History: activity 'slow' (task 0)" in found.why
        state = await node.client.get_workflow_state(id)
        assert state.runtime_status == "running"
        gates.open.set()


async def test_an_instance_that_changes_all_the_time_is_spared(
    app: App, place: Any, look: Any, gates: Gates, evict: Any, eventually: Any, monkeypatch: Any
) -> None:
    async with place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow("listens")
        await node.client.wait_for_workflow_start(id)
        await eventually(lambda: evict(node, id))
        monkeypatch.setattr("perdure.workflow.explain.SPARING", 10**9)
        assert (await look(node, id)).found == ("event first",)
        await node.client.raise_workflow_event(id, "else")
        await eventually(lambda: evict(node, id))
        found = await look(node, id)
        assert (found.found, found.later) == (None, True)
        node.runtime.engine.explainer._rest_until.clear()
        assert (await look(node, id)).found == ("event first",)


async def test_a_stalled_instance_is_not_run_for_a_look(
    app: App, place: Any, look: Any, gates: Gates, until_status: Any
) -> None:
    from perdure import RuntimeStatus

    async with place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow("listens")
        await node.client.wait_for_workflow_start(id)
    gates.changed = True
    async with place.serve(app, replay_check="off") as node:
        await node.client.raise_workflow_event(id, "first")
        state = await until_status(node.client, id, RuntimeStatus.STALLED)
        runs = gates.runs
        found = await look(node, id)
        assert (found.found, gates.runs) == (None, runs)
        assert "stalled" in found.why
        # What was stored can be taken apart again.
        assert "by chance or a clock: use ctx.random()" in state.reason
        history, now = sides(state.reason) or ("", "")
        assert history.startswith("nothing more") or "history event" in history
        assert "a timer (task 0)" in now


def test_other_reasons_have_no_sides() -> None:
    assert sides("") is None
    assert sides("this code held the event loop too long") is None


async def test_where_activities_are(
    app: App, place: Any, places: Any, look: Any, gates: Gates, eventually: Any
) -> None:
    async with place.serve(app, replay_check="off") as node:
        id = await node.client.schedule_new_workflow("lost")
        await node.client.wait_for_workflow_start(id)
        lost = OpenTask(0, "nobody has this", "elsewhere")
        assert await places(node, id, lost, OpenTask(1, "slow"), OpenTask(2, "none")) == [
            Place("", "nobody"),
            Place(node.node_id, "expected"),
            Place("", "nobody"),
        ]


async def test_a_full_queue_shows(app: App, memory_place: Any, places: Any, gates: Gates) -> None:
    async with memory_place.serve(app, replay_check="off", max_concurrent_activities=1) as node:
        ids = [await node.client.schedule_new_workflow("waits") for _ in range(2)]
        for id in ids:
            await node.client.wait_for_workflow_start(id)
        states = [(await places(node, id, OpenTask(0, "slow")))[0].state for id in ids]
        assert sorted(states) == ["queued", "running"]
        gates.open.set()
