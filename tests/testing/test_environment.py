"""A node whose time the test moves: everything happens at its time, and nothing before or by itself."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from perdure import (
    ActivityContext,
    Actor,
    ActorProxy,
    App,
    RetryPolicy,
    RuntimeStatus,
    TaskFailedError,
    WorkflowContext,
)
from perdure.errors import DeadlineExceeded, InstanceNotFound
from perdure.testing import Environment, NonDeterminism, TimeStandsStill, blocking

START = datetime(2026, 1, 1, tzinfo=UTC)


def milliseconds(moment: datetime) -> str:
    """Turns of one instance that are made at one moment have times a microsecond apart."""
    return moment.isoformat(timespec="milliseconds")


@pytest.fixture
def app() -> App:
    app = App("timed")

    @app.activity
    async def quick(ctx: ActivityContext, name: str) -> str:
        return f"quick {name}"

    @app.activity
    def threaded(ctx: ActivityContext, name: str) -> str:
        time.sleep(0.02)
        return f"threaded {name}"

    @app.activity
    async def hangs(ctx: ActivityContext) -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def month(ctx: WorkflowContext) -> str:
        await ctx.create_timer(timedelta(days=30))
        return ctx.current_utc_datetime.isoformat()

    @app.workflow
    async def beats(ctx: WorkflowContext, count: int) -> list[str]:
        seen = []
        for _ in range(count):
            await ctx.create_timer(timedelta(milliseconds=10))
            seen.append(await ctx.call_activity("threaded", input=milliseconds(ctx.current_utc_datetime)))
        return seen

    @app.workflow
    async def approval(ctx: WorkflowContext) -> str:
        try:
            return await ctx.wait_for_external_event("approved", type=str, timeout=timedelta(hours=1))
        except TimeoutError:
            return "too late"

    @app.workflow
    async def for_ever(ctx: WorkflowContext) -> None:
        await ctx.wait_for_external_event("never")

    @app.workflow
    async def hung(ctx: WorkflowContext) -> None:
        await ctx.call_activity("hangs")

    return app


async def test_a_month_takes_few_moves(app: App) -> None:
    async with Environment(app) as perdure:
        id = await perdure.start("month")
        moves = 0
        move = perdure.node.runtime.clock.move  # type: ignore[attr-defined]

        def counted(to: int) -> None:
            nonlocal moves
            moves += 1
            move(to)

        perdure.node.runtime.clock.move = counted  # type: ignore[attr-defined]
        await perdure.advance(days=30)
        assert (await perdure.state(id)).output == (START + timedelta(days=30)).isoformat()
        assert perdure.now == START + timedelta(days=30)
        # A look that comes again every second must not stop it 2.6 million times.
        assert moves < 20


async def test_nothing_happens_a_moment_too_soon(app: App) -> None:
    async with Environment(app) as perdure:
        id = await perdure.start("month")
        await perdure.advance(timedelta(days=30) - timedelta(milliseconds=2))
        assert (await perdure.state(id)).runtime_status is RuntimeStatus.RUNNING
        await perdure.advance(timedelta(milliseconds=2))
        assert (await perdure.state(id)).runtime_status is RuntimeStatus.COMPLETED


async def test_time_stands_still_by_itself(app: App) -> None:
    async with Environment(app) as perdure:
        id = await perdure.start("beats", 1)
        await asyncio.sleep(0.05)
        assert perdure.now == START
        assert (await perdure.state(id)).runtime_status is RuntimeStatus.RUNNING


async def test_each_thing_happens_at_its_own_time(app: App) -> None:
    """Also what follows from something that happens on the way."""
    expected = [f"threaded {milliseconds(START + timedelta(milliseconds=10 * n))}" for n in range(1, 6)]
    async with Environment(app) as perdure:
        one = await perdure.start("beats", 5)
        await perdure.advance(hours=1)
        assert (await perdure.state(one)).output == expected
        assert perdure.now == START + timedelta(hours=1)


async def test_a_wait_moves_time_only_as_far_as_it_needs(app: App) -> None:
    async with Environment(app) as perdure:
        assert (await perdure.run("month")).output == (START + timedelta(days=30)).isoformat()
        assert perdure.now == START + timedelta(days=30)


async def test_waits_of_the_client_move_time_and_limits_are_of_that_time(app: App) -> None:
    async with Environment(app) as perdure:
        id = await perdure.client.schedule_new_workflow("month")
        with pytest.raises(DeadlineExceeded, match="it waits for timer at 2026-01-31T00:00:00"):
            await perdure.client.wait_for_workflow_completion(id, timeout=timedelta(days=29))
        assert perdure.now == START + timedelta(days=29)
        state = await perdure.client.wait_for_workflow_completion(id, timeout=timedelta(days=1))
        assert state.runtime_status is RuntimeStatus.COMPLETED


async def test_waiting_together(app: App) -> None:
    async with Environment(app) as perdure:
        ids = [await perdure.client.schedule_new_workflow("beats", input=n) for n in range(1, 8)]
        states = await asyncio.gather(*map(perdure.wait, ids))
        assert [len(state.output) for state in states] == list(range(1, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("early", [True, False])
async def test_an_event_and_its_time_limit(app: App, early: bool) -> None:
    async with Environment(app) as perdure:
        id = await perdure.start("approval")
        await perdure.advance(minutes=59, seconds=59 if early else 60)
        if early:
            await perdure.raise_event(id, "approved", "yes")
        assert (await perdure.state(id)).output == ("yes" if early else "too late")


async def test_what_never_comes_is_told(app: App) -> None:
    async with Environment(app, patience=2) as perdure:
        with pytest.raises(TimeStandsStill, match="has not finished: it waits for event never"):
            await perdure.run("for_ever")


async def test_an_event_from_elsewhere_ends_a_wait(app: App) -> None:
    """Nothing is left that time would bring, but somebody else is at work."""
    async with Environment(app) as perdure:
        id = await perdure.start("for_ever")

        async def somebody() -> None:
            await asyncio.sleep(0.05)
            await perdure.client.raise_workflow_event(id, "never")

        state, _ = await asyncio.gather(perdure.wait(id), somebody())
        assert state.runtime_status is RuntimeStatus.COMPLETED


async def test_an_activity_that_hangs_is_told(app: App) -> None:
    async with Environment(app, patience=2) as perdure:
        id = await perdure.client.schedule_new_workflow("hung")
        with pytest.raises(TimeStandsStill, match=f"activity 'hangs' of instance '{id}' has been running"):
            await perdure.wait(id)
        await perdure.advance(hours=1, while_running=True)
        assert perdure.now == START + timedelta(hours=1)


async def test_time_limits_of_activities_go_by_it() -> None:
    app = App("limits")

    @app.activity(start_to_close_timeout=timedelta(minutes=5))
    async def hangs(ctx: ActivityContext) -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def limited(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity(hangs)
        except TaskFailedError as error:
            return f"{error.details.type} after {milliseconds(ctx.current_utc_datetime)}"
        return "never"

    async with Environment(app) as perdure:
        id = await perdure.client.schedule_new_workflow(limited)
        await perdure.advance(minutes=4, seconds=59, while_running=True)
        state = await perdure.client.get_workflow_state(id)
        assert state is not None
        assert state.runtime_status is RuntimeStatus.RUNNING
        await perdure.advance(seconds=2, while_running=True)
        output = (await perdure.state(id)).output
        assert isinstance(output, str)
        assert output.endswith(f"after {milliseconds(START + timedelta(minutes=5))}")
        assert "Timeout" in output


async def test_starts_for_later_go_by_it(app: App) -> None:
    async with Environment(app) as perdure:
        id = await perdure.client.schedule_new_workflow("month", start_at=timedelta(days=365))
        await perdure.advance(days=364)
        assert (await perdure.state(id)).runtime_status is RuntimeStatus.PENDING
        await perdure.advance(days=1)
        assert (await perdure.state(id)).runtime_status is RuntimeStatus.RUNNING
        assert (await perdure.wait(id)).output == (START + timedelta(days=395)).isoformat()


async def test_retries_come_at_their_time() -> None:
    app = App("retries")
    tried = []

    @app.activity
    async def flaky(ctx: ActivityContext) -> str:
        tried.append(perdure.now - START)
        if len(tried) < 4:
            raise ConnectionError("not yet")
        return "done"

    policy = RetryPolicy(
        first_retry_interval=timedelta(minutes=1), max_number_of_attempts=9, backoff_coefficient=60.0
    )

    @app.workflow
    async def patient(ctx: WorkflowContext) -> str:
        return await ctx.call_activity(flaky, retry_policy=policy)

    async with Environment(app) as perdure:
        assert (await perdure.run(patient)).output == "done"
    assert tried == [timedelta(minutes=m) for m in (0, 1, 61, 3661)]


async def test_reminders_and_timers_of_actors_go_by_it() -> None:
    app = App("bells")

    @app.actor
    class Bell(Actor):
        async def begin(self) -> None:
            await self.set_reminder("hour", timedelta(hours=1), timedelta(hours=1))
            self.set_timer("half", timedelta(minutes=30), timedelta(minutes=30), self.tick)

        async def on_reminder(self, name: str, data: object) -> None:
            self.state.set("hours", await self.hours() + 1)

        async def tick(self) -> None:
            self.state.set("ticks", await self.ticks() + 1)

        async def hours(self) -> int:
            return await self.state.get("hours", int, default=0)

        async def ticks(self) -> int:
            return await self.state.get("ticks", int, default=0)

    async with Environment(app) as perdure:
        bell = perdure.actor(Bell, "1")
        await bell.begin()
        await perdure.advance(minutes=29, seconds=59)
        assert (await bell.hours(), await bell.ticks()) == (0, 0)
        await perdure.advance(seconds=2)
        assert (await bell.hours(), await bell.ticks()) == (0, 1)
        await perdure.advance(hours=5)
        assert (await bell.hours(), await bell.ticks()) == (5, 11)
        # Here, too, as in a program.
        assert await ActorProxy.create(Bell, "1").hours() == 5


async def test_a_restart_replays_and_goes_on(app: App) -> None:
    async with Environment(app) as perdure:
        id = await perdure.start("beats", 3)
        await perdure.advance(seconds=0.015)
        before = perdure.node
        await perdure.restart()
        assert perdure.node is not before
        assert perdure.now == START + timedelta(milliseconds=15)
        assert len((await perdure.wait(id)).output) == 3  # type: ignore[arg-type]
        assert perdure.now == START + timedelta(milliseconds=30)


async def test_timers_that_were_due_meanwhile_come_at_once(app: App, tmp_path: Path) -> None:
    """On a store that lasts, with the test begun anew a day later."""
    store = f"sqlite:///{tmp_path}/state.db"
    async with Environment(app, store=store) as perdure:
        id = await perdure.start("approval")
    async with Environment(app, store=store, start=START + timedelta(days=1)) as perdure:
        assert (await perdure.state(id)).output == "too late"
        assert perdure.now == START + timedelta(days=1)


async def test_http_is_served_where_it_is_wanted(app: App) -> None:
    """What comes in that way waits for the test's time, too."""
    async with Environment(app, http_port=0) as perdure, ClientSession() as session:
        url = f"{perdure.node.url}/v1.0/workflows/dapr/month/start?instanceID=over-http"
        async with session.post(url) as answer:
            assert answer.status == 202
        assert (await perdure.wait("over-http")).output == (START + timedelta(days=30)).isoformat()


