"""What users' workflows can do, over each store; what is to outlive a node is asked of the next one."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import (
    ActivityContext,
    App,
    HeartbeatTimeout,
    RetryAfter,
    RetryPolicy,
    RuntimeStatus,
    TaskFailedError,
    WorkflowCancelled,
    WorkflowContext,
    when_all,
)
from perdure.errors import AlreadyExists, InvalidInput, InvalidState, KeyReused, PayloadTooLarge
from perdure.payload import LIMIT
from tests.waiting import until

AT_ONCE = RetryPolicy(first_retry_interval=timedelta(0), max_number_of_attempts=3)


def shop(seen: list[Any] | None = None, name: str = "shop") -> App:
    """The same app each time. `seen`: what its activities tell."""
    app = App(name)
    told = [] if seen is None else seen

    @app.activity
    async def note(ctx: ActivityContext, what: Any) -> Any:
        told.append(what)
        if what == "bad":
            raise ValueError("bad")
        return what

    @app.activity
    async def endless(ctx: ActivityContext) -> None:
        told.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            told.append(f"told: {ctx.cancelled} {ctx.cancel_reason}")

    @app.activity
    def endless_thread(ctx: ActivityContext) -> None:
        told.append("began")
        until(lambda: ctx.cancelled)
        told.append(f"told: {ctx.cancelled} {ctx.cancel_reason}")

    @app.activity(heartbeat_timeout=timedelta(milliseconds=200), retry_policy=AT_ONCE)
    async def silent(ctx: ActivityContext) -> list[Any]:
        if ctx.attempt > 1:
            return [ctx.attempt, ctx.heartbeat_details]
        ctx.heartbeat({"page": 3})
        return list(await asyncio.Event().wait() and [])

    @app.activity(heartbeat_timeout=timedelta(milliseconds=100))
    async def mute(ctx: ActivityContext) -> None:
        await asyncio.Event().wait()

    @app.activity(retry_policy=RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=2))
    async def busy(ctx: ActivityContext) -> int:
        told.append(time.monotonic())
        if ctx.attempt == 1:
            raise RetryAfter(timedelta(milliseconds=300))
        return ctx.attempt

    @app.activity(retry_policy=AT_ONCE)
    async def swell(ctx: ActivityContext, size: int) -> str:
        told.append(size)
        return "x" * size

    @app.workflow
    async def echo(ctx: WorkflowContext, what: Any) -> Any:
        return await ctx.call_activity(note, input=what)

    @app.workflow
    async def listen(ctx: WorkflowContext, count: int) -> list[Any]:
        ctx.set_custom_status({"waits for": count})
        got = []
        for _ in range(count):
            got.append(await ctx.wait_for_external_event("x"))
            ctx.set_custom_status({"has": got})
        return got

    @app.workflow
    async def late(ctx: WorkflowContext) -> list[Any]:
        """Waits for what has come long since."""
        await ctx.wait_for_external_event("open")
        return [await ctx.wait_for_external_event("x") for _ in range(3)]

    @app.workflow
    async def steps(ctx: WorkflowContext, second: str) -> list[Any]:
        """Events: 0 start, 1 first, 2 its answer, 3 second, …"""
        first = await ctx.call_activity(note, input=str(ctx.new_uuid()))
        got = await ctx.call_activity(note, input=second)
        return [first, got, await ctx.call_child_workflow(echo, input="child")]

    @app.workflow
    async def rounds(ctx: WorkflowContext, done: list[Any]) -> list[Any]:
        if len(done) == 3:
            return done
        done = [*done, await ctx.wait_for_external_event("x")]
        ctx.continue_as_new(done)
        return []

    @app.workflow
    async def family(ctx: WorkflowContext, count: int) -> list[Any]:
        kids = [
            ctx.call_child_workflow(parent_of_one, input=n, instance_id=f"{ctx.instance_id}-{n}")
            for n in range(count)
        ]
        return list(await when_all(kids))

    @app.workflow
    async def parent_of_one(ctx: WorkflowContext, number: int) -> Any:
        if number < 0:
            return await ctx.wait_for_external_event("never")
        return await ctx.call_child_workflow(echo, input=number, instance_id=f"{ctx.instance_id}-kid")

    @app.workflow
    async def waits_below(ctx: WorkflowContext) -> Any:
        return await ctx.call_child_workflow(parent_of_one, input=-1, instance_id=f"{ctx.instance_id}-below")

    @app.workflow
    async def fails_below(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_child_workflow(echo, input="bad")
        except TaskFailedError as error:
            return f"{type(error).__name__}: {error.details.message}"
        return ""

    @app.workflow
    async def undoes(ctx: WorkflowContext, activity: str) -> None:
        try:
            await ctx.call_activity(activity)
        except WorkflowCancelled as error:
            await ctx.call_activity(note, input=f"undone: {error.reason}")
            raise

    @app.workflow
    async def beats(ctx: WorkflowContext) -> list[Any]:
        found = await ctx.call_activity(silent)
        try:
            await ctx.call_activity(mute)
        except HeartbeatTimeout as error:
            return [*found, type(error).__name__]
        return []

    @app.workflow
    async def calls_busy(ctx: WorkflowContext) -> int:
        return await ctx.call_activity(busy)

    @app.workflow
    async def large(ctx: WorkflowContext, text: str) -> str:
        size = LIMIT - 2
        assert len(text) == size
        ctx.set_custom_status(len(await ctx.call_activity(swell, input=size)))
        try:
            await ctx.call_activity(swell, input=size + 1)
        except TaskFailedError as error:
            return text[: LIMIT // 2] + error.details.type
        return ""

    return app


async def test_a_start_for_later_outlives_nodes(place: Any, until_status: Any) -> None:
    soon = timedelta(seconds=1)
    async with place.serve(shop()) as node:
        await node.client.schedule_new_workflow("echo", input=1, start_at=soon, instance_id="later-1")
        await node.client.schedule_new_workflow("listen", input=1, start_at=soon, instance_id="later-2")
        await node.client.raise_workflow_event("later-2", "x", data="early")
        await node.client.schedule_new_workflow(
            "echo", input=3, start_at=datetime.now(UTC) - soon, instance_id="later-3"
        )
        await node.client.schedule_new_workflow(
            "echo", input=4, start_at=timedelta(hours=1), instance_id="later-4"
        )
        assert (await node.client.wait("later-3", timeout=60)).output == 3
    async with place.serve(shop()) as node:
        for id, output in (("later-1", 1), ("later-2", ["early"])):
            state = await node.client.wait_for_workflow_completion(id, timeout=60)
            assert (state.output, state.generation) == (output, 1)
            assert state.scheduled_at >= state.created_at + soon / 2
            assert state.started_at >= state.scheduled_at
        state = await until_status(node.client, "later-4", RuntimeStatus.PENDING)
        assert state.scheduled_at - state.created_at >= timedelta(minutes=59)
        await node.client.terminate_workflow("later-4", output="never")
        assert (await node.client.wait("later-4", timeout=60)).output == "never"


async def test_all_that_can_be_done_with_an_id_that_is_taken(place: Any, run: Any) -> None:
    async with place.serve(shop()) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=1, instance_id="taken")
        first = await client.wait_for_workflow_start("taken", timeout=60)
        for options in ({}, {"if_exists": "error"}):
            with pytest.raises(AlreadyExists):
                await client.schedule_new_workflow("echo", instance_id="taken", **options)
        with pytest.raises(InvalidInput, match="if_exists"):
            await client.schedule_new_workflow("echo", instance_id="taken", if_exists="ignore")
        await client.schedule_new_workflow("echo", instance_id="taken", if_exists="return")
        state = await client.get_workflow_state("taken")
        assert (state.name, state.execution_id) == ("listen", first.execution_id)

        waiting = asyncio.ensure_future(client.wait_for_workflow_completion("taken", timeout=60))
        await asyncio.sleep(0)
        second = await run(client, "echo", "two", instance_id="taken", if_exists="replace")
        assert (second.name, second.output, second.generation) == ("echo", "two", 2)
        # Whoever waited is told of the one that gave way, or of its successor if the question came later.
        assert (await waiting).runtime_status in (RuntimeStatus.TERMINATED, RuntimeStatus.COMPLETED)
    async with place.serve(shop()) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=1, instance_id="taken", if_exists="return")
        assert (await client.get_workflow_state("taken")).execution_id == second.execution_id
        third = await run(client, "echo", "three", instance_id="taken", if_exists="replace")
        fourth = await run(client, "echo", "four", instance_id="taken")
        assert [(one.output, one.generation) for one in (third, fourth)] == [("three", 3), ("four", 4)]
        # Nothing of what was there before is left in the history.
        numbers = [number for number, _ in (await client.history("taken")).items]
        assert numbers == list(range(4))


async def test_events_that_come_twice(place: Any) -> None:
    async with place.serve(shop()) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=3, instance_id="twice")
        for _ in range(2):
            await client.raise_workflow_event("twice", "x", data="ä", event_id="e-1")
    async with place.serve(shop()) as node:
        client = node.client
        for _ in range(2):
            await client.raise_workflow_event("twice", "x", data="ä", event_id="e-1")
        with pytest.raises(KeyReused):
            await client.raise_workflow_event("twice", "x", data="other", event_id="e-1")
        with pytest.raises(KeyReused):
            await client.raise_workflow_event("twice", "y", data="ä", event_id="e-1")
        await client.raise_workflow_event("twice", "x", data="ä", event_id="e-2")
        await client.raise_workflow_event("twice", "x", data="ä")
        state = await client.wait_for_workflow_completion("twice", timeout=60)
        assert state.output == ["ä"] * 3
    async with place.serve(shop()) as node:
        # Also when it has finished; a new one is refused.
        await node.client.raise_workflow_event("twice", "x", data="ä", event_id="e-2")
        with pytest.raises(InvalidState):
            await node.client.raise_workflow_event("twice", "x", data="ä", event_id="e-3")


async def test_starts_that_come_twice(place: Any) -> None:
    order: dict[str, Any] = {"input": 1, "idempotency_key": "k 1", "tags": {"a": "b"}}
    async with place.serve(shop()) as node:
        id = await node.client.schedule_new_workflow("listen", **order)
        assert await node.client.schedule_new_workflow("listen", **order) == id
    async with place.serve(shop()) as node:
        client = node.client
        assert await client.schedule_new_workflow("listen", **order) == id
        for other in ({"input": 2}, {"tags": {"a": "c"}}):
            with pytest.raises(KeyReused):
                await client.schedule_new_workflow("listen", **(order | other))
        await client.raise_workflow_event(id, "x", data=1)
        assert (await client.wait(id, timeout=60)).generation == 1
        assert await client.schedule_new_workflow("listen", **order) == id
        await client.purge_workflow(id)
    async with place.serve(shop()) as node:
        assert await node.client.schedule_new_workflow("listen", **order) == id
        assert await node.client.get_workflow_state(id) is None


async def test_lists_and_their_pages(place: Any, run: Any) -> None:
    async with place.serve(shop(name="lists")) as node:
        client = node.client
        begun = datetime.now(UTC)
        for n in range(7):
            await run(client, "echo", n, instance_id=f"a{n}", tags={"number": str(n), "ä": "ö"})
        middle = datetime.now(UTC)
        for n in range(3):
            await client.schedule_new_workflow("listen", input=1, instance_id=f"b{n}")
            await client.wait_for_workflow_start(f"b{n}", timeout=60)
        await client.pause_workflow("b0")
        await run(client, "echo", "bad", instance_id="a%_bad")
        await client.schedule_new_workflow("echo", start_at=timedelta(hours=1), instance_id="A0")
    async with place.serve(shop(name="lists")) as node:
        client = node.client

        async def ids(**filters: Any) -> list[str]:
            """Page by page."""
            found, cursor = [], None
            while True:
                page = await client.list(cursor=cursor, limit=2, **filters)
                found += [one.instance_id for one in page.items]
                cursor = page.cursor
                if cursor is None:
                    return found

        everything = ["A0", "a%_bad", "b2", "b1", "b0", "a6", "a5", "a4", "a3", "a2", "a1", "a0"]
        assert await ids() == everything
        assert [one.instance_id for one in (await client.list()).items] == everything
        assert await ids(name="listen") == ["b2", "b1", "b0"]
        assert await ids(statuses=["running"]) == ["b2", "b1"]
        assert await ids(statuses=["failed", "suspended", "pending"]) == ["A0", "a%_bad", "b0"]
        assert await ids(statuses=["completed"], id_prefix="a", name="echo") == everything[5:]
        assert await ids(id_prefix="a%") == ["a%_bad"]
        assert await ids(id_prefix="a_") == []
        assert await ids(created_to=middle, created_from=begun) == everything[5:]
        assert await ids(created_from=middle) == everything[:5]
        assert await ids(created_to=begun) == []
        state = await client.get_workflow_state("a3")
        assert state.tags == {"number": "3", "ä": "ö"}
        assert state == (await client.list(id_prefix="a3")).items[0]
        with pytest.raises(InvalidInput):
            await client.list(cursor="none of ours")

        # Neither what comes nor what goes in between is repeated or hides anything.
        page = await client.list(limit=4)
        found = [one.instance_id for one in page.items]
        await run(client, "echo", 1, instance_id="new")
        await client.purge_workflow("a%_bad")
        await client.purge_workflow("a6")
        await client.raise_workflow_event("b1", "x")
        await client.wait("b1", timeout=60)
        while page.cursor is not None:
            page = await client.list(limit=4, cursor=page.cursor)
            found += [one.instance_id for one in page.items]
        assert found == [id for id in everything if id != "a6"]


async def test_running_again(place: Any, run: Any) -> None:
    seen: list[Any] = []
    async with place.serve(shop()) as node:
        failed = await run(node.client, "steps", "bad", instance_id="first", tags={"a": "b"})
        assert failed.runtime_status is RuntimeStatus.FAILED
    async with place.serve(shop(seen)) as node:
        client = node.client
        await client.rerun_workflow("first", from_event=3, new_instance_id="again", input="good")
        state = await client.wait_for_workflow_completion("again", timeout=60)
        assert (state.output[1:], seen, state.tags) == (["good", "child"], ["good", "child"], {"a": "b"})
        id = await client.rerun_workflow("first", input="anew")
        anew = await client.wait_for_workflow_completion(id, timeout=60)
        assert anew.output[1:] == ["anew", "child"]
        assert anew.output[0] != state.output[0]
        with pytest.raises(AlreadyExists):
            await client.rerun_workflow("first", new_instance_id="again")
        assert (await client.get_workflow_state("first")).execution_id == failed.execution_id


async def test_events_that_came_early_and_a_status_of_its_own(
    place: Any, eventually: Any, until_status: Any
) -> None:
    async with place.serve(shop()) as node:
        await node.client.schedule_new_workflow("late", instance_id="early")
        for number in range(2):
            await node.client.raise_workflow_event("early", "x", data=number)
        await node.client.schedule_new_workflow("listen", input=2, instance_id="status")
        await node.client.raise_workflow_event("status", "x", data="ä")
        await node.client.pause_workflow("early", reason="lunch")
        await node.client.raise_workflow_event("early", "x", data=2)
        await node.client.raise_workflow_event("early", "open")
    async with place.serve(shop()) as node:
        client = node.client
        assert (await until_status(client, "early", RuntimeStatus.SUSPENDED)).reason == "lunch"
        await client.resume_workflow("early")
        assert (await client.wait("early", timeout=60)).output == [0, 1, 2]

        async def has_it() -> bool:
            return (await client.get_workflow_state("status")).custom_status == {"has": ["ä"]}

        await eventually(has_it, "the status is there")
        await client.raise_workflow_event("status", "x", data=None)
        assert (await client.wait("status", timeout=60)).custom_status == {"has": ["ä", None]}


async def test_continuing_as_new(place: Any, eventually: Any) -> None:
    async with place.serve(shop()) as node:
        client = node.client
        await client.schedule_new_workflow("rounds", input=[], instance_id="rounds", tags={"a": "b"})
        for _ in range(2):
            # The second one waits while the first is taken.
            await client.raise_workflow_event("rounds", "x", data=0, event_id="e-0")
            await client.raise_workflow_event("rounds", "x", data=1)

        async def third() -> bool:
            return (await client.get_workflow_state("rounds")).runtime_status.finished

        await eventually(third, "three rounds")
    async with place.serve(shop()) as node:
        state = await node.client.get_workflow_state("rounds")
        assert (state.output, state.generation) == ([0, 1, 1], 4)
        assert state.tags == {"a": "b"}
        history = (await node.client.history("rounds")).items
        assert next(type(event).__name__ for _, event in history) == "ExecutionStarted"
        assert [number for number, _ in history] == list(range(len(history)))


async def test_children_and_purging_them(place: Any, run: Any) -> None:
    ids = ["family", *(f"family-{n}" for n in range(3)), *(f"family-{n}-kid" for n in range(3))]
    async with place.serve(shop()) as node:
        assert (await run(node.client, "family", 3, instance_id="family")).output == [0, 1, 2]
        failed = await run(node.client, "fails_below", instance_id="fails")
        assert "bad" in failed.output
        state = await node.client.get_workflow_state("family-1-kid")
        assert state.parent_instance_id == "family-1"
    async with place.serve(shop()) as node:
        await node.client.purge_workflow("family")
        await _until_gone(node, ids)


async def test_terminating_and_purging_by_force_reach_children(place: Any, until_status: Any) -> None:
    ids = ["forced", "forced-below"]
    async with place.serve(shop()) as node:
        for id in ("ended", "forced"):
            await node.client.schedule_new_workflow("waits_below", instance_id=id)
            await until_status(node.client, f"{id}-below", RuntimeStatus.RUNNING)
    async with place.serve(shop()) as node:
        await node.client.terminate_workflow("ended", output="over")
        assert (await node.client.wait("ended", timeout=60)).output == "over"
        below = await node.client.wait_for_workflow_completion("ended-below", timeout=60)
        assert below.runtime_status is RuntimeStatus.TERMINATED
        with pytest.raises(InvalidState):
            await node.client.purge_workflow("forced")
        await node.client.purge_workflow("forced", force=True)
        await _until_gone(node, ids)


async def _until_gone(node: Any, ids: list[str]) -> None:
    """Nothing is left of them in the store but that they were purged."""
    left = [node.runtime.engine.actor(id) for id in ids]
    end = time.monotonic() + 60
    while left:
        assert time.monotonic() < end, f"{left} are still there"
        snapshot = await node.store.load(left[0])
        if await node.store.row(left[0]) is None and set(snapshot.values) == {"metadata"}:
            assert len(snapshot.values["metadata"]) < 1000
            assert await node.client.get_workflow_state(left.pop(0).id) is None
        else:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["endless", "endless_thread"])
async def test_cancelling_a_workflow_whose_activity_runs(place: Any, eventually: Any, kind: str) -> None:
    seen: list[Any] = []
    async with place.serve(shop(seen)) as node:
        id = await node.client.schedule_new_workflow("undoes", input=kind)
        await eventually(lambda: seen == ["began"], "the activity runs")
        await node.client.cancel_workflow(id, reason="no more")
        state = await node.client.wait_for_workflow_completion(id, timeout=60)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert state.failure_details.type == "WorkflowCancelled"
        assert "no more" in state.failure_details.message
        await eventually(lambda: len(seen) == 3, "the activity was told, and undone")
        assert "undone: no more" in seen
        assert any(one.startswith("told: True") for one in seen)


async def test_heartbeats_and_delays_that_activities_ask_for(place: Any, run: Any) -> None:
    seen: list[Any] = []
    async with place.serve(shop(seen)) as node:
        beats, busy = await asyncio.gather(run(node.client, "beats"), run(node.client, "calls_busy"))
        assert beats.output == [2, {"page": 3}, "HeartbeatTimeout"]
        assert busy.output == 2
        assert seen[1] - seen[0] >= 0.29


async def test_a_delay_that_an_activity_asked_for_outlives_its_node(place: Any, eventually: Any) -> None:
    seen: list[Any] = []
    async with place.serve(shop(seen)) as node:
        await node.client.schedule_new_workflow("calls_busy", instance_id="busy")
        await eventually(lambda: seen, "it was tried")
    async with place.serve(shop(seen)) as node:
        assert (await node.client.wait("busy", timeout=60)).output == 2
    assert len(seen) == 2


async def test_payloads_up_to_the_limit(place: Any, run: Any) -> None:
    seen: list[Any] = []
    text = "x" * (LIMIT - 2)
    async with place.serve(shop(seen), replay_check="off") as node:
        state = await run(node.client, "large", text, instance_id="large")
        assert state.output == text[: LIMIT // 2] + "PayloadTooLarge"
        assert state.custom_status == LIMIT - 2
        # What is too large is so each time: it is not tried again.
        assert seen == [LIMIT - 2, LIMIT - 1]
        with pytest.raises(PayloadTooLarge):
            await node.client.schedule_new_workflow("large", input=text + "x")
        with pytest.raises(PayloadTooLarge):
            await node.client.raise_workflow_event("large", "x", data=text + "x")
    async with place.serve(shop(seen)) as node:
        state = await node.client.get_workflow_state("large")
        assert state.input == text
        history = (await node.client.history("large")).items
        assert any(len(getattr(event, "result", None) or b"") == LIMIT for _, event in history)
        await node.client.purge_workflow("large")
