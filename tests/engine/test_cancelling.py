"""Activities and workflows that are cancelled while they run, on whole nodes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from perdure import (
    ActivityContext,
    App,
    RuntimeStatus,
    TaskCancelledError,
    TaskFailedError,
    WorkflowCancelled,
    WorkflowContext,
    when_any,
)
from perdure.errors import InstanceNotFound


class Seen:
    """What activities have lived to see."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.go_on = threading.Event()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def app(seen: Seen) -> App:
    app = App("c")

    @app.activity
    async def on_loop(ctx: ActivityContext, what: str) -> str:
        seen.began.append(what)
        try:
            await asyncio.Event().wait()
        finally:
            seen.ended.append(f"{what}: {ctx.cancelled} {ctx.cancel_reason}")
        return what

    @app.activity
    def in_thread(ctx: ActivityContext, what: str) -> str:
        seen.began.append(what)
        try:
            while not seen.go_on.wait(0.001):
                ctx.raise_if_cancelled()
        finally:
            seen.ended.append(f"{what}: {ctx.cancelled}")
        return what

    @app.activity
    async def note(ctx: ActivityContext, what: str) -> str:
        seen.ended.append(what)
        return what

    @app.workflow
    async def one(ctx: WorkflowContext, name: str) -> Any:
        return await ctx.call_activity(name, input="a")

    @app.workflow
    async def saga(ctx: WorkflowContext, name: str) -> Any:
        try:
            return await ctx.call_activity(name, input="a")
        except WorkflowCancelled as error:
            await ctx.call_activity(note, input=f"undone: {error.reason}")
            raise

    @app.workflow
    async def family(ctx: WorkflowContext, name: str) -> Any:
        return await ctx.call_child_workflow(saga, input=name, instance_id=f"{ctx.instance_id}-child")

    @app.workflow
    async def race(ctx: WorkflowContext, name: str) -> list[Any]:
        slow = ctx.call_activity(name, input="slow")
        event = ctx.wait_for_external_event("enough")
        await when_any([slow, event])
        slow.cancel()
        try:
            await slow
        except TaskCancelledError as error:
            await ctx.call_activity(note, input="next")
            return [error.details.type]
        return []

    return app


@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
async def test_terminating_reaches_running_activities(
    app: App, seen: Seen, place: Any, eventually: Any, kind: str
) -> None:
    async with place.serve(app) as node:
        activities = node.runtime.engine.activities
        id = await node.client.schedule_new_workflow("one", input=kind)
        await eventually(lambda: seen.began)
        await node.client.terminate_workflow(id)
        await eventually(lambda: seen.ended)
        assert seen.ended[0].startswith("a: True")
        await eventually(lambda: (activities.running, activities.known) == (0, 0))
        state = await node.client.get_workflow_state(id)
        assert state is not None
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert state.output is None


async def test_a_cancelled_activity_that_is_queued_never_runs(
    app: App, seen: Seen, place: Any, eventually: Any, run: Any
) -> None:
    async with place.serve(app, max_concurrent_activities=1) as node:
        activities = node.runtime.engine.activities
        first = await node.client.schedule_new_workflow("one", input="on_loop")
        await eventually(lambda: seen.began)
        second = await node.client.schedule_new_workflow("one", input="in_thread")
        third = await node.client.schedule_new_workflow("one", input="on_loop")
        await eventually(lambda: activities.queued == 2)
        await node.client.terminate_workflow(second)
        await eventually(lambda: activities.queued == 1)
        await node.client.terminate_workflow(first)
        await eventually(lambda: len(seen.began) == 2)
        await node.client.terminate_workflow(third)
        await eventually(lambda: (activities.running, activities.queued, activities.known) == (0, 0, 0))
        assert len(seen.ended) == 2


