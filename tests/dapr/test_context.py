"""What workflow and activity code is given, where Dapr's SDK has its own way."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from perdure import TaskFailedError
from perdure.dapr import (
    DaprWorkflowClient,
    RetryPolicy,
    WorkflowActivityContext,
    WorkflowRuntime,
    WorkflowState,
    WorkflowStatus,
    when_all,
    when_any,
)

PATIENCE = 60


def ended(workflow: Any, **options: Any) -> WorkflowState:
    client = DaprWorkflowClient()
    instance = client.schedule_new_workflow(workflow, **options)
    return client.wait_for_workflow_completion(instance, timeout_in_seconds=PATIENCE)


def result(workflow: Any, **options: Any) -> Any:
    state = ended(workflow, **options)
    state.raise_if_failed()
    return json.loads(state.serialized_output or "null")


def test_times_are_naive(runtime: WorkflowRuntime) -> None:
    @runtime.workflow
    def times(ctx: Any) -> Any:
        begin = ctx.current_utc_datetime
        assert isinstance(begin, datetime)
        assert begin.tzinfo is None
        yield ctx.create_timer(fire_at=begin + timedelta(milliseconds=30))
        after = ctx.current_utc_datetime
        try:
            yield ctx.wait_for_external_event("never", timeout=after + timedelta(milliseconds=30))
        except TimeoutError:
            return after - begin >= timedelta(milliseconds=30)

    runtime.start()
    assert result(times) is True


def test_continue_as_new_drops_unread_events_unless_told_otherwise(runtime: WorkflowRuntime) -> None:
    @runtime.workflow
    def rounds(ctx: Any, state: dict[str, Any]) -> Any:
        if state["round"] == 0:
            # Two events are there by then, and one is read.
            yield ctx.wait_for_external_event("go")
            yield ctx.wait_for_external_event("ready")
            ctx.continue_as_new({"round": 1, "save": state["save"]}, save_events=state["save"])
            return None
        late = ctx.create_timer(timedelta(milliseconds=50))
        event = ctx.wait_for_external_event("go")
        winner = yield when_any([event, late])
        return "kept" if winner == event else "dropped"

    @runtime.workflow
    def by_default(ctx: Any, state: dict[str, Any]) -> Any:
        if state["round"] == 0:
            yield ctx.wait_for_external_event("ready")
            ctx.continue_as_new({"round": 1})
            return None
        event, late = ctx.wait_for_external_event("go"), ctx.create_timer(timedelta(milliseconds=50))
        winner = yield when_any([event, late])
        return "kept" if winner == event else "dropped"

    runtime.start()
    client = DaprWorkflowClient()
    for workflow, save, wanted in (
        (rounds, True, "kept"),
        (rounds, False, "dropped"),
        (by_default, False, "dropped"),
    ):
        instance = client.schedule_new_workflow(workflow, input={"round": 0, "save": save})
        for event in ("go", "go", "ready"):
            client.raise_workflow_event(instance, event)
        state = client.wait_for_workflow_completion(instance, timeout_in_seconds=PATIENCE)
        assert state.serialized_output == json.dumps(wanted)


def test_when_all_fails_as_soon_as_one_has_failed(runtime: WorkflowRuntime) -> None:
    @runtime.activity
    def fails(ctx: Any, text: str) -> None:
        raise ValueError(text)

    @runtime.activity
    def works(ctx: Any, number: int) -> int:
        return number

    @runtime.workflow
    def impatient(ctx: Any) -> Any:
        never = ctx.wait_for_external_event("never")
        one = ctx.call_activity(works, input=1)
        both = when_all([never, ctx.call_activity(fails, input="bad"), one])
        with pytest.raises(TaskFailedError, match="bad"):
            yield both
        assert both.is_failed
        # One that has failed already, and what still counts.
        again = when_all([never, *both.get_tasks()])
        assert again.is_failed
        assert again.pending_tasks >= 1
        yield one
        assert again.get_tasks()[0] is never
        results = yield when_all([one, ctx.call_activity(works, input=2)])
        nothing = yield when_all([])
        nested = yield when_all([when_all([one]), when_any([one])])
        return [results, nothing, nested[0]]

    runtime.start()
    assert result(impatient) == [[1, 2], [], [1]]


def test_when_all_takes_tasks_of_its_workflow_only(runtime: WorkflowRuntime) -> None:
    @runtime.workflow
    def wrong(ctx: Any, what: str) -> Any:
        task = ctx.create_timer(timedelta(hours=1))
        yield when_all(task if what == "one" else [task, 5])

    runtime.start()
    for what, message in (("one", "takes one list"), ("other", "not 5")):
        state = ended(wrong, input=what)
        assert state.failure_details is not None
        assert message in state.failure_details.message
    with pytest.raises(Exception, match="only in workflow code"):
        when_all([])


def test_an_activity_knows_for_whom_it_runs(runtime: WorkflowRuntime) -> None:
    @runtime.activity
    def who(ctx: WorkflowActivityContext) -> Any:
        inner = ctx.get_inner_context()
        assert inner.workflow_id == ctx.workflow_id
        return [ctx.workflow_id, ctx.task_id, ctx.activity_name]

    @runtime.workflow
    def asks(ctx: Any) -> Any:
        yield ctx.create_timer(timedelta(0))
        return (yield ctx.call_activity(who))

    runtime.start()
    assert result(asks, instance_id="one") == ["one", 1, "who"]


def test_a_function_that_is_not_registered_fails_at_the_call(runtime: WorkflowRuntime) -> None:
    def forgotten(ctx: Any) -> None: ...

    @runtime.workflow
    def calls(ctx: Any, kind: str) -> Any:
        call = ctx.call_activity if kind == "activity" else ctx.call_child_workflow
        yield call(forgotten if kind != "number" else 5)

    runtime.start()
    for kind in ("activity", "workflow"):
        state = ended(calls, input=kind)
        assert state.failure_details is not None
        assert f"{kind} 'forgotten' is not registered" in state.failure_details.message
    state = ended(calls, input="number")
    assert state.failure_details is not None
    assert "by its function or its name" in state.failure_details.message


def test_retries(runtime: WorkflowRuntime) -> None:
    attempts: dict[str, int] = {}

    def fail(what: str, until: int) -> int:
        attempts[what] = attempts.get(what, 0) + 1
        if attempts[what] < until:
            raise ValueError(f"attempt {attempts[what]}")
        return attempts[what]

    @runtime.activity
    def flaky(ctx: Any, until: int) -> int:
        return fail(f"activity {until}", until)

    @runtime.workflow
    def flaky_child(ctx: Any, until: int) -> int:
        return fail(f"child {until}", until)

    policy = RetryPolicy(
        first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=3, backoff_coefficient=None
    )
    once = RetryPolicy(
        first_retry_interval=timedelta(hours=1), max_number_of_attempts=3, retry_timeout=timedelta(0)
    )
    picky = RetryPolicy(
        first_retry_interval=timedelta(0), max_number_of_attempts=3, non_retryable_error_types=["ValueError"]
    )
    at_once = RetryPolicy(
        first_retry_interval=timedelta(hours=1), max_number_of_attempts=2, max_retry_interval=timedelta(0)
    )

    @runtime.workflow
    def retries(ctx: Any) -> Any:
        done = [
            (yield ctx.call_activity(flaky, input=3, retry_policy=policy)),
            (yield ctx.call_child_workflow(flaky_child, input=3, retry_policy=policy)),
            (yield ctx.call_activity(flaky, input=2, retry_policy=at_once)),
        ]
        for call in (
            ctx.call_activity(flaky, input=9, retry_policy=once),
            ctx.call_activity(flaky, input=8, retry_policy=picky),
            ctx.call_activity(flaky, input=7),
        ):
            with pytest.raises(TaskFailedError) as caught:
                yield call
            # Under the names of Dapr's SDK.
            details = caught.value.details
            assert (details.error_type, details.message) == ("ValueError", "attempt 1")
            assert "raise ValueError" in (details.stack_trace or "")
        return done

    runtime.start()
    assert result(retries) == [3, 3, 2]
    assert policy.max_number_of_attempts == policy.obj.max_number_of_attempts == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first_retry_interval": timedelta(-1)}, "first_retry_interval must be >= 0"),
        ({"max_number_of_attempts": 0}, "max_number_of_attempts must be >= 1"),
        ({"backoff_coefficient": 0.5}, "backoff_coefficient must be >= 1"),
        ({"max_retry_interval": timedelta(-1)}, "max_retry_interval must be >= 0"),
        ({"retry_timeout": timedelta(-1)}, "retry_timeout must be >= 0"),
    ],
)
def test_a_retry_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**{"first_retry_interval": timedelta(1), "max_number_of_attempts": 1, **wrong})


def test_what_dapr_has_not_is_there_too(runtime: WorkflowRuntime) -> None:
    @runtime.activity
    def double(ctx: Any, number: int) -> int:
        ctx.logger.info("doubling")
        return number * 2

    @runtime.workflow
    def more(ctx: Any) -> Any:
        ids = {str(ctx.new_uuid()), str(ctx.new_uuid())}
        doubled = yield ctx.map("double", [1, 2, 3], max_concurrency=2)
        return [len(ids), doubled]

    runtime.start()
    state = ended(more)
    assert state.runtime_status is WorkflowStatus.COMPLETED
    assert state.serialized_output == "[2,[2,4,6]]"
