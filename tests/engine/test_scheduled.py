"""Starts for later: PENDING until their time, which no crash moves, and nothing else begins them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import App, RuntimeStatus, WorkflowContext
from perdure.actors.messages import Message
from perdure.errors import AlreadyExists, InvalidInput
from perdure.workflow.requests import StartDue

#: Enough for whatever has to be done before, on a busy machine.
SOON = timedelta(seconds=2)
HOUR = timedelta(hours=1)


@pytest.fixture
def app() -> App:
    app = App("later")

    @app.workflow
    async def now(ctx: WorkflowContext, what: Any) -> list[Any]:
        return [what, ctx.current_utc_datetime.isoformat()]

    @app.workflow
    async def listen(ctx: WorkflowContext, n: int) -> list[Any]:
        return [await ctx.wait_for_external_event("x") for _ in range(n)]

    @app.workflow
    async def again(ctx: WorkflowContext, n: int) -> int:
        if n:
            ctx.continue_as_new(n - 1)
        return n

    @app.workflow
    async def launch(ctx: WorkflowContext, seconds: float) -> str:
        return ctx.detach("now", input=1, instance_id="launched", start_at=timedelta(seconds=seconds))

    return app


async def reminders(node: Any, id: str) -> list[str]:
    return [one.name for one in await node.store.reminders(node.runtime.engine.actor(id))]


async def test_it_begins_at_its_time_and_not_before(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        at = datetime.now(UTC) + SOON
        id = await client.schedule_new_workflow("now", input=5, start_at=at)
        state = await client.get_workflow_state(id)
        assert (state.runtime_status, state.started_at, state.scheduled_at) == (
            RuntimeStatus.PENDING,
            None,
            at,
        )
        assert state.input == 5
        assert await reminders(node, id) == ["start"]
        state = await client.wait_for_workflow_completion(id, timeout=30)
        assert state.output[0] == 5
        assert datetime.fromisoformat(state.output[1]) >= at
        assert state.started_at >= at
        assert state.scheduled_at == at
        assert await reminders(node, id) == []
        assert (await client.history(id)).items[0][1].scheduled == int(at.timestamp() * 1_000_000)


@pytest.mark.parametrize(
    "start_at", [timedelta(0), timedelta(hours=-1), datetime(2020, 1, 1), datetime(1960, 1, 1, tzinfo=UTC)]
)
async def test_a_time_that_is_over_is_now(app: App, place: Any, run: Any, start_at: Any) -> None:
    async with place.serve(app) as node:
        state = await run(node.client, "now", 1, start_at=start_at)
        assert state.runtime_status is RuntimeStatus.COMPLETED


@pytest.mark.parametrize("wrong", ["tomorrow", 5, timedelta(days=9_999_999)])
async def test_what_is_no_time_is_refused(app: App, memory_place: Any, wrong: Any) -> None:
    async with memory_place.serve(app) as node:
        with pytest.raises(InvalidInput, match="start_at"):
            await node.client.schedule_new_workflow("now", start_at=wrong)


async def test_it_survives_restarts(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("now", input=1, instance_id="i", start_at=HOUR)
        soon = await node.client.schedule_new_workflow("now", input=2, start_at=timedelta(milliseconds=400))
    async with place.serve(app) as node:
        # It owes nothing yet: nobody has to look at it before its time.
        actor = node.runtime.engine.actor("i")
        assert actor not in node.runtime.host.activations
        state = await node.client.get_workflow_state("i")
        assert (state.runtime_status, state.started_at) == (RuntimeStatus.PENDING, None)
        assert await reminders(node, "i") == ["start"]
        assert (await node.client.wait_for_workflow_completion(soon, timeout=30)).output[0] == 2


async def test_its_time_comes_while_nobody_runs(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("now", input=1, start_at=timedelta(milliseconds=50))
    await asyncio.sleep(0.06)
    async with place.serve(app) as node:
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output[0] == 1


async def test_an_event_waits_with_it(app: App, place: Any, evict: Any, eventually: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=2, instance_id="i", start_at=SOON)
        await client.raise_workflow_event("i", "x", data="early")
        await eventually(lambda: evict(node, "i"))
        await client.raise_workflow_event("i", "x", data="second")
        state = await client.get_workflow_state("i")
        # On a busy machine its time may have come.
        assert state.runtime_status is RuntimeStatus.PENDING or datetime.now(UTC) >= state.scheduled_at
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == ["early", "second"]
        assert state.started_at >= state.scheduled_at


async def test_it_can_be_terminated_and_purged_before(app: App, place: Any, keys: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("now", input=1, instance_id="t", start_at=HOUR)
        await client.terminate_workflow("t", output="never")
        state = await client.get_workflow_state("t")
        assert (state.runtime_status, state.output, state.input) == (RuntimeStatus.TERMINATED, "never", 1)
        assert await reminders(node, "t") == []
        await client.purge_workflow("t")
        await client.schedule_new_workflow("now", input=1, instance_id="p", start_at=HOUR)
        await client.purge_workflow("p", force=True)
        assert await client.get_workflow_state("p") is None
        assert await reminders(node, "p") == ["forget"]
        assert set(await keys(node, "p")) == {"metadata"}


async def test_a_pause_outlasts_its_time(app: App, place: Any, eventually: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("now", input=1, instance_id="i", start_at=SOON)
        await client.pause_workflow("i")

        async def due() -> bool:
            return not await reminders(node, "i")

        await eventually(due)
        state = await client.get_workflow_state("i")
        assert (state.runtime_status, state.started_at) == (RuntimeStatus.SUSPENDED, None)
        await client.resume_workflow("i")
        assert (await client.wait_for_workflow_completion("i", timeout=30)).output[0] == 1


async def test_resuming_does_not_begin_it(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("now", input=1, instance_id="i", start_at=HOUR)
        await client.pause_workflow("i")
        await client.resume_workflow("i")
        state = await client.get_workflow_state("i")
        assert (state.runtime_status, state.started_at) == (RuntimeStatus.PENDING, None)


async def test_its_id_is_taken(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("now", instance_id="i", start_at=HOUR)
        with pytest.raises(AlreadyExists):
            await node.client.schedule_new_workflow("now", instance_id="i")


async def test_another_scheduled_start_of_the_id_has_its_own_time(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("now", input=1, instance_id="i", start_at=HOUR)
        await client.terminate_workflow("i")
        soon = datetime.now(UTC) + timedelta(milliseconds=100)
        await client.schedule_new_workflow("now", input=2, instance_id="i", start_at=soon)
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert (state.output[0], state.generation, state.scheduled_at) == (2, 2, soon)


async def test_the_time_of_a_start_that_is_gone_begins_no_other(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("now", input=1, instance_id="i", start_at=HOUR)
        answers: list[Any] = []
        late = Message(node.runtime.engine.actor("i"), "begin", StartDue("another start", 1), answers.append)
        node.runtime.host.deliver(late)
        await client.pause_workflow("i")  # answered after it
        assert answers == [True]
        assert await reminders(node, "i") == ["start"]


async def test_continue_as_new_begins_at_once(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        state = await run(node.client, "again", 3, start_at=timedelta(milliseconds=50))
        assert (state.output, state.generation) == (0, 4)
        assert state.scheduled_at is not None


async def test_code_starts_one_for_later(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        began = datetime.now(UTC)
        assert (await run(node.client, "launch", 0.3)).output == "launched"
        state = await node.client.wait_for_workflow_completion("launched", timeout=30)
        assert state.scheduled_at >= began + timedelta(seconds=0.3)
        assert state.started_at >= state.scheduled_at


async def test_a_wait_for_its_start_lasts_until_then(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("listen", input=1, start_at=timedelta(milliseconds=200))
        state = await node.client.wait_for_workflow_start(id, timeout=30)
        assert state.started_at >= state.scheduled_at


async def test_a_limit_counts_it_from_its_time_on(place: Any, until_status: Any, eventually: Any) -> None:
    app = App("narrow")

    @app.workflow(max_concurrent=1)
    async def one(ctx: WorkflowContext) -> Any:
        return await ctx.wait_for_external_event("go")

    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow(one, instance_id="later", start_at=SOON)
        await client.schedule_new_workflow(one, instance_id="first")
        await until_status(client, "first", RuntimeStatus.RUNNING)
        later = await client.get_workflow_state("later")
        assert (later.runtime_status, later.reason) == (RuntimeStatus.PENDING, "")

        async def held_back() -> bool:
            return "at most 1" in (await client.get_workflow_state("later")).reason

        await eventually(held_back)
        await client.raise_workflow_event("first", "go")
        await until_status(client, "later", RuntimeStatus.RUNNING)
        await client.raise_workflow_event("later", "go", data=1)
        assert (await client.wait_for_workflow_completion("later", timeout=30)).output == 1


async def test_what_it_waits_for_is_told(app: App, memory_place: Any) -> None:
    async with memory_place.serve(app) as node:
        await node.client.schedule_new_workflow("now", instance_id="i", start_at=HOUR)
        engine = node.runtime.engine
        meta = node.runtime.host.activations[engine.actor("i")].behaviour.instance.meta
        waits = await engine.explainer.waits(engine.actor("i"), meta)
        assert "it is to begin at" in waits.why
