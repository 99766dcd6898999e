"""Cancelling, as workflow code sees it: its own tasks, and all of it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from perdure.workflow.commands import (
    Cancelled,
    CancelTask,
    CancelTimer,
    ContinuedAsNew,
    CreateTimer,
    Failed,
    ScheduleTask,
)
from perdure.workflow.context import WorkflowContext
from perdure.workflow.events import Attempt, CancelRequested, FailureDetails, TaskCompleted, TaskFailed
from perdure.workflow.misuse import WorkflowMisuse
from perdure.workflow.registry import Registry
from perdure.workflow.retry import RetryPolicy
from perdure.workflow.tasks import (
    ActivityTimeout,
    HeartbeatTimeout,
    Task,
    TaskCancelledError,
    TaskFailedError,
    WorkflowCancelled,
    when_all,
    when_any,
)
from tests.workflow.code_driver import SECOND, START, Driver


@pytest.fixture
def app() -> Registry:
    return Registry()


def run(app: Registry, body: Any) -> Driver:
    app.workflow(body, name="body")
    return Driver(app, "body")


def cancelled(driver: Driver) -> FailureDetails:
    """Why it has ended, which is that it was cancelled; replay does the same."""
    outcome = driver.run.outcome
    assert isinstance(outcome, Cancelled), outcome
    again = driver.replayed().outcome
    assert isinstance(again, Cancelled)
    assert again.failure.message == outcome.failure.message
    return outcome.failure


# --- a task ------------------------------------------------------------------------------------------------------


def test_a_cancelled_activity_has_an_error_and_takes_no_answer(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> list[Any]:
        task = ctx.call_activity("long")
        await ctx.wait_for_external_event("enough")
        said = [task.cancel("too slow"), task.cancel(), task.is_failed]
        with pytest.raises(TaskCancelledError, match=r"'long' \(task 0\) was cancelled: too slow") as caught:
            await task
        assert isinstance(caught.value, TaskFailedError)
        await ctx.wait_for_external_event("end")
        return said

    driver = run(app, body)
    driver.event("enough")
    assert driver.commands == [CancelTask(0)]
    driver.complete(0, "late")
    driver.event("end")
    assert driver.result == [True, False, True]
    driver.replayed()


def test_an_activity_that_answers_in_the_turn_in_which_it_is_cancelled_does_not_count(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> Any:
        tasks = [ctx.call_activity("one"), ctx.call_activity("two")]
        winner = await when_any(tasks)
        for task in tasks:
            task.cancel()
        return [winner.get_result(), tasks[1].is_failed]

    driver = run(app, body)
    at = driver.tick()
    driver.turn([TaskCompleted(at, 0, b"1"), TaskCompleted(at, 1, b"2")])
    assert driver.commands == [CancelTask(1)]
    assert driver.result == [1, True]
    driver.replayed()


def test_what_settled_before_cannot_be_cancelled(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> Any:
        task = ctx.call_activity("one")
        await task
        return [task.cancel(), await task]

    driver = run(app, body)
    driver.complete(0, "done")
    assert driver.result == [False, "done"]


def test_a_call_that_waits_for_its_next_attempt_is_not_tried_again(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=9), max_number_of_attempts=3)

    async def body(ctx: WorkflowContext) -> str:
        task = ctx.call_activity("flaky", retry_policy=policy)
        await ctx.wait_for_external_event("enough")
        task.cancel()
        await ctx.wait_for_external_event("end")
        return "over"

    driver = run(app, body)
    driver.fail(0)
    driver.event("enough")
    assert driver.commands == [CancelTimer(1)]
    driver.fire(1)
    assert driver.commands == []
    driver.event("end")
    assert driver.result == "over"
    driver.replayed()


def test_children_timers_waits_and_combinations_are_cancelled(app: Registry) -> None:
    async def branch(ctx: WorkflowContext) -> str:
        try:
            return await ctx.call_activity("inner")
        except TaskCancelledError:
            return "undone"

    async def body(ctx: WorkflowContext) -> list[Any]:
        child = ctx.call_child_workflow("child")  # 0
        timer = ctx.create_timer(timedelta(hours=1))  # 1
        wait = ctx.wait_for_external_event("never", timeout=timedelta(hours=1))  # 2
        both = when_all([ctx.call_activity("a"), branch(ctx)])  # 3, 4
        await ctx.wait_for_external_event("enough")
        tasks: list[Task[Any]] = [child, timer, wait, both]
        for task in tasks:
            assert task.cancel()
        found = []
        for task in tasks:
            with pytest.raises(TaskCancelledError) as caught:
                await task
            found.append(type(caught.value).__name__)
        return found

    driver = run(app, body)
    driver.event("enough")
    assert driver.commands == [CancelTask(0), CancelTimer(1), CancelTimer(2), CancelTask(3), CancelTask(4)]
    assert driver.result == ["TaskCancelledError"] * 4
    driver.replayed()


def test_a_branch_that_is_just_going_on_is_cancelled_there(app: Registry) -> None:
    async def branch(ctx: WorkflowContext, name: str) -> str:
        try:
            await ctx.wait_for_external_event(name)
        except TaskCancelledError:
            return f"{name} cancelled"
        return name

    async def body(ctx: WorkflowContext) -> list[str]:
        first = when_all([branch(ctx, "x")])
        waits = ctx.wait_for_external_event("x")
        await waits
        return await first

    driver = run(app, body)
    # Events of one name go to the waits in order: the code's own, which begins first, has the first.
    driver.event("x")
    driver.event("x")
    assert driver.result == ["x"]
    driver.replayed()


def test_only_the_workflow_itself_cancels_its_tasks(app: Registry) -> None:
    kept: list[Task[Any]] = []

    async def body(ctx: WorkflowContext) -> None:
        kept.append(ctx.call_activity("long"))
        await kept[0]

    run(app, body)
    with pytest.raises(WorkflowMisuse, match="only by the code of its own workflow"):
        kept[0].cancel()


# --- the workflow ------------------------------------------------------------------------------------------------


def test_a_cancelled_workflow_undoes_what_it_has_done(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        await ctx.call_activity("reserve")
        try:
            await ctx.call_activity("charge")
        except WorkflowCancelled as error:
            await ctx.call_activity("release", input=[error.reason, ctx.cancelled])
            raise

    driver = run(app, body)
    driver.complete(0)
    driver.cancel("changed my mind")
    assert driver.commands == [
        CancelTask(1),
        ScheduleTask(2, "release", b'["changed my mind",true]', "exec-1:2"),
    ]
    driver.cancel("again")
    assert (driver.commands, driver.run.outcome) == ([], None)
    driver.complete(2)
    failure = cancelled(driver)
    assert (failure.type, failure.message) == (
        "WorkflowCancelled",
        "the workflow was cancelled: changed my mind",
    )


def test_handlers_of_any_exception_undo_too(app: Registry) -> None:
    def body(ctx: WorkflowContext) -> Generator[Any, Any, None]:
        try:
            yield ctx.create_timer(timedelta(days=1))
        except Exception:
            yield ctx.call_activity("undo")
            raise

    driver = run(app, body)
    driver.cancel()
    assert driver.commands == [CancelTimer(0), ScheduleTask(1, "undo", None, "exec-1:1")]
    driver.complete(1)
    assert cancelled(driver).message == "the workflow was cancelled"


def test_code_may_go_on_and_have_a_result(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> str:
        try:
            await ctx.wait_for_external_event("never")
        except WorkflowCancelled:
            return "not now" if ctx.cancelled else "?"
        return "came"

    driver = run(app, body)
    driver.cancel()
    assert driver.result == "not now"
    driver.replayed()


def test_an_error_while_undoing_is_a_failure(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        try:
            await ctx.wait_for_external_event("never")
        finally:
            raise KeyError("undo")

    driver = run(app, body)
    driver.cancel()
    assert isinstance(driver.run.outcome, Failed)
    assert driver.failure.type == "KeyError"


def test_a_workflow_that_raises_it_by_itself_fails(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        raise WorkflowCancelled("I say so")

    assert run(app, body).failure.type == "WorkflowCancelled"


def test_all_branches_undo_before_the_code_that_waits_for_them_goes_on(app: Registry) -> None:
    async def branch(ctx: WorkflowContext, name: str) -> None:
        try:
            await ctx.call_activity(f"do {name}")
        except WorkflowCancelled:
            await ctx.call_activity(f"undo {name}")
            raise

    async def body(ctx: WorkflowContext) -> None:
        try:
            await when_all([ctx.call_activity("fails"), branch(ctx, "a"), branch(ctx, "b")])
        except WorkflowCancelled:
            await ctx.call_activity("undo the rest")
            raise

    driver = run(app, body)
    driver.fail(0)
    driver.cancel()
    names = [command.name for command in driver.commands if isinstance(command, ScheduleTask)]
    assert names == ["undo a", "undo b"]
    driver.complete(3)
    assert driver.commands == []
    driver.complete(4)
    assert [command.name for command in driver.commands] == ["undo the rest"]  # type: ignore[union-attr]
    driver.complete(5)
    cancelled(driver)


def test_when_any_does_not_take_it_for_a_winner(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        timer = ctx.create_timer(timedelta(hours=1))
        task = ctx.call_activity("slow")
        await when_any([task, timer])
        raise AssertionError("not reached")

    driver = run(app, body)
    driver.cancel()
    assert driver.commands == [CancelTask(1), CancelTimer(0)]
    cancelled(driver)


def test_a_bounded_map_begins_nothing_more(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        await ctx.map("work", range(10), max_concurrency=2)

    driver = run(app, body)
    driver.complete(0)
    driver.cancel()
    assert driver.commands == [CancelTask(2), CancelTask(1)]
    cancelled(driver)


def test_a_cancelled_workflow_may_begin_anew(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> None:
        try:
            await ctx.wait_for_external_event("never")
        except WorkflowCancelled:
            ctx.continue_as_new(None)

    driver = run(app, body)
    driver.cancel()
    assert isinstance(driver.run.outcome, ContinuedAsNew)


def test_cancelling_what_has_ended_changes_nothing(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> int:
        return 1

    driver = run(app, body)
    driver.run.apply(CancelRequested(driver.tick(), ""))
    assert driver.result == 1


def test_runs_with_time_limits_leave_nothing_to_the_garbage_collector(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=9), max_number_of_attempts=3)

    async def body(ctx: WorkflowContext) -> None:
        ctx.call_activity("flaky", retry_policy=policy, schedule_to_close_timeout=timedelta(hours=1))
        await ctx.wait_for_external_event("never")

    gc.collect()
    gc.disable()
    try:
        driver = run(app, body)
        driver.fail(0)
        freed = weakref.ref(driver.run)
        driver.run.close()
        del driver
        assert freed() is None
    finally:
        gc.enable()


# --- time limits -------------------------------------------------------------------------------------------------


def test_a_time_limit_over_all_attempts_is_a_durable_timer(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=100)

    async def body(ctx: WorkflowContext) -> Any:
        task = ctx.call_activity("pay", retry_policy=policy, schedule_to_close_timeout=timedelta(seconds=60))
        with pytest.raises(ActivityTimeout, match=r"'pay' \(task 3\) failed: ActivityTimeout") as caught:
            await task
        assert isinstance(caught.value, TimeoutError)
        return await ctx.call_activity("next")

    driver = run(app, body)
    assert driver.commands == [
        ScheduleTask(0, "pay", None, "exec-1:0"),
        CreateTimer(1, START + 60 * SECOND, "limit:pay"),
    ]
    assert list(driver.run.waiting_for()) == ["activity pay (task 0)"]
    driver.fail(0)
    driver.fire(2)
    driver.fire(1)
    assert driver.commands == [CancelTask(3), ScheduleTask(4, "next", None, "exec-1:4")]
    driver.complete(3, "late")
    driver.complete(4, "end")
    assert driver.result == "end"
    driver.replayed()


def test_an_answer_in_time_ends_the_time_limit(app: Registry) -> None:
    @app.activity(schedule_to_close_timeout=timedelta(seconds=5))
    def pay(ctx: Any) -> int:
        raise NotImplementedError

    async def body(ctx: WorkflowContext) -> Any:
        first = await ctx.call_activity(pay)
        try:
            await ctx.call_activity(pay)
        except TaskFailedError:
            return first

    driver = run(app, body)
    driver.complete(0, 7)
    assert driver.commands[0] == CancelTimer(1)
    driver.fail(2)
    assert driver.commands == [CancelTimer(3)]
    assert driver.result == 7
    driver.replayed()


def test_time_limits_and_heartbeats_go_with_each_attempt(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)

    async def body(ctx: WorkflowContext) -> None:
        await ctx.call_activity(
            "copy",
            retry_policy=policy,
            start_to_close_timeout=timedelta(seconds=10),
            heartbeat_timeout=timedelta(seconds=1),
        )

    driver = run(app, body)
    assert driver.commands == [
        ScheduleTask(0, "copy", None, "exec-1:0", attempt=Attempt(1, 10 * SECOND, SECOND))
    ]
    failure = FailureDetails("HeartbeatTimeout", "silent")
    driver.turn([TaskFailed(driver.tick(), 0, failure, b"50")])
    driver.fire(1)
    assert driver.commands == [
        ScheduleTask(2, "copy", None, "exec-1:0", attempt=Attempt(2, 10 * SECOND, SECOND, b"50"))
    ]
    # An attempt that says nothing does not make forgotten what was said before.
    driver.turn([TaskFailed(driver.tick(), 2, failure)])
    driver.fire(3)
    assert driver.commands == [
        ScheduleTask(4, "copy", None, "exec-1:0", attempt=Attempt(3, 10 * SECOND, SECOND, b"50"))
    ]


def test_time_limits_have_classes_of_their_own(app: Registry) -> None:
    async def body(ctx: WorkflowContext) -> list[str]:
        found = []
        for _ in range(2):
            try:
                await ctx.call_activity("pay")
            except HeartbeatTimeout:
                found.append("heartbeat")
            except ActivityTimeout:
                found.append("end")
        return found

    driver = run(app, body)
    driver.fail(0, type="HeartbeatTimeout")
    driver.fail(1, type="ActivityTimeout")
    assert driver.result == ["heartbeat", "end"]


@pytest.mark.parametrize("name", ["start_to_close_timeout", "heartbeat_timeout", "schedule_to_close_timeout"])
@pytest.mark.parametrize("value", [5, timedelta(0), timedelta(seconds=-1)])
def test_time_limits_are_timedeltas(app: Registry, name: str, value: Any) -> None:
    async def body(ctx: WorkflowContext) -> None:
        await ctx.call_activity("pay", **{name: value})

    failure = run(app, body).failure
    assert failure.type == "InvalidInput"
    assert name in failure.message
    with pytest.raises(ValueError, match=name):
        app.activity(name="x", **{name: value})(lambda ctx: None)


# --- what a retry policy asks -------------------------------------------------------------------------------------


def retried(app: Registry, **options: Any) -> Driver:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3, **options)

    async def body(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity("pay", retry_policy=policy)
        except TaskFailedError as error:
            return str(error)
        return "paid"

    return run(app, body)


def test_a_predicate_that_raises_ends_the_call_with_both_reasons(app: Registry) -> None:
    driver = retried(app, retry_if=lambda failure: 1 / 0)  # type: ignore[arg-type,return-value]
    driver.fail(0, "declined")
    assert "ValueError: declined; and retry_if raised ZeroDivisionError" in driver.result


def test_a_predicate_cannot_use_the_context(app: Registry) -> None:
    seen: list[WorkflowContext] = []

    def ask(failure: FailureDetails) -> bool:
        seen[0].call_activity("more")
        return True

    policy = RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3, retry_if=ask)

    async def body(ctx: WorkflowContext) -> None:
        seen.append(ctx)
        await ctx.call_activity("pay", retry_policy=policy)

    driver = run(app, body)
    driver.fail(0)
    assert "retry_if raised WorkflowMisuse" in driver.failure.message


def test_a_failure_that_says_when_is_retried_then(app: Registry) -> None:
    driver = retried(app)
    driver.turn([TaskFailed(driver.tick(), 0, FailureDetails("Busy", "busy", retry_after=90 * SECOND))])
    assert driver.commands == [CreateTimer(1, driver.at + 90 * SECOND, "retry:pay")]


def test_a_workflow_has_a_retry_policy_for_those_who_call_it(app: Registry) -> None:
    @app.workflow(
        retry_policy=RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=2)
    )
    async def ship(ctx: WorkflowContext) -> None: ...

    async def body(ctx: WorkflowContext) -> None:
        await ctx.call_child_workflow(ship)

    driver = run(app, body)
    driver.fail_child(0)
    assert driver.commands == [CreateTimer(1, driver.at + SECOND, "retry:ship")]


def test_code_that_is_ended_where_it_waits_cancels_nothing(app: Registry) -> None:
    said: list[bool] = []

    async def body(ctx: WorkflowContext) -> None:
        task = ctx.call_activity("long")
        try:
            await ctx.wait_for_external_event("never")
        finally:
            said.append(task.cancel())

    driver = run(app, body)
    driver.run.close()
    assert (said, driver.run.take_commands()) == ([False], [])
