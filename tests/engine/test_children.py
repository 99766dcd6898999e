"""Child workflows: results, failures, ids, and what becomes of them when somebody ends or deletes one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    ActivityContext,
    App,
    RetryPolicy,
    RuntimeStatus,
    TaskFailedError,
    WorkflowContext,
    when_all,
)
from perdure.errors import InvalidState
from perdure.workflow.requests import Purge, Start, Terminate


@pytest.fixture
def app() -> App:
    app = App("c")

    @app.workflow
    async def double(ctx: WorkflowContext, n: int) -> int:
        return n * 2

    @app.workflow
    async def failing(ctx: WorkflowContext) -> None:
        raise ValueError("child's reason")

    @app.workflow
    async def waiting(ctx: WorkflowContext) -> Any:
        return await ctx.wait_for_external_event("go")

    @app.workflow
    async def parent(ctx: WorkflowContext, child: list[Any]) -> Any:
        """`child`: name, input, instance id."""
        name, input, id = child
        try:
            return await ctx.call_child_workflow(name, input=input, instance_id=id)
        except TaskFailedError as error:
            return [error.details.type, error.details.message]

    return app


async def test_the_result_comes_back(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        state = await run(node.client, "parent", ["double", 4, None], instance_id="p")
        assert state.output == 8
        child = await node.client.get_workflow_state("p:1:0000")
        assert child is not None
        assert child.parent_instance_id == "p"


async def test_a_failure_comes_back_with_its_reason(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        state = await run(node.client, "parent", ["failing", None, None])
        assert state.output == ["ValueError", "child's reason"]


async def test_an_unregistered_child_fails_its_call(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        kind, message = (await run(node.client, "parent", ["unheard", None, None])).output
        assert kind == "WorkflowNotRegistered"
        assert "unheard" in message


async def test_an_id_that_is_taken_fails_the_call(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("waiting", instance_id="mine")
        kind, message = (await run(node.client, "parent", ["double", 1, "mine"])).output
        assert kind == "WorkflowInstanceAlreadyExists"
        assert "mine" in message
        still = await node.client.get_workflow_state("mine")
        assert still is not None
        assert still.name == "waiting"


async def test_a_finished_id_may_be_used_again(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "double", 1, instance_id="mine")
        state = await run(node.client, "parent", ["double", 5, "mine"])
        assert state.output == 10
        child = await node.client.get_workflow_state("mine")
        assert child is not None
        assert (child.generation, child.parent_instance_id) == (2, state.instance_id)


async def test_a_terminated_child_fails_the_call(app: App, place: Any, until_status: Any) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("parent", input=["waiting", None, "kid"])
        await until_status(node.client, "kid", RuntimeStatus.RUNNING)
        await node.client.terminate_workflow("kid", reason="enough")
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == ["WorkflowTerminated", "enough"]


async def test_a_child_that_ended_while_its_parent_was_away_is_heard(
    app: App, place: Any, until_status: Any, evict: Any, eventually: Any
) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("parent", input=["waiting", None, "kid"])
        await until_status(node.client, "kid", RuntimeStatus.RUNNING)
        await eventually(lambda: evict(node, id))
        await eventually(lambda: evict(node, "kid"))
        await node.client.raise_workflow_event("kid", "go", data=7)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == 7


async def test_children_in_parallel(app: App, place: Any, run: Any) -> None:
    @app.workflow
    async def fan(ctx: WorkflowContext) -> int:
        return sum(await when_all([ctx.call_child_workflow("double", input=n) for n in range(50)]))

    async with place.serve(app) as node:
        assert (await run(node.client, fan)).output == sum(range(50)) * 2


async def test_a_retried_child_gets_another_id(app: App, place: Any, run: Any) -> None:
    seen: list[str] = []

    @app.activity
    async def note(ctx: ActivityContext) -> int:
        seen.append(ctx.instance_id)
        return len(seen)

    @app.workflow
    async def flaky(ctx: WorkflowContext) -> str:
        if await ctx.call_activity(note) < 3:
            raise ValueError("again")
        return "good"

    @app.workflow
    async def retrying(ctx: WorkflowContext) -> str:
        policy = RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=3)
        return await ctx.call_child_workflow(flaky, retry_policy=policy)

    async with place.serve(app) as node:
        assert (await run(node.client, retrying)).output == "good"
        assert len(set(seen)) == 3


async def test_a_child_that_nobody_awaits_still_runs(app: App, place: Any, run: Any, eventually: Any) -> None:
    @app.workflow
    async def leave(ctx: WorkflowContext) -> str:
        ctx.call_child_workflow("double", input=3, instance_id="kid")
        return "left"

    async with place.serve(app) as node:
        assert (await run(node.client, leave)).output == "left"

        async def born() -> bool:
            return await node.client.get_workflow_state("kid") is not None

        await eventually(born)
        assert (await node.client.wait_for_workflow_completion("kid", timeout=30)).output == 6


async def test_a_detached_child_outlives_its_starter(
    app: App, place: Any, run: Any, until_status: Any
) -> None:
    @app.workflow
    async def send_off(ctx: WorkflowContext) -> str:
        return ctx.detach("waiting", instance_id="free")

    async with place.serve(app) as node:
        assert (await run(node.client, send_off)).output == "free"
        state = await until_status(node.client, "free", RuntimeStatus.RUNNING)
        assert state.parent_instance_id is None


async def test_terminating_a_parent_ends_its_children(app: App, place: Any, until_status: Any) -> None:
    @app.workflow
    async def top(ctx: WorkflowContext) -> Any:
        return await ctx.call_child_workflow("parent", input=["waiting", None, "leaf"], instance_id="middle")

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(top, instance_id="top")
        await until_status(node.client, "leaf", RuntimeStatus.RUNNING)
        await node.client.terminate_workflow("top")
        for id in ("top", "middle", "leaf"):
            await until_status(node.client, id, RuntimeStatus.TERMINATED)


async def test_unless_told_otherwise(app: App, place: Any, until_status: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("parent", input=["waiting", None, "kid"], instance_id="p")
        await until_status(node.client, "kid", RuntimeStatus.RUNNING)
        await node.client.terminate_workflow("p", recursive=False)
        await until_status(node.client, "p", RuntimeStatus.TERMINATED)
        await node.client.raise_workflow_event("kid", "go", data="on")
        assert (await node.client.wait_for_workflow_completion("kid", timeout=30)).output == "on"


async def test_purging_a_parent_deletes_its_children(app: App, place: Any, run: Any, eventually: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "parent", ["double", 2, "kid"], instance_id="p")
        await node.client.purge_workflow("p")
        assert await node.client.get_workflow_state("p") is None

        async def gone() -> bool:
            return await node.client.get_workflow_state("kid") is None

        await eventually(gone)


async def test_a_start_that_comes_after_its_purge_is_refused(app: App, place: Any, eventually: Any) -> None:
    """A cascaded terminate or purge may overtake the child's start."""
    async with place.serve(app) as node:
        client, engine = node.client, node.runtime.engine
        start = Start("double", "the-start", b"1")
        answers: list[Any] = []
        await node.runtime.workflows._request(
            "late", "terminate", Terminate(recursive=True, start_id="the-start")
        )
        engine.router.send(engine.actor("late"), "start", start, answers.append)
        await eventually(lambda: answers)
        assert type(answers[0]).__name__ == "Purged"
        assert await client.get_workflow_state("late") is None
        # Another start is another instance.
        await client.schedule_new_workflow("double", input=2, instance_id="late")
        assert (await client.wait_for_workflow_completion("late", timeout=30)).output == 4


async def test_a_purge_for_another_start_changes_nothing(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "double", 1, instance_id="mine")
        await node.runtime.workflows._request(
            "mine", "purge", Purge(recursive=True, force=False, start_id="other")
        )
        assert await node.client.get_workflow_state("mine") is not None


async def test_a_running_child_can_be_purged_only_by_force(app: App, place: Any, until_status: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("waiting", instance_id="kid")
        await until_status(node.client, "kid", RuntimeStatus.RUNNING)
        with pytest.raises(InvalidState, match="terminate it"):
            await node.client.purge_workflow("kid")
        await node.client.purge_workflow("kid", force=True)
        assert await node.client.get_workflow_state("kid") is None


async def test_an_event_from_one_workflow_to_another(
    app: App, place: Any, until_status: Any, run: Any
) -> None:
    @app.workflow
    async def teller(ctx: WorkflowContext) -> str:
        ctx.send_event("listener", "GO", {"from": ctx.instance_id})
        return "told"

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("waiting", instance_id="listener")
        await until_status(node.client, "listener", RuntimeStatus.RUNNING)
        await run(node.client, teller, instance_id="t")
        state = await node.client.wait_for_workflow_completion("listener", timeout=30)
        assert state.output == {"from": "t"}
