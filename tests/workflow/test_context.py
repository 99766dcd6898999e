"""What the context offers to workflow code."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from perdure.errors import InvalidId, InvalidInput, NotRegistered
from perdure.workflow.calls import LAST_TIME
from perdure.workflow.commands import CreateTimer, ScheduleTask, SendEvent, StartChild, StartDetached
from perdure.workflow.context import WorkflowContext
from perdure.workflow.events import Attempt
from perdure.workflow.registry import Registry
from perdure.workflow.retry import RetryPolicy
from perdure.workflow.tasks import EventTimeout
from tests.workflow.code_driver import SECOND, START, Driver, replay


@pytest.fixture
def app() -> Registry:
    return Registry()


def run(app: Registry, body: Any) -> Driver:
    app.workflow(body, name="body")
    return Driver(app, "body")


def test_who_and_when(app: Registry) -> None:
    """The time is that of the arrival that the code goes on for."""

    async def body(ctx: WorkflowContext) -> list[Any]:
        before = ctx.current_utc_datetime
        await ctx.call_activity("a")
        assert before.tzinfo is UTC
        assert ctx.current_utc_datetime - before == timedelta(seconds=1)
        return [
            *(
                ctx.instance_id,
                ctx.workflow_name,
                ctx.execution_id,
                ctx.generation,
                ctx.app_id,
                ctx.namespace,
            ),
            before,
        ]

    driver = run(app, body)
    driver.complete(0)
    assert driver.result == ["order-7", "body", "exec-1", 1, "shop", "default", "2023-11-14T22:13:20Z"]


def test_an_activity_is_called_by_function_or_by_name(app: Registry) -> None:
    """Also in another app, where it need not be registered here."""

    @app.activity(name="charge")
    def pay(ctx: Any, input: int) -> int:
        return input

    def elsewhere(ctx: Any, input: int) -> int:
        return input

    async def body(ctx: WorkflowContext) -> None:
        ctx.call_activity(pay, input=1)
        ctx.call_activity("charge", input=1)
        ctx.call_activity(elsewhere, input=1, app_id="other")

    assert run(app, body).commands == [
        ScheduleTask(0, "charge", b"1", "exec-1:0"),
        ScheduleTask(1, "charge", b"1", "exec-1:1"),
        ScheduleTask(2, "elsewhere", b"1", "exec-1:2", "other"),
    ]


def test_calling_a_function_that_is_not_registered_names_the_remedy(app: Registry) -> None:
    def pay(ctx: Any) -> None: ...

    async def body(ctx: WorkflowContext) -> None:
        with pytest.raises(NotRegistered, match=r"'pay' is not registered: decorate it with @app\.activity"):
            ctx.call_activity(pay)
        with pytest.raises(NotRegistered, match=r"@app\.workflow"):
            ctx.call_child_workflow(pay)
        with pytest.raises(InvalidInput, match="by its function or its name"):
            ctx.call_activity(7)  # type: ignore[call-overload]
        with pytest.raises(InvalidInput, match="not empty"):
            ctx.call_activity("")

    assert run(app, body).result is None


def test_input_for_a_function_that_takes_none_is_refused(app: Registry) -> None:
    @app.activity
    def pay(ctx: Any) -> None: ...

    async def body(ctx: WorkflowContext) -> None:
        ctx.call_activity(pay, input=1)

    assert "give it a second parameter" in run(app, body).failure.message


def test_input_that_is_no_json_is_refused_at_the_call(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        ctx.call_activity("pay", input=object())

    assert "the input of activity 'pay' has type object" in run(app, body).failure.message


def test_children_have_ids_of_their_own(app: Registry) -> None:
    """The default one is made of instance, generation and task id."""

    async def body(ctx: WorkflowContext) -> None:
        ctx.call_child_workflow("ship", input=1)
        ctx.call_child_workflow("ship", instance_id="mine", app_id="other")

    assert run(app, body).commands == [
        StartChild(0, "ship", "order-7:1:0000", b"1"),
        StartChild(1, "ship", "mine", None, "other"),
    ]


def test_detach_gives_the_id(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> list[str]:
        at = datetime(2030, 1, 1, tzinfo=UTC)
        return [ctx.detach("mail", input=1, start_at=at), ctx.detach("mail", instance_id="mine")]

    driver = run(app, body)
    assert driver.result == ["order-7:1:0000", "mine"]
    assert driver.commands == [
        StartDetached(0, "mail", "order-7:1:0000", b"1", "", 1_893_456_000_000_000),
        StartDetached(1, "mail", "mine", None),
    ]


@pytest.mark.parametrize("bad", ["", "a/b", "a\nb", "x" * 257, 7])
def test_instance_ids_are_checked(app: Registry, bad: Any) -> None:
    async def body(ctx: WorkflowContext) -> None:
        for call in (
            lambda: ctx.call_child_workflow("a", instance_id=bad),
            lambda: ctx.detach("a", instance_id=bad),
            lambda: ctx.send_event(bad, "a"),
        ):
            with pytest.raises(InvalidId, match="1 to 256 bytes"):
                call()

    driver = run(app, body)
    assert driver.result is None
    assert driver.commands == []


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        (timedelta(seconds=3), START + 3 * SECOND),
        (timedelta(microseconds=1), START + 1),
        (timedelta(seconds=-3), START),
        (timedelta.max, LAST_TIME),
        (datetime(2030, 1, 1, tzinfo=UTC), 1_893_456_000_000_000),
        (datetime(2030, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 1_893_456_000_000_000),
        (datetime(2030, 1, 1), 1_893_456_000_000_000),
        (datetime(1999, 1, 1), START),
    ],
)
def test_timers_are_set_by_delay_or_time(app: Registry, due: timedelta | datetime, expected: int) -> None:
    """Naive is UTC, past is now, any length."""

    async def body(ctx: WorkflowContext) -> None:
        await ctx.create_timer(due)

    driver = run(app, body)
    assert driver.commands == [CreateTimer(0, expected)]
    driver.fire(0)
    assert driver.result is None


def test_a_timer_of_a_bare_number_is_refused(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        ctx.create_timer(5)  # type: ignore[arg-type]

    assert "use timedelta(seconds=…)" in run(app, body).failure.message


def test_events_match_without_case_and_in_order(app: Registry) -> None:
    """Raised before the wait or after it, first in, first out."""

    async def body(ctx: WorkflowContext) -> list[Any]:
        await ctx.call_activity("a")
        first = ctx.wait_for_external_event("Straße")
        second = ctx.wait_for_external_event("STRASSE")
        third = ctx.wait_for_external_event("strasse")
        return [await third, await second, await first]

    driver = run(app, body)
    driver.event("strasse", 1)
    driver.event("other", 0)
    driver.event("STRASSE", 2)
    driver.complete(0)
    driver.event("Strasse", 3)
    assert driver.result == [3, 2, 1]
    assert [event.name for event in driver.run.unread_events()] == ["other"]


def test_an_event_in_time_cancels_the_limit_one_too_late_waits_for_the_next(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> list[Any]:
        try:
            await ctx.wait_for_external_event("go", timeout=timedelta(seconds=5))
        except TimeoutError as error:
            return [type(error).__name__, str(error), await ctx.wait_for_external_event("go")]
        return []

    driver = run(app, body)
    driver.fire(0)
    driver.event("go", "late")
    assert driver.result == ["EventTimeout", "event 'go' did not come within the time limit", "late"]


def test_a_limit_of_nothing_only_takes_what_is_there(app: Registry) -> None:
    """No timer and no task id, neither then nor when the event is buffered."""

    async def body(ctx: WorkflowContext) -> list[Any]:
        await ctx.call_activity("a")
        got = await ctx.wait_for_external_event("go", timeout=timedelta(seconds=5))
        for timeout in (timedelta(0), timedelta(seconds=-1)):
            with pytest.raises(EventTimeout):
                await ctx.wait_for_external_event("go", timeout=timeout)
        return [got]

    driver = run(app, body)
    driver.event("go", 1)
    driver.complete(0)
    assert driver.commands == []
    assert driver.result == [1]


def test_a_wait_whose_limit_has_come_takes_no_event(app: Registry) -> None:
    """The next wait in line does."""

    async def body(ctx: WorkflowContext) -> Any:
        ctx.wait_for_external_event("go", timeout=timedelta(seconds=5))
        return await ctx.wait_for_external_event("go")

    driver = run(app, body)
    driver.fire(0)
    driver.event("go", "mine")
    assert driver.result == "mine"


@dataclass
class Approval:
    by: str


def test_event_data_has_the_type_asked_for(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> list[str]:
        approval = await ctx.wait_for_external_event("go", type=Approval)
        try:
            await ctx.wait_for_external_event("go", type=Approval)
        except InvalidInput as error:
            return [approval.by, str(error)]
        return []

    driver = run(app, body)
    driver.event("go", {"by": "Ann"})
    driver.event("go", {"by": 7})
    assert driver.result == ["Ann", "the data of event 'go': field `by`: expected `str`, got `int`"]


@pytest.mark.parametrize("use", [{"name": ""}, {"name": 7}, {"name": "a", "timeout": 5}])
def test_wrong_waits_say_what_is_right(app: Registry, use: dict[str, Any]) -> None:
    async def body(ctx: WorkflowContext) -> None:
        ctx.wait_for_external_event(**use)

    assert run(app, body).failure.type == "InvalidInput"


def test_send_event(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        ctx.send_event("other-1", "Go", {"a": 1}, app_id="other")

    assert run(app, body).commands == [SendEvent(0, "other-1", "Go", b'{"a":1}', "other")]


def test_custom_status(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        ctx.set_custom_status({"step": 1})
        await ctx.call_activity("a")
        ctx.set_custom_status(None)

    driver = run(app, body)
    assert driver.run.custom_status == b'{"step":1}'
    driver.complete(0)
    assert driver.run.custom_status is None


def test_uuids_and_randomness_are_the_same_on_replay(app: Registry) -> None:
    """And different from each other."""

    async def body(ctx: WorkflowContext) -> list[str]:
        values = [str(ctx.new_uuid()), str(ctx.random().random())]
        await ctx.call_activity("a")
        assert isinstance(ctx.random(), random.Random)
        return [*values, str(ctx.new_uuid()), str(ctx.random().random())]

    driver = run(app, body)
    driver.complete(0)
    assert len(set(driver.result)) == 4
    driver.replayed()


def test_the_logger_is_silent_on_replay_and_carries_ids(
    app: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(ctx: WorkflowContext) -> bool:
        replaying = ctx.is_replaying
        ctx.logger.info("begun", extra={"perdure_fields": {"step": 1}})
        await ctx.call_activity("a")
        return replaying

    caplog.set_level(logging.INFO, logger="perdure.workflow")
    driver = run(app, body)
    assert [record.getMessage() for record in caplog.records] == ["begun"]
    assert vars(caplog.records[0])["perdure_fields"] == {
        "instance": "order-7",
        "workflow": "body",
        "execution": "exec-1",
        "step": 1,
    }
    again = replay(app, driver.start, driver.history)
    assert len(caplog.records) == 1
    assert not again.replaying


def test_map_keeps_the_order_and_the_limit(app: Registry) -> None:
    """The next call begins when one has ended, failed or not."""

    async def body(ctx: WorkflowContext) -> list[Any]:
        return await ctx.map("square", range(5), max_concurrency=2)

    driver = run(app, body)
    assert [command.id for command in driver.commands] == [0, 1]
    for id in (1, 0, 3, 2, 4):
        driver.complete(id, id * id)
        assert len(driver.commands) <= 1
    assert driver.result == [0, 1, 4, 9, 16]


def test_map_calls_all_and_then_raises_the_first_failure(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> list[Any]:
        return await ctx.map("square", range(3), max_concurrency=1)

    driver = run(app, body)
    driver.fail(0, "first")
    driver.fail(1, "second")
    driver.complete(2)
    assert "first" in driver.failure.message


def test_map_without_a_limit_calls_all_at_once(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> list[Any]:
        with pytest.raises(InvalidInput, match="max_concurrency is a whole number from 1"):
            ctx.map("square", [], max_concurrency=0)
        assert await ctx.map("square", [], max_concurrency=3) == []
        return await ctx.map("square", range(3))

    driver = run(app, body)
    assert len(driver.commands) == 3


def test_a_failed_attempt_is_retried_after_its_delay_under_the_same_key(app: Registry) -> None:
    """Every attempt and every delay has a task id of its own; nobody needs to await it."""
    policy = RetryPolicy(
        first_retry_interval=timedelta(seconds=2), max_number_of_attempts=3, backoff_coefficient=2
    )

    async def body(ctx: WorkflowContext) -> Any:
        task = ctx.call_activity("pay", input=1, retry_policy=policy)
        await ctx.wait_for_external_event("go")
        return await task

    driver = run(app, body)
    driver.fail(0)
    assert driver.commands == [CreateTimer(1, driver.at + 2 * SECOND, "retry:pay")]
    driver.fire(1)
    assert driver.commands == [ScheduleTask(2, "pay", b"1", "exec-1:0", attempt=Attempt(2))]
    driver.fail(2)
    assert driver.commands == [CreateTimer(3, driver.at + 4 * SECOND, "retry:pay")]
    assert any("retry of pay" in wait for wait in driver.run.waiting_for())
    driver.fire(3)
    driver.fail(4, "at last")
    assert driver.commands == []
    driver.event("go")
    assert "activity 'pay' (task 4) failed: ValueError: at last" in driver.failure.message
    driver.replayed()


def test_what_must_not_be_retried_fails_at_once(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=2), max_number_of_attempts=3)

    async def body(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity("pay", retry_policy=policy)

    driver = run(app, body)
    driver.fail(0, non_retriable=True)
    assert driver.failure.type == "TaskFailedError"


def test_the_activitys_own_policy_holds_for_calls_without_one(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=2), max_number_of_attempts=2)

    @app.activity(retry_policy=policy)
    def pay(ctx: Any) -> None: ...

    async def body(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity(pay)

    driver = run(app, body)
    driver.fail(0)
    assert [type(command) for command in driver.commands] == [CreateTimer]


def test_a_retried_child_gets_a_new_id_unless_one_was_given(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=2), max_number_of_attempts=2)

    async def body(ctx: WorkflowContext) -> None:
        ctx.call_child_workflow("a", retry_policy=policy)
        ctx.call_child_workflow("b", retry_policy=policy, instance_id="mine")
        await ctx.wait_for_external_event("go")

    driver = run(app, body)
    driver.fail_child(0)
    driver.fail_child(1)
    driver.fire(2)
    assert driver.commands == [StartChild(4, "a", "order-7:1:0004", None)]
    driver.fire(3)
    assert driver.commands == [StartChild(5, "b", "mine", None)]