async def test_an_activity_that_does_not_look_keeps_its_place_and_is_not_heard(
    app: App, seen: Seen, memory_place: Any, eventually: Any, run: Any
) -> None:
    deaf = threading.Event()

    @app.activity(max_concurrent=1)
    def stubborn(ctx: ActivityContext, n: int) -> int:
        seen.began.append(str(n))
        deaf.wait(30)
        return n

    @app.workflow
    async def ask(ctx: WorkflowContext, n: int) -> int:
        return await ctx.call_activity(stubborn, input=n)

    async with memory_place.serve(app) as node:
        activities = node.runtime.engine.activities
        first = await node.client.schedule_new_workflow(ask, input=1)
        await eventually(lambda: seen.began == ["1"])
        await node.client.terminate_workflow(first)
        await eventually(lambda: activities.known == 0)
        second = await node.client.schedule_new_workflow(ask, input=2)
        await eventually(lambda: activities.queued == 1)
        assert activities.running == 1
        deaf.set()
        assert (await node.client.wait_for_workflow_completion(second, timeout=30)).output == 2
        state = await node.client.get_workflow_state(first)
        assert state is not None
        assert state.output is None


async def test_one_that_is_cancelled_before_its_first_step_leaves_its_place(
    app: App, seen: Seen, memory_place: Any, run: Any, eventually: Any
) -> None:
    """Many at once, so that some are cancelled in every state."""

    @app.workflow
    async def brief(ctx: WorkflowContext, n: int) -> None:
        tasks = [ctx.call_activity("on_loop", input=str(i)) for i in range(n)]
        await ctx.call_activity("note", input="go")
        for task in tasks:
            task.cancel()

    async with memory_place.serve(app) as node:
        activities = node.runtime.engine.activities
        for n in (1, 5, 50):
            assert (await run(node.client, brief, n)).runtime_status is RuntimeStatus.COMPLETED
        await eventually(lambda: (activities.running, activities.queued, activities.known) == (0, 0, 0))
        assert node.runtime.engine.dispatcher._out == {}


@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
async def test_a_task_that_lost_its_use_is_cancelled(
    app: App, seen: Seen, place: Any, eventually: Any, kind: str
) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("race", input=kind)
        await eventually(lambda: seen.began)
        await node.client.raise_workflow_event(id, "enough")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == ["TaskCancelledError"]
        await eventually(lambda: len(seen.ended) == 2)
        assert any(one.startswith("slow: True") for one in seen.ended)


async def test_a_cancelled_task_is_not_asked_for_again_after_a_restart(
    app: App, seen: Seen, place: Any, eventually: Any
) -> None:
    seen.go_on.clear()

    @app.workflow
    async def give_up(ctx: WorkflowContext) -> str:
        task = ctx.call_activity("on_loop", input="slow")
        await ctx.wait_for_external_event("enough")
        task.cancel()
        await ctx.wait_for_external_event("end")
        return "over"

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(give_up)
        await eventually(lambda: seen.began == ["slow"])
        await node.client.raise_workflow_event(id, "enough")
        await eventually(lambda: seen.ended)
        commits = place.last.of(id)
        # Nothing is owed any more, and the store knows.
        assert [commit.recover for commit in commits if commit.recover is not None] == [True, False]
    async with place.serve(app) as node:
        await node.client.raise_workflow_event(id, "end")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == "over"
        assert seen.began == ["slow"]


# --- the workflow ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
async def test_a_cancelled_workflow_undoes_and_is_terminated(
    app: App, seen: Seen, place: Any, eventually: Any, kind: str
) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("saga", input=kind)
        await eventually(lambda: seen.began)
        await node.client.cancel_workflow(id, reason="no more")
        await node.client.cancel_workflow(id, reason="again")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert state.failure_details is not None
        assert state.failure_details.type == "WorkflowCancelled"
        assert "no more" in state.failure_details.message
        await eventually(lambda: len(seen.ended) == 2)
        assert "undone: no more" in seen.ended
        assert any(one.startswith("a: True") for one in seen.ended)
        # Too late, and no error.
        await node.client.cancel_workflow(id)
        with pytest.raises(InstanceNotFound):
            await node.client.cancel_workflow("nobody")


