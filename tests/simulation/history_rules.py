"""What must never happen in a history and an inbox.

The numbers in the comments are those of the design's invariants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.workflow.events import (
    CancelRequested,
    ChildCompleted,
    ChildFailed,
    ChildScheduled,
    DetachedScheduled,
    Event,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from perdure.workflow.requests import (
    ActivityDone,
    ChildDone,
    Raise,
    Start,
    TimerDue,
    Waiting,
)
from tests.simulation.ledger import TaskKey
from tests.simulation.shadow import Change, Shadow, token_of

if TYPE_CHECKING:
    from tests.simulation.checker import Checker

_DECISIONS = (
    TaskScheduled,
    TaskCancelled,
    TimerCreated,
    ChildScheduled,
    DetachedScheduled,
    EventSent,
    ExecutionCompleted,
)
#: Failures that no activity reported itself.
_ENGINE_FAILURES = ("CrashedProcess", "ActivityNotRegistered")
#: Those of a node, while the activity runs still.
_TIME_LIMITS = ("ActivityTimeout", "HeartbeatTimeout")


def history(
    checker: Checker, shadow: Shadow, change: Change, inbox: dict[int, Waiting], last_turn: int
) -> None:  # 7
    meta = shadow.meta
    assert meta is not None
    decided = False
    for number, event in change.history:
        checker.require(number == len(shadow.history), "history numbers have a gap", shadow.actor, number)
        checker.require(
            event.at == meta.turn > last_turn, "a turn's time is not its own", shadow.actor, event
        )
        checker.require(
            (number == 0) == isinstance(event, ExecutionStarted),
            "the first event is not the start",
            shadow.actor,
            event,
        )
        checker.require(
            not shadow.history or not isinstance(shadow.history[-1], ExecutionCompleted),
            "an event follows the end",
            shadow.actor,
            event,
        )
        decided = decided or isinstance(event, _DECISIONS)
        checker.require(isinstance(event, _DECISIONS) or not decided, "an arrival follows a decision", event)
        _event(checker, shadow, event, change, inbox)
        shadow.note(event)


def _event(checker: Checker, shadow: Shadow, event: Event, change: Change, inbox: dict[int, Waiting]) -> None:
    meta, actor = shadow.meta, shadow.actor
    assert meta is not None
    match event:
        case ExecutionStarted():
            checker.require(event.start_id == meta.start_id, "another start id", actor)
            checker.require(event.execution_id == meta.execution_id, "another execution id", actor)
            # What is terminated before its time has its start in its history all the same.
            ended = any(isinstance(each, ExecutionTerminated | CancelRequested) for _, each in change.history)
            in_time = ended or event.at >= (event.scheduled or 0)
            checker.require(in_time, "it began before its time", actor, event)
        case TaskScheduled():
            _next(checker, shadow, event.id)
            key = TaskKey(actor.id, meta.execution_id, event.id, event.nonce)
            checker.scheduled.add(key)
            if event.name == "nowhere":
                checker.nowhere.add(key)
        case TimerCreated():
            _next(checker, shadow, event.id)
        case ChildScheduled() | DetachedScheduled():
            _next(checker, shadow, event.id)
            checker.starts.add(event.start_id)
        case EventSent():
            _next(checker, shadow, event.id)
            checker.sent.add(token_of(event.data))
        case TaskCompleted() | TaskFailed():
            _task_ends(checker, shadow, event, change, inbox)
        case ChildCompleted() | ChildFailed():
            _child_ends(checker, shadow, event)
        case TimerFired():
            timer = shadow.timers.get(event.id)
            checker.require(timer is not None, "a timer fired that was not set", actor, event)
            assert timer is not None
            checker.require(event.at >= timer.fire_at, "a timer fired early", actor, event)
        case EventRaised():
            _raised(checker, shadow, event, change, inbox)
        case ExecutionTerminated():
            asked = actor.id in checker.terminated or meta.start_id in checker.cascades
            checker.require(asked, "terminated, and nobody asked for it", actor)
        case CancelRequested():
            asked = actor.id in checker.cancelled or meta.start_id in checker.let_go
            checker.require(asked, "cancelled, and nobody asked for it", actor)
        case TaskCancelled():
            task = shadow.open.get(event.id)
            if isinstance(task, TaskScheduled):
                checker.dropped.add(TaskKey(actor.id, meta.execution_id, task.id, task.nonce))
        case ExecutionCompleted():
            checker.require(event.status == meta.status, "the end is not the status", actor)
            if event.status == "terminated":
                for task in shadow.open.values():
                    if isinstance(task, TaskScheduled):
                        checker.dropped.add(TaskKey(actor.id, meta.execution_id, task.id, task.nonce))
            checker.results.setdefault(meta.start_id, []).append(event.result)
        case ExecutionSuspended() | ExecutionResumed():
            pass


def _next(checker: Checker, shadow: Shadow, id: int) -> None:
    checker.require(id >= shadow.next_task, "a task id was used twice", shadow.actor, id)
    shadow.next_task = id + 1


def _task_ends(
    checker: Checker,
    shadow: Shadow,
    event: TaskCompleted | TaskFailed,
    change: Change,
    inbox: dict[int, Waiting],
) -> None:  # 6
    task = shadow.open.get(event.id)
    checker.require(
        isinstance(task, TaskScheduled), "an activity completed that is not open", shadow.actor, event
    )
    assert isinstance(task, TaskScheduled)
    assert shadow.meta is not None
    key = TaskKey(shadow.actor.id, shadow.meta.execution_id, event.id, task.nonce)
    if isinstance(event, TaskFailed) and event.failure.type in _TIME_LIMITS:
        checker.dropped.add(key)
    own = isinstance(event, TaskCompleted) or event.failure.type not in (*_ENGINE_FAILURES, *_TIME_LIMITS)
    checker.require(
        not own or key in checker.ended_runs, "a result that no activity gave", shadow.actor, event
    )
    if not own and key not in checker.nowhere | checker.dropped:
        checker.crashed.add(shadow.actor.id)
        checker.convicted.add(shadow.actor.id)
    for number, body in inbox.items():
        if isinstance(body, ActivityDone) and body.task_id == event.id:
            checker.require(number in change.deleted_inbox, "an inbox key was not deleted", shadow.actor)
    checker.completed.add((shadow.meta.execution_id, event.id))


def _child_ends(checker: Checker, shadow: Shadow, event: ChildCompleted | ChildFailed) -> None:  # 6
    task = shadow.open.get(event.id)
    checker.require(
        isinstance(task, ChildScheduled), "a child completed that is not open", shadow.actor, event
    )
    assert isinstance(task, ChildScheduled)
    if isinstance(event, ChildCompleted):
        found = event.result in checker.results.get(task.start_id, ())
        checker.require(found, "a result that the child did not give", shadow.actor, event)


def _raised(
    checker: Checker, shadow: Shadow, event: EventRaised, change: Change, inbox: dict[int, Waiting]
) -> None:  # 6
    token = token_of(event.data)
    place = shadow.tokens.get(token)
    checker.require(place != "history", "an event twice in a history", shadow.actor, token)
    if place == "inbox":
        deleted = any(
            isinstance(body, Raise) and token_of(body.data) == token and number in change.deleted_inbox
            for number, body in inbox.items()
        )
        checker.require(deleted, "an event consumed and left in the inbox", shadow.actor, token)
    else:
        _new_token(checker, shadow, token)
    shadow.tokens[token] = "history"


def _new_token(checker: Checker, shadow: Shadow, token: str) -> None:
    if token.startswith("send:"):
        checker.require(token in checker.sent, "an event was sent before it was decided", shadow.actor, token)
    checker.require(
        token not in shadow.gone or checker.rolled_back, "an event was accepted twice", shadow.actor, token
    )


def received(checker: Checker, shadow: Shadow, number: int, body: Waiting) -> None:
    checker.require(number not in shadow.inbox, "an inbox key was written twice", shadow.actor, number)
    meta = shadow.meta
    assert meta is not None
    match body:
        case Raise():
            token = token_of(body.data)
            checker.require(token not in shadow.tokens, "an event received twice", shadow.actor, token)
            if token in shadow.gone:
                # Carried over by continue-as-new: it was in the history or inbox that the reset replaced.
                checker.require(
                    meta.generation > 1 or checker.rolled_back,
                    "an event was accepted twice",
                    shadow.actor,
                    token,
                )
                shadow.gone.discard(token)
            else:
                _new_token(checker, shadow, token)
            shadow.tokens[token] = "inbox"
        case ActivityDone() | ChildDone():
            task = shadow.open.get(body.task_id)
            match_ = task is not None and task.nonce == body.nonce and body.execution_id == meta.execution_id
            checker.require(match_, "a completion was received that matches nothing", shadow.actor, body)
            twice = any(
                type(other) is type(body) and other.task_id == body.task_id
                for other in shadow.inbox.values()  # type: ignore[union-attr]
            )
            checker.require(not twice, "a completion was received twice", shadow.actor, body)
        case TimerDue():
            checker.require(body.task_id in shadow.timers, "a timer was received twice", shadow.actor, body)
        case Start():
            pass
    shadow.inbox[number] = body
