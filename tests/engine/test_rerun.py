"""Running finished instances again, from the start or from what their code once asked for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext, when_all
from perdure.errors import AlreadyExists, InstanceNotFound, InvalidInput, InvalidState, NotFound


@pytest.fixture
def ran() -> list[Any]:
    return []


@pytest.fixture
def app(ran: list[Any]) -> App:
    app = App("again")

    @app.activity
    async def note(ctx: ActivityContext, what: Any) -> Any:
        ran.append((ctx.instance_id, what, ctx.idempotency_key))
        if what == "bad":
            raise ValueError("bad")
        return what

    @app.workflow
    async def echo(ctx: WorkflowContext, what: Any) -> Any:
        return await ctx.call_activity(note, input=what)

    @app.workflow
    async def steps(ctx: WorkflowContext, second: str) -> list[Any]:
        """Events: 0 start, 1 first, 2 its answer, 3 second, 4 its answer, …"""
        chosen = ctx.random().choice(["a", "b"])
        first = await ctx.call_activity(note, input=[chosen, str(ctx.new_uuid())])
        got = await ctx.call_activity(note, input=second)
        child = await ctx.call_child_workflow(echo, input="child")
        await ctx.create_timer(timedelta(milliseconds=20))
        return [
            first,
            got,
            child,
            await ctx.wait_for_external_event("go", timeout=timedelta(milliseconds=10)),
        ]

    @app.workflow
    async def side_by_side(ctx: WorkflowContext) -> list[Any]:
        one, two = ctx.call_activity(note, input="one"), ctx.call_activity(note, input="two")
        return await when_all([one, two, ctx.call_child_workflow(echo, input="three")])

    @app.workflow
    async def leaves(ctx: WorkflowContext) -> None:
        ctx.call_activity(note, input="left")

    return app


async def test_from_the_start(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await run(client, "echo", 1, instance_id="i", tags={"a": "b"})
        id = await client.rerun_workflow("i")
        state = await client.wait_for_workflow_completion(id, timeout=30)
        assert (state.output, state.tags, state.generation) == (1, {"a": "b"}, 1)
        assert await client.rerun_workflow("i", new_instance_id="j", input=2) == "j"
        assert (await client.wait_for_workflow_completion("j", timeout=30)).output == 2
        assert (await client.get_workflow_state("i")).output == 1


async def test_what_was_done_before_is_not_done_again(app: App, place: Any, run: Any, ran: list[Any]) -> None:
    async with place.serve(app) as node:
        client = node.client
        failed = await run(client, "steps", "bad", instance_id="i")
        assert failed.runtime_status is RuntimeStatus.FAILED
        first = ran[0][1]
        ran.clear()
        await client.rerun_workflow("i", from_event=3, new_instance_id="j", input="good")
        state = await client.wait_for_workflow_completion("j", timeout=30)
        # It ends as any would of which nobody raises the event.
        assert state.failure_details.type == "EventTimeout"
        assert [(id, what) for id, what, _ in ran] == [("j", "good"), ("j:1:0002", "child")]
        history = (await client.history("j")).items
        assert history[2][1].result is not None
        assert first[0] in ("a", "b")
        # Not those of the first: what is done anew has other idempotency keys.
        assert state.execution_id in ran[0][2]
        assert (await client.get_workflow_state("i")).runtime_status is RuntimeStatus.FAILED


async def test_on_another_node_it_goes_on(app: App, place: Any, run: Any, ran: list[Any]) -> None:
    async with place.serve(app) as node:
        await run(node.client, "steps", "bad", instance_id="i")
        await node.client.rerun_workflow("i", from_event=1, new_instance_id="j")
    async with place.serve(app) as node:
        state = await node.client.wait_for_workflow_completion("j", timeout=30)
        assert state.failure_details.message.endswith("bad")
        # Its random values are the same again.
        mine = [what for id, what, _ in ran if id == "j" and isinstance(what, list)]
        assert mine
        assert all(what == ran[0][1] for what in mine)


async def test_all_that_had_no_answer_is_asked_for_anew(
    app: App, place: Any, run: Any, ran: list[Any]
) -> None:
    async with place.serve(app) as node:
        await run(node.client, "side_by_side", instance_id="i")
        ran.clear()
        await node.client.rerun_workflow("i", from_event=2, new_instance_id="j")
        state = await node.client.wait_for_workflow_completion("j", timeout=30)
        assert state.output == ["one", "two", "three"]
        assert sorted(what for _, what, _ in ran) == ["one", "three", "two"]


async def test_from_a_timer_and_from_a_child(app: App, place: Any, run: Any, ran: list[Any]) -> None:
    async with place.serve(app) as node:
        client = node.client
        await run(client, "steps", "good", instance_id="i")
        kinds = [type(event).__name__ for _, event in (await client.history("i")).items]
        ran.clear()
        await client.rerun_workflow("i", from_event=kinds.index("TimerCreated"), new_instance_id="t")
        assert (
            await client.wait_for_workflow_completion("t", timeout=30)
        ).failure_details.type == "EventTimeout"
        assert ran == []
        await client.rerun_workflow(
            "i", from_event=kinds.index("ChildScheduled"), input="other", new_instance_id="c"
        )
        await client.wait_for_workflow_completion("c", timeout=30)
        assert [(id, what) for id, what, _ in ran] == [("c:1:0002", "other")]


async def test_what_cannot_be_run_again(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await run(client, "steps", "good", instance_id="i")
        await run(client, "leaves", instance_id="l")
        await client.schedule_new_workflow("echo", input=1, instance_id="later", start_at=timedelta(hours=1))
        kinds = [type(event).__name__ for _, event in (await client.history("i")).items]
        timer = kinds.index("TimerCreated")
        for error, id, options in (
            (InstanceNotFound, "none", {}),
            (InvalidState, "later", {}),
            (InvalidState, "later", {"from_event": 0}),
            (NotFound, "i", {"from_event": 99}),
            (NotFound, "i", {"from_event": -1}),
            (InvalidInput, "i", {"from_event": 0}),
            (InvalidInput, "i", {"from_event": 2}),
            (InvalidInput, "i", {"from_event": timer, "input": 1}),
            (InvalidInput, "l", {"from_event": 1}),
            (InvalidInput, "i", {"new_instance_id": "i"}),
            (AlreadyExists, "i", {"new_instance_id": "l"}),
            (AlreadyExists, "i", {"new_instance_id": "l", "from_event": 1}),
        ):
            with pytest.raises(error):
                await client.rerun_workflow(id, **options)
