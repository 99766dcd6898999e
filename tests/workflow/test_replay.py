"""Running code again over its history: the same, or a mismatch told in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.workflow.context import WorkflowContext
from perdure.workflow.events import (
    Arrival,
    ChildCompleted,
    ChildFailed,
    EventRaised,
    ExecutionCompleted,
    ExecutionTerminated,
    FailureDetails,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from perdure.workflow.executor import NonDeterminism
from perdure.workflow.registry import Registry
from perdure.workflow.replay import Replay, replay_slices
from perdure.workflow.run import InProcessRun
from perdure.workflow.tasks import when_any
from tests.workflow.code_driver import Driver, new_run, replay
from tests.workflow.programs import programs, registry


def body_of(function: Any) -> Registry:
    app = Registry()
    app.workflow(function, name="body")
    return app


def state(run: InProcessRun) -> dict[str, Any]:
    """Everything that decides what a run does next, as far as it can be compared."""
    return {
        "outcome": _without_stack(run.outcome),
        "status": run.custom_status,
        "unread": run.unread_events(),
        "waits": run.waiting_for(),
        "next id": run.next_id,
        "now": run.now,
    }


def _without_stack(outcome: Any) -> Any:
    failure = getattr(outcome, "failure", None)
    return outcome if failure is None else (failure.type, failure.message)


def arrivals(draw: st.DrawFn, driver: Driver) -> list[Arrival]:
    """A turn's arrivals: some of what the run waits for, events, late and unknown ones, in any order."""
    at = driver.tick(draw(st.integers(1, 3)))
    failure = FailureDetails("ValueError", "no", non_retriable=draw(st.booleans()))
    choices: list[Arrival] = [EventRaised(at, "x", b"1"), EventRaised(at, "Y", b"2")]
    for id in [*driver.run.calls, 0, 99]:
        choices += [TaskCompleted(at, id, b'"ok"'), TaskFailed(at, id, failure)]
    for id in driver.run.children:
        choices += [ChildCompleted(at, id, b'"ok"'), ChildFailed(at, id, failure)]
    choices += [TimerFired(at, id) for id in (*driver.run.timers, 1)]
    return draw(st.lists(st.sampled_from(choices), min_size=2, max_size=5))


@st.composite
def executions(draw: st.DrawFn) -> Driver:
    """A random program, driven live over a random order of arrivals."""
    driver = Driver(registry(), "program", draw(programs))
    for _ in range(draw(st.integers(4, 20))):
        if driver.run.outcome is not None:
            break
        driver.turn(arrivals(draw, driver))
    return driver


@settings(max_examples=300, deadline=None)
@given(executions())
def test_replay_is_the_same_as_having_stayed(driver: Driver) -> None:
    """From the history of any prefix of the turns, the run goes on with the same commands to the same state."""
    history: list[Any] = []
    position = 0
    for count, (begun, commands) in enumerate(driver.turns, 1):
        size = len(begun) + sum(type(command).__name__ != "CancelTimer" for command in commands)
        history += driver.history[position : position + size]
        position += size
        if count == len(driver.turns):
            history += driver.history[position:]
        elif any(isinstance(event, ExecutionCompleted) for event in driver.history[position : position + 1]):
            break
        run = replay(driver.registry, driver.start, history)
        for later, expected in driver.turns[count:]:
            for arrival in later:
                run.apply(arrival)
            assert list(run.take_commands()) == expected
        assert state(run) == state(driver.run)


@settings(max_examples=150, deadline=None)
@given(executions(), st.data())
def test_what_has_come_already_changes_nothing(driver: Driver, data: st.DataObject) -> None:
    """A duplicate of any completion or firing leaves the run as it is."""
    seen = [event for turn, _ in driver.turns for event in turn if not isinstance(event, EventRaised)]
    settled = [event for event in seen if getattr(event, "id", None) not in _pending(driver.run)]
    before = state(driver.run)
    duplicates = data.draw(st.lists(st.sampled_from(settled), max_size=5)) if settled else []
    for duplicate in duplicates:
        driver.run.apply(duplicate)
    assert driver.run.take_commands() == []
    assert {**state(driver.run), "now": before["now"]} == before


def _pending(run: InProcessRun) -> set[int]:
    return {*run.calls, *run.children, *run.timers}


async def call_a(ctx: WorkflowContext) -> Any:
    return await ctx.call_activity("a")


async def call_b(ctx: WorkflowContext) -> Any:
    return await ctx.call_activity("b")


async def timer(ctx: WorkflowContext) -> Any:
    await ctx.create_timer(timedelta(seconds=1))


async def timer_then_a(ctx: WorkflowContext) -> Any:
    await ctx.create_timer(timedelta(seconds=1))
    return await ctx.call_activity("a")


async def child(ctx: WorkflowContext) -> Any:
    await ctx.call_child_workflow("a")


async def event(ctx: WorkflowContext) -> Any:
    await ctx.wait_for_external_event("go")


async def limited_event(ctx: WorkflowContext) -> Any:
    await ctx.wait_for_external_event("go", timeout=timedelta(seconds=1))


async def send(ctx: WorkflowContext) -> Any:
    ctx.send_event("other", "go")
    await ctx.wait_for_external_event("end")


async def detach(ctx: WorkflowContext) -> Any:
    ctx.detach("other")
    await ctx.wait_for_external_event("end")