async def test_code_that_does_something_else_on_replay_fails_the_test() -> None:
    app = App("moody")
    moods = iter(range(100))

    @app.activity(name="a0")
    async def even(ctx: ActivityContext) -> None: ...

    @app.activity(name="a1")
    async def odd(ctx: ActivityContext) -> None: ...

    @app.workflow
    async def moody(ctx: WorkflowContext) -> None:
        await ctx.call_activity(f"a{next(moods) % 2}")

    environment = Environment(app)
    await environment.__aenter__()
    await environment.start(moody, instance_id="one")
    assert list(environment.mismatches) == ["one"]
    with pytest.raises(NonDeterminism, match="History: activity 'a0'"):
        await environment.__aexit__(None, None, None)


async def test_an_error_of_the_test_is_not_hidden(app: App) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Environment(app):
            _ = 1 / 0


async def test_errors_of_the_caller(app: App) -> None:
    with pytest.raises(ValueError, match="time zone"):
        Environment(app, start=datetime(2026, 1, 1))
    async with Environment(app) as perdure:
        with pytest.raises(ValueError, match="only forward"):
            await perdure.advance(days=-1)
        with pytest.raises(InstanceNotFound):
            await perdure.state("nobody")
        with pytest.raises(InstanceNotFound):
            await perdure.wait("nobody")
        await perdure.advance(to=START + timedelta(days=2))
        assert perdure.now == START + timedelta(days=2)