async def test_a_child_that_is_waited_for_is_cancelled_too(
    app: App, seen: Seen, place: Any, eventually: Any
) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("family", input="on_loop", instance_id="f")
        await eventually(lambda: seen.began)
        await node.client.cancel_workflow(id, reason="enough")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        child = await node.client.wait_for_workflow_completion("f-child", timeout=30)
        assert child.runtime_status is RuntimeStatus.TERMINATED
        assert any(one.startswith("undone") for one in seen.ended)


async def test_a_child_that_is_cancelled_fails_its_parent(
    app: App, seen: Seen, place: Any, eventually: Any
) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("family", input="on_loop", instance_id="f")
        await eventually(lambda: seen.began)
        await node.client.cancel_workflow("f-child", reason="enough")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.runtime_status is RuntimeStatus.FAILED
        assert state.failure_details is not None
        assert "WorkflowCancelled" in state.failure_details.message


async def test_what_has_not_begun_ends_at_once(app: App, seen: Seen, place: Any, eventually: Any) -> None:
    @app.workflow(max_concurrent=1)
    async def narrow(ctx: WorkflowContext) -> None:
        seen.began.append(ctx.instance_id)
        await ctx.wait_for_external_event("end")

    async with place.serve(app, replay_check="off") as node:
        first = await node.client.schedule_new_workflow(narrow)
        await eventually(lambda: seen.began)
        second = await node.client.schedule_new_workflow(narrow)
        await node.client.cancel_workflow(second, reason="no room")
        state = await node.client.wait_for_workflow_completion(second, timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert state.failure_details is not None
        assert state.failure_details.type == "WorkflowCancelled"
        await node.client.raise_workflow_event(first, "end")
        await node.client.wait_for_workflow_completion(first, timeout=30)
        assert set(seen.began) == {first}


async def test_what_is_paused_is_cancelled_when_it_goes_on(
    app: App, seen: Seen, place: Any, eventually: Any
) -> None:
    async with place.serve(app, drain_seconds=0) as node:
        id = await node.client.schedule_new_workflow("saga", input="on_loop")
        await eventually(lambda: seen.began)
        await node.client.pause_workflow(id)
        await node.client.cancel_workflow(id, reason="later")
        state = await node.client.get_workflow_state(id)
        assert state is not None
        assert state.runtime_status is RuntimeStatus.SUSPENDED
    seen.go_on.clear()
    async with place.serve(app) as node:
        await node.client.resume_workflow(id)
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        await eventually(lambda: "undone: later" in seen.ended)


async def test_a_cancel_that_comes_with_the_next_execution_is_not_lost(
    app: App, place: Any, eventually: Any
) -> None:
    """Acknowledged is acknowledged, also where the code begins anew in that very turn."""
    rounds: list[int] = []

    @app.workflow
    async def endless(ctx: WorkflowContext, n: int) -> None:
        rounds.append(n)
        await ctx.wait_for_external_event("next")
        ctx.continue_as_new(n + 1, save_events=False)

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(endless, input=0)
        await eventually(lambda: rounds)
        # Together in one turn: the event first.
        await asyncio.gather(node.client.raise_workflow_event(id, "next"), node.client.cancel_workflow(id))
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED


async def test_parents_see_that_an_activity_failed_by_its_own_cancelling(place: Any, run: Any) -> None:
    """Nobody has cancelled it: an error as any other."""
    app = App("c")

    @app.activity
    async def odd(ctx: ActivityContext) -> None:
        raise asyncio.CancelledError

    @app.workflow
    async def ask(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity(odd)
        except TaskFailedError as error:
            return error.details.type
        return ""

    async with place.serve(app) as node:
        assert (await run(node.client, ask)).output == "CancelledError"
