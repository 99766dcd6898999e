"""Pause and resume, terminate, purge, and using an id again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, TaskFailedError, WorkflowContext, when_all
from perdure.errors import AlreadyExists, InstanceNotFound, InvalidState
from tests.engine.conftest import Gate


@pytest.fixture
def app(gate: Gate) -> App:
    app = App("s")

    @app.activity
    async def held(ctx: ActivityContext, n: int) -> int:
        gate.ran.append(ctx.idempotency_key)
        await gate.open.wait()
        return n

    @app.workflow
    async def listen(ctx: WorkflowContext, n: int) -> list[Any]:
        return [await ctx.wait_for_external_event("x") for _ in range(n)]

    @app.workflow
    async def work(ctx: WorkflowContext, n: int) -> int:
        return sum(await when_all([ctx.call_activity(held, input=i) for i in range(n)]))

    @app.workflow
    async def nap(ctx: WorkflowContext, ms: int) -> str:
        await ctx.create_timer(timedelta(milliseconds=ms))
        return "woken"

    @app.workflow
    async def echo(ctx: WorkflowContext, what: Any) -> Any:
        return what

    return app


async def test_what_comes_during_a_pause_is_kept(app: App, place: Any, until_status: Any, keys: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        id = await client.schedule_new_workflow("listen", input=3)
        await client.raise_workflow_event(id, "x", data=1)
        await client.pause_workflow(id, reason="holidays")
        state = await client.get_workflow_state(id)
        assert (state.runtime_status, state.reason) == (RuntimeStatus.SUSPENDED, "holidays")
        await client.raise_workflow_event(id, "x", data=2)
        await client.raise_workflow_event(id, "x", data=3)
        assert [key for key in await keys(node, id) if key.startswith("inbox-")]
    # It is still paused, and has everything, on the next node.
    async with place.serve(app) as node:
        state = await node.client.get_workflow_state(id)
        assert state.runtime_status is RuntimeStatus.SUSPENDED
        await node.client.resume_workflow(id)
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == [1, 2, 3]
        assert state.reason == ""


async def test_a_timer_that_fires_during_a_pause_waits(
    app: App, place: Any, eventually: Any, keys: Any
) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("nap", input=20)
        await node.client.pause_workflow(id)

        async def received() -> bool:
            return any(key.startswith("inbox-") for key in await keys(node, id))

        await eventually(received)
        assert (await node.client.get_workflow_state(id)).runtime_status is RuntimeStatus.SUSPENDED
        await node.client.resume_workflow(id)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == "woken"


async def test_an_activity_that_ends_during_a_pause_does_not_run_again(
    app: App, place: Any, gate: Gate, eventually: Any
) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("work", input=2)
        await eventually(lambda: len(gate.ran) == 2)
        await node.client.pause_workflow(id)
        gate.open.set()
        await eventually(lambda: node.runtime.engine.activities.known == 0)
        assert (await node.client.get_workflow_state(id)).runtime_status is RuntimeStatus.SUSPENDED
    async with place.serve(app) as node:
        await node.client.resume_workflow(id)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == 1
        assert len(gate.ran) == 2


async def test_pause_and_resume_can_be_repeated(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("listen", input=1)
        for _ in range(3):
            await node.client.pause_workflow(id)
            await node.client.pause_workflow(id)
            await node.client.resume_workflow(id)
            await node.client.resume_workflow(id)
        await node.client.raise_workflow_event(id, "x", data=1)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == [1]
        kinds = [type(event).__name__ for _, event in (await node.client.history(id)).items]
        assert kinds.count("ExecutionSuspended") == kinds.count("ExecutionResumed") == 3


@pytest.mark.parametrize("what", ["listen", "nap", "work"])
async def test_whatever_it_waits_for_it_can_be_terminated(
    app: App, place: Any, gate: Gate, what: str, keys: Any, eventually: Any, until_status: Any
) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow(what, input=3_600_000 if what == "nap" else 5, instance_id="i")
        await until_status(client, "i", RuntimeStatus.RUNNING)
        await client.terminate_workflow("i", output={"why": "tired"})
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert state.output == {"why": "tired"}
        assert not await node.store.reminders(node.runtime.engine.actor("i"))
        assert not [key for key in await keys(node, "i") if key.startswith(("inbox-", "outbox-"))]
        assert not (await node.store.load(node.runtime.engine.actor("i"))).recover
        # Results that come now are nobody's.
        gate.open.set()
        await eventually(lambda: node.runtime.engine.activities.known == 0)
        assert (await client.get_workflow_state("i")).runtime_status is RuntimeStatus.TERMINATED


async def test_a_paused_instance_can_be_terminated(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("listen", input=1)
        await node.client.pause_workflow(id)
        await node.client.terminate_workflow(id, reason="no more")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert state.failure_details.message == "no more"


async def test_terminating_what_has_ended_changes_nothing(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        before = await run(node.client, "echo", 1, instance_id="e")
        await node.client.terminate_workflow("e", output=2)
        after = await node.client.get_workflow_state("e")
        assert (after.runtime_status, after.output) == (RuntimeStatus.COMPLETED, 1)
        assert after.last_updated_at == before.last_updated_at


async def test_steering_what_has_ended_is_refused(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "echo", 1, instance_id="e")
        for _ in range(2):  # the same answer each time
            with pytest.raises(InvalidState, match="completed"):
                await node.client.pause_workflow("e")
            with pytest.raises(InvalidState, match="completed"):
                await node.client.resume_workflow("e")
            with pytest.raises(InvalidState, match="no more events"):
                await node.client.raise_workflow_event("e", "x")


async def test_steering_what_is_not_there_says_so(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        for call in (
            client.pause_workflow,
            client.resume_workflow,
            client.terminate_workflow,
            client.purge_workflow,
            client.history,
            client.wait_for_workflow_start,
            client.wait_for_workflow_completion,
        ):
            with pytest.raises(InstanceNotFound, match="no such instance exists"):
                await call("nobody")
        with pytest.raises(InstanceNotFound):
            await client.raise_workflow_event("nobody", "x")
        assert await client.get_workflow_state("nobody") is None


async def test_a_purge_leaves_a_tombstone_only(app: App, place: Any, run: Any, keys: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "echo", "x" * 1000, instance_id="e")
        await node.client.purge_workflow("e")
        assert list(await keys(node, "e")) == ["metadata"]
        assert await node.client.get_workflow_state("e") is None
        assert not (await node.client.list()).items
        with pytest.raises(InstanceNotFound):
            await node.client.purge_workflow("e")
        with pytest.raises(InstanceNotFound):
            await node.client.history("e")
        (reminder,) = await node.store.reminders(node.runtime.engine.actor("e"))
        assert reminder.name == "forget"


async def test_a_tombstone_goes_after_a_day(
    app: App, memory_place: Any, run: Any, eventually: Any, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.workflow.controls.TOMBSTONE", 20_000)
    async with memory_place.serve(app) as node:
        await run(node.client, "echo", 1, instance_id="e")
        await node.client.purge_workflow("e")

        async def gone() -> bool:
            return await node.store.load(node.runtime.engine.actor("e")) is None

        await eventually(gone)
        assert not await keys(node, "e")
        assert not await node.store.reminders(node.runtime.engine.actor("e"))


async def test_an_id_is_free_again_after_a_purge(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "echo", 1, instance_id="e")
        await node.client.purge_workflow("e")
        assert (await run(node.client, "echo", 2, instance_id="e")).output == 2
        assert (await node.client.get_workflow_state("e")).generation == 2


async def test_an_active_id_is_taken_and_a_finished_one_is_not(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("listen", input=1, instance_id="i")
        with pytest.raises(AlreadyExists, match="'i'"):
            await node.client.schedule_new_workflow("echo", input=1, instance_id="i")
        await node.client.pause_workflow("i")
        with pytest.raises(AlreadyExists):
            await node.client.schedule_new_workflow("echo", input=1, instance_id="i")
        await node.client.resume_workflow("i")
        await node.client.raise_workflow_event("i", "x", data=1)
        first = await node.client.wait_for_workflow_completion("i", timeout=30)
        second = await run(node.client, "echo", {"new": True}, instance_id="i")
        assert second.output == {"new": True}
        assert (second.generation, second.name) == (2, "echo")
        assert second.execution_id != first.execution_id
        assert len((await node.client.history("i")).items) == 2


async def test_only_one_of_many_starts_of_one_id_wins(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        starts = [node.client.schedule_new_workflow("listen", input=1, instance_id="i") for _ in range(20)]
        results = await asyncio.gather(*starts, return_exceptions=True)
        assert sum(result == "i" for result in results) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 19


async def test_the_old_execution_does_not_answer_for_the_new_one(
    app: App, place: Any, gate: Gate, eventually: Any, run: Any
) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("work", input=1, instance_id="i")
        await eventually(lambda: len(gate.ran) == 1)
        await node.client.terminate_workflow("i")
        await node.client.schedule_new_workflow("work", input=1, instance_id="i")
        await eventually(lambda: len(gate.ran) == 2)
        gate.open.set()
        assert (await node.client.wait_for_workflow_completion("i", timeout=30)).generation == 2
        assert len(set(gate.ran)) == 2


async def test_a_failed_workflow_can_be_caught_by_its_parent_after_a_pause(app: App, place: Any) -> None:
    @app.workflow
    async def bad(ctx: WorkflowContext) -> None:
        await ctx.wait_for_external_event("x")
        raise RuntimeError("bad")

    @app.workflow
    async def parent(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_child_workflow(bad, instance_id="b")
        except TaskFailedError as error:
            return error.details.type
        return ""

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(parent)
        await node.client.pause_workflow(id)
        while await node.client.get_workflow_state("b") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        await node.client.raise_workflow_event("b", "x")
        await node.client.wait_for_workflow_completion("b", timeout=30)
        await node.client.resume_workflow(id)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == "RuntimeError"