def test_the_same_with_calls(app: App) -> None:
    with blocking(app) as perdure:
        id = perdure.start("month")
        perdure.advance(days=29)
        assert perdure.state(id).runtime_status is RuntimeStatus.RUNNING
        assert perdure.wait(id).output == (START + timedelta(days=30)).isoformat()
        assert perdure.run("beats", 2).runtime_status is RuntimeStatus.COMPLETED
        waits = perdure.start("approval")
        perdure.raise_event(waits, "approved", "yes")
        assert perdure.state(waits).output == "yes"
        assert [event["type"] for event in perdure.history(waits)][-1] == "ExecutionCompleted"
        perdure.do(perdure.client.purge_workflow(waits))
        perdure.restart()
        with pytest.raises(TimeStandsStill, match="it waits for event never"):
            perdure.run("for_ever")


def test_nothing_is_left_behind_by_an_environment_that_cannot_begin(app: App) -> None:
    with pytest.raises(Exception, match="nowhere"), blocking(app, store="nowhere://"):
        pass


def test_a_thousand_instances_take_no_time(app: App) -> None:
    with blocking(app, replay_check="off") as perdure:

        async def all_of_them() -> list[Any]:
            ids = [await perdure.client.schedule_new_workflow("month") for _ in range(1000)]
            return await asyncio.gather(*map(perdure.client.wait_for_workflow_completion, ids))

        assert {state.runtime_status for state in perdure.do(all_of_them())} == {RuntimeStatus.COMPLETED}
        assert perdure.now == START + timedelta(days=30)