async def a_and_b(ctx: WorkflowContext) -> Any:
    ctx.call_activity("a")
    return await ctx.call_activity("b")


async def nothing(ctx: WorkflowContext) -> Any: ...


async def fails(ctx: WorkflowContext) -> Any:
    raise ValueError("changed")


async def again(ctx: WorkflowContext) -> Any:
    ctx.continue_as_new()


Body = Callable[[WorkflowContext], Any]


@pytest.mark.parametrize(
    ("then", "now", "expected", "found"),
    [
        (call_a, call_b, "activity 'a' (task 0)", "the code asked for activity 'b' (task 0)"),
        (call_a, timer, "activity 'a' (task 0)", "the code asked for a timer (task 0)"),
        (timer, limited_event, "a timer (task 0)", "the time limit of event 'go' (task 0)"),
        (call_a, child, "activity 'a' (task 0)", "the code asked for child workflow 'a' (task 0)"),
        (child, event, "child workflow 'a' (task 0)", "nothing: the code waits for event go"),
        (send, detach, "event 'go' sent to other (task 0)", "detached workflow 'other' (task 0)"),
        (detach, send, "detached workflow 'other' (task 0)", "event 'go' sent to other (task 0)"),
        (call_a, nothing, "activity 'a' (task 0)", "nothing: the code has finished"),
        (call_a, fails, "activity 'a' (task 0)", "nothing: the code has failed with ValueError: changed"),
        (call_a, again, "activity 'a' (task 0)", "nothing: the code has continued as new"),
        (call_a, a_and_b, "nothing more: the history ends here", "the code asked for activity 'b' (task 1)"),
        (event, nothing, "the workflow goes on", "the code has finished"),
    ],
)
def test_a_mismatch_shows_both_sides(then: Body, now: Body, expected: str, found: str) -> None:
    """What the history says and where, what the code does now, and what to do about it."""
    driver = Driver(body_of(then), "body")
    with pytest.raises(NonDeterminism) as caught:
        replay(body_of(now), driver.start, driver.history)
    assert expected in caught.value.expected
    assert "history event" in caught.value.expected
    assert found in caught.value.found
    assert caught.value.expected in str(caught.value)
    assert "Deploy the code" in str(caught.value)


def test_a_retry_that_is_no_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workflow.programs import POLICY

    async def retried(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity("a", retry_policy=POLICY)

    driver = Driver(body_of(retried), "body")
    driver.fail(0)
    with pytest.raises(NonDeterminism, match="the delay before a retry of 'a'"):
        replay(body_of(call_a), driver.start, driver.history)


@pytest.mark.parametrize("now", [call_b, timer_then_a, fails])
def test_another_end_is_a_mismatch(now: Body) -> None:
    """A finished history is compared to its last event."""
    driver = Driver(body_of(nothing), "body")
    with pytest.raises(NonDeterminism, match="the workflow completed"):
        replay(body_of(now), driver.start, driver.history)


def test_another_result_is_a_mismatch() -> None:
    async def one(ctx: WorkflowContext) -> int:
        return 1

    async def two(ctx: WorkflowContext) -> int:
        return 2

    driver = Driver(body_of(one), "body")
    with pytest.raises(NonDeterminism, match=r"completed with 1 .*completed with 2"):
        replay(body_of(two), driver.start, driver.history)


def test_a_failure_may_be_told_in_other_words() -> None:
    driver = Driver(body_of(fails), "body")

    async def otherwise(ctx: WorkflowContext) -> None:
        raise TypeError("other words")

    replay(body_of(otherwise), driver.start, driver.history)


def test_termination_drops_what_the_code_asked_for() -> None:
    """In the turn of a termination the decisions were never recorded: that is no mismatch."""
    driver = Driver(body_of(call_a), "body")
    history = [driver.start, ExecutionTerminated(driver.at), ExecutionCompleted(driver.at, "terminated")]
    assert replay(driver.registry, driver.start, history).outcome is None


def test_a_cancelled_timer_leaves_nothing_to_compare() -> None:
    driver = Driver(body_of(limited_event), "body")
    driver.event("go")
    assert driver.replayed().outcome == driver.run.outcome


def test_the_code_sees_that_it_is_replayed_only_then() -> None:
    seen: list[bool] = []

    async def looks(ctx: WorkflowContext) -> None:
        seen.append(ctx.is_replaying)
        await ctx.call_activity("a")
        seen.append(ctx.is_replaying)

    driver = Driver(body_of(looks), "body")
    run = driver.replayed()
    run.apply(TaskCompleted(driver.tick(), 0))
    assert seen == [False, True, False]


def test_a_long_replay_can_be_interrupted() -> None:
    """It hands back control after so many events, and is then where it would have been."""

    async def loop(ctx: WorkflowContext) -> int:
        for _ in range(20):
            await when_any([ctx.call_activity("a")])
        return 7

    driver = Driver(body_of(loop), "body")
    for id in range(20):
        driver.complete(id)
    run = new_run(driver.registry, driver.start)
    replaying = Replay(run)
    fed = list(replay_slices(replaying, driver.history, every=10))
    assert fed == [10, 20, 30, 40]
    assert replaying.finish() is run
    assert run.outcome == driver.run.outcome
