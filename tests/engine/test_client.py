"""What the client promises: waits, lists, histories, and refusals that say what would be right."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext
from perdure.errors import DeadlineExceeded, InvalidId, InvalidInput, PayloadTooLarge


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Order:
    id: UUID
    size: Size
    when: datetime
    amounts: list[int]


@pytest.fixture
def app() -> App:
    app = App("c")

    @app.activity
    async def grow(ctx: ActivityContext, order: Order) -> Order:
        assert isinstance(order, Order)
        return Order(order.id, Size.LARGE, order.when, [*order.amounts, 1])

    @app.workflow
    async def typed(ctx: WorkflowContext, order: Order) -> Order:
        assert order.size is Size.SMALL
        grown = await ctx.call_activity(grow, input=order)
        assert grown.size is Size.LARGE
        return grown

    @app.workflow
    async def echo(ctx: WorkflowContext, what: Any) -> Any:
        return what

    @app.workflow
    async def listen(ctx: WorkflowContext) -> Any:
        return await ctx.wait_for_external_event("x")

    @app.workflow
    async def status(ctx: WorkflowContext) -> None:
        ctx.set_custom_status({"step": 1})
        await ctx.wait_for_external_event("x")
        ctx.set_custom_status({"step": 2})
        await ctx.wait_for_external_event("x")
        ctx.set_custom_status(None)

    @app.workflow
    async def fails(ctx: WorkflowContext) -> None:
        raise ValueError("why")

    return app


ORDER = {
    "id": "8e3f2f0c-6f66-4a2e-9d8e-000000000001",
    "size": "small",
    "when": "2026-01-02T03:04:05Z",
    "amounts": [],
}


async def test_inputs_and_results_have_the_types_of_the_annotations(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        order = Order(UUID(int=1), Size.SMALL, datetime(2026, 1, 2, tzinfo=UTC), [5])
        state = await run(node.client, "typed", order)
        assert state.output["size"] == "large"
        assert state.output["amounts"] == [5, 1]
        assert (await run(node.client, "typed", ORDER)).runtime_status is RuntimeStatus.COMPLETED


@pytest.mark.parametrize(
    ("change", "named"),
    [({"amounts": ["x"]}, "amounts"), ({"size": "huge"}, "size"), ({"id": 4}, "id")],
)
async def test_a_wrong_input_fails_the_instance_and_names_the_field(
    app: App, memory_place: Any, run: Any, change: Any, named: str
) -> None:
    async with memory_place.serve(app) as node:
        state = await run(node.client, "typed", {**ORDER, **change})
        assert state.runtime_status is RuntimeStatus.FAILED
        assert state.failure_details.type == "InvalidInput"
        assert named in state.failure_details.message


async def test_an_unknown_workflow_fails_and_says_what_is_known(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        state = await run(node.client, "unheard")
        assert state.runtime_status is RuntimeStatus.FAILED
        assert state.failure_details.type == "WorkflowNotRegistered"
        assert "typed" in state.failure_details.message


async def test_a_failure_has_class_message_and_the_users_frames(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        failure = (await run(node.client, "fails")).failure_details
        assert (failure.type, failure.message) == ("ValueError", "why")
        assert "in fails" in failure.stack
        assert "/workflow/" not in failure.stack


async def test_custom_status_is_seen_as_it_changes(app: App, place: Any, eventually: Any, evict: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        id = await client.schedule_new_workflow("status")
        assert (await client.wait_for_workflow_start(id, timeout=30)).custom_status == {"step": 1}
        await eventually(lambda: evict(node, id))
        await client.raise_workflow_event(id, "x")

        # An event that comes while the code is rebuilt is answered when it is stored, before the code has seen it.
        async def second() -> bool:
            return (await client.get_workflow_state(id)).custom_status == {"step": 2}

        await eventually(second)
        await client.raise_workflow_event(id, "x")
        state = await client.wait_for_workflow_completion(id, timeout=30)
        assert state.custom_status is None


async def test_times_are_aware_and_in_order(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        before = datetime.now(UTC)
        state = await run(node.client, "echo", 1)
        assert before <= state.created_at <= state.started_at <= state.completed_at <= datetime.now(UTC)


async def test_a_wait_ends_in_time_and_leaves_the_instance_alone(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("listen")
        with pytest.raises(DeadlineExceeded, match="goes on"):
            await node.client.wait_for_workflow_completion(id, timeout=0.01)
        with pytest.raises(TimeoutError):
            await node.client.wait_for_workflow_completion(id, timeout=timedelta(milliseconds=10))
        waiting = asyncio.ensure_future(node.client.wait_for_workflow_completion(id))
        await asyncio.sleep(0)
        waiting.cancel()
        await node.client.raise_workflow_event(id, "x", data=1)
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == 1


async def test_many_wait_for_one(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("listen")
        waits = [asyncio.ensure_future(node.client.wait_for_workflow_completion(id)) for _ in range(50)]
        await asyncio.sleep(0)
        await node.client.raise_workflow_event(id, "x", data=1)
        assert {state.output for state in await asyncio.gather(*waits)} == {1}


async def test_lists_filter_and_page(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        for n in range(7):
            await run(client, "echo", n, instance_id=f"e-{n}")
        await run(client, "fails", instance_id="f-0")
        await client.schedule_new_workflow("listen", instance_id="l-0")
        seen: list[str] = []
        cursor = None
        while True:
            page = await client.list(limit=2, cursor=cursor)
            seen += [state.instance_id for state in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == ["l-0", "f-0", *(f"e-{n}" for n in reversed(range(7)))]

        async def ids(**where: Any) -> list[str]:
            return [state.instance_id for state in (await client.list(**where)).items]

        assert await ids(statuses=["failed"]) == ["f-0"]
        assert await ids(statuses=[RuntimeStatus.FAILED, RuntimeStatus.RUNNING]) == ["l-0", "f-0"]
        assert await ids(name="listen") == ["l-0"]
        assert await ids(id_prefix="e-", limit=3) == ["e-6", "e-5", "e-4"]
        assert await ids(name="echo", statuses=["running"]) == []
        times = [state.created_at for state in (await client.list(id_prefix="e-")).items]
        assert await ids(id_prefix="e-", created_from=times[1]) == ["e-6", "e-5"]
        assert await ids(id_prefix="e-", created_to=times[5]) == ["e-0"]
        assert await ids(created_from=times[3], created_to=times[1]) == ["e-4", "e-3"]
        with pytest.raises(InvalidInput, match="time zone"):
            await client.list(created_from=datetime(2026, 1, 1))
        with pytest.raises(InvalidInput, match="runing"):
            await client.list(statuses=["runing"])
        with pytest.raises(InvalidInput, match="limit"):
            await client.list(limit=0)


async def test_a_history_comes_in_pages(app: App, place: Any) -> None:
    @app.workflow
    async def many(ctx: WorkflowContext, n: int) -> int:
        for _ in range(n):
            await ctx.wait_for_external_event("x")
        return n

    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow(many, input=20)
        for n in range(20):
            await node.client.raise_workflow_event(id, "x", data=n)
        await node.client.wait_for_workflow_completion(id, timeout=30)
        whole = (await node.client.history(id)).items
        assert [number for number, _ in whole] == list(range(22))
        paged: list[Any] = []
        start = 0
        while True:
            page = await node.client.history(id, start=start, limit=5)
            paged += page.items
            if page.cursor is None:
                break
            start = int(page.cursor)
        assert paged == list(whole)


@pytest.mark.parametrize("bad", ["", "a/b", "a\nb", "\x7f", "\x85", "x" * 257, "é" * 129, "\ud800"])
async def test_a_bad_id_is_refused_everywhere(app: App, memory_place: Any, bad: str) -> None:
    async with memory_place.serve(app) as node:
        client = node.client
        for call in (
            lambda: client.schedule_new_workflow("echo", instance_id=bad),
            lambda: client.get_workflow_state(bad),
            lambda: client.wait_for_workflow_completion(bad),
            lambda: client.raise_workflow_event(bad, "x"),
            lambda: client.pause_workflow(bad),
            lambda: client.resume_workflow(bad),
            lambda: client.terminate_workflow(bad),
            lambda: client.purge_workflow(bad),
            lambda: client.history(bad),
        ):
            with pytest.raises(InvalidId):
                await call()


@pytest.mark.parametrize("good", ["a", "x" * 256, "é" * 128, "a b||c::d@e", "💚", "a:1:0001"])
async def test_any_other_id_works(app: App, place: Any, run: Any, good: str) -> None:
    @app.activity
    async def same(ctx: ActivityContext) -> str:
        return ctx.instance_id

    @app.workflow
    async def ask(ctx: WorkflowContext) -> str:
        return await ctx.call_activity(same)

    async with place.serve(app) as node:
        assert (await run(node.client, ask, instance_id=good)).output == good


async def test_a_payload_that_is_too_large_is_refused(
    app: App, memory_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.workflow.client.PAYLOAD_BYTES", 1000)
    async with memory_place.serve(app) as node:
        with pytest.raises(PayloadTooLarge, match="input"):
            await node.client.schedule_new_workflow("echo", input="x" * 1000)
        id = await node.client.schedule_new_workflow("listen")
        with pytest.raises(PayloadTooLarge, match="data"):
            await node.client.raise_workflow_event(id, "x", data="x" * 1000)
        with pytest.raises(PayloadTooLarge, match="output"):
            await node.client.terminate_workflow(id, output="x" * 1000)


async def test_large_payloads_come_back_whole(app: App, place: Any, run: Any) -> None:
    large = "é" * 3_000_000
    async with place.serve(app) as node:
        assert (await run(node.client, "echo", large)).output == large


async def test_what_is_no_json_is_refused_where_it_is_given(app: App, memory_place: Any) -> None:
    async with memory_place.serve(app) as node:
        with pytest.raises(InvalidInput, match="echo"):
            await node.client.schedule_new_workflow("echo", input=object())
        with pytest.raises(InvalidInput, match="name"):
            await node.client.schedule_new_workflow("")
        with pytest.raises(InvalidInput, match="registered"):
            await node.client.schedule_new_workflow(lambda ctx: None)
