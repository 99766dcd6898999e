"""Runs workflow code again over its history, and finds out where it does something else than it did then."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from perdure.workflow.commands import (
    AnyCommand,
    Cancelled,
    CancelTask,
    CancelTimer,
    Completed,
    CreateTimer,
    Failed,
    Outcome,
    ScheduleTask,
    SendEvent,
    StartChild,
    StartDetached,
)
from perdure.workflow.events import (
    ChildScheduled,
    DetachedScheduled,
    Event,
    EventSent,
    ExecutionCompleted,
    TaskCancelled,
    TaskScheduled,
    TimerCreated,
)
from perdure.workflow.executor import NonDeterminism, Run

_MISMATCH = "the workflow code does not do what its history says it did. History: "
_NOW = ". Now: "
_ADVICE = "Deploy the code that this instance was started with, or start a new instance"
#: For code that nobody changed.
_CHANCE = (
    ". Is it the same code? Then it goes by chance or a clock: use ctx.random() and ctx.current_utc_datetime"
)


class Replay:
    """Brings a new run to where its history ends. Feed every event in order, then finish; any mismatch raises
    `NonDeterminism`, and the run is then of no use."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._position = 0
        self._asked: deque[AnyCommand] = deque()
        self._completed: ExecutionCompleted | None = None
        run.replaying = True

    def feed(self, event: Event) -> None:
        """Applies an arrival, or checks that the code asked for what a decision says."""
        if isinstance(event, ExecutionCompleted):
            self._check_outcome(event)
        elif isinstance(event, _DECISIONS):
            self._check(event)
        else:
            self._run.apply(event)
            self._asked.extend(
                command for command in self._run.take_commands() if not isinstance(command, CancelTimer)
            )
        self._position += 1

    def finish(self) -> Run:
        """The history is at its end; the run goes on live."""
        if self._completed is None:
            if self._asked:
                raise self._mismatch(
                    "nothing more: the history ends here", f"the code asked for {self._next()}"
                )
            if self._run.outcome is not None:
                raise self._mismatch("the workflow goes on", f"the code {_ended(self._run.outcome)}")
        self._run.replaying = False
        return self._run

    def _check(self, event: _Decision) -> None:
        if not self._asked or not _same(self._asked[0], event):
            raise self._mismatch(_decision(event), self._found())
        self._asked.popleft()

    def _check_outcome(self, event: ExecutionCompleted) -> None:
        self._completed = event
        if event.status == "terminated":  # from outside; what the code asked for in that turn was dropped
            return
        outcome = self._run.outcome
        if self._asked:
            raise self._mismatch(f"the workflow {event.status}", self._found())
        if event.status == "failed" and isinstance(outcome, Failed):
            return
        if event.status == "completed" and isinstance(outcome, Completed):
            if outcome.result != event.result:
                raise self._mismatch(
                    f"the workflow completed with {_short(event.result)}",
                    f"it completed with {_short(outcome.result)}",
                )
            return
        raise self._mismatch(f"the workflow {event.status}", self._found())

    def _found(self) -> str:
        if self._asked:
            return f"the code asked for {self._next()}"
        if self._run.outcome is not None:
            return f"nothing: the code {_ended(self._run.outcome)}"
        return f"nothing: the code waits for {', '.join(self._run.waiting_for()) or 'nothing that can come'}"

    def _next(self) -> str:
        return _command(self._asked[0])

    def _mismatch(self, expected: str, found: str) -> NonDeterminism:
        expected = f"{expected} (history event {self._position})"
        return NonDeterminism(
            f"{_MISMATCH}{expected}{_NOW}{found}. {_ADVICE}{_CHANCE}",
            expected=expected,
            found=found,
        )


def sides(reason: str) -> tuple[str, str] | None:
    """What the history says and what the code did, of a mismatch's message; None for any other text."""
    both, advice, _ = reason.rpartition(f". {_ADVICE}")
    if not both.startswith(_MISMATCH) or not advice:
        return None
    both = both.removeprefix(_MISMATCH)
    expected, separator, found = both.partition(_NOW)
    return (expected, found) if separator else None


def replay_slices(replay: Replay, events: Iterable[Event], every: int = 100) -> Iterator[int]:
    """Feeds events, and hands control back after each `every` of them: long histories must not block a node.

    Yields how many were fed so far. The caller finishes the replay.
    """
    for count, event in enumerate(events, 1):
        replay.feed(event)
        if not count % every:
            yield count


_Decision = TaskScheduled | TaskCancelled | TimerCreated | ChildScheduled | DetachedScheduled | EventSent
_DECISIONS = (TaskScheduled, TaskCancelled, TimerCreated, ChildScheduled, DetachedScheduled, EventSent)
_KINDS: dict[type, type] = {
    ScheduleTask: TaskScheduled,
    CancelTask: TaskCancelled,
    CreateTimer: TimerCreated,
    StartChild: ChildScheduled,
    StartDetached: DetachedScheduled,
    SendEvent: EventSent,
}


def _same(command: AnyCommand, event: _Decision) -> bool:
    """Kind, name and task id. Inputs may change: the history's stand."""
    if command.id != event.id or _KINDS.get(type(command)) is not type(event):
        return False
    if isinstance(command, CreateTimer):
        return isinstance(event, TimerCreated) and command.origin == event.origin
    return _named(command) == _named(event)


def _named(either: AnyCommand | _Decision) -> str:
    return getattr(either, "name", "")


def _decision(event: Event) -> str:
    match event:
        case TaskScheduled():
            return f"activity {event.name!r} (task {event.id})"
        case TaskCancelled():
            return f"task {event.id} was cancelled"
        case TimerCreated():
            return _timer(event.origin, event.id)
        case ChildScheduled():
            return f"child workflow {event.name!r} (task {event.id})"
        case DetachedScheduled():
            return f"detached workflow {event.name!r} (task {event.id})"
        case EventSent():
            return f"event {event.name!r} sent to {event.instance_id} (task {event.id})"
    raise TypeError(event)


def _command(command: AnyCommand) -> str:
    match command:
        case ScheduleTask():
            return f"activity {command.name!r} (task {command.id})"
        case CancelTask():
            return f"task {command.id} to be cancelled"
        case CreateTimer():
            return _timer(command.origin, command.id)
        case StartChild():
            return f"child workflow {command.name!r} (task {command.id})"
        case StartDetached():
            return f"detached workflow {command.name!r} (task {command.id})"
        case SendEvent():
            return f"event {command.name!r} sent to {command.instance_id} (task {command.id})"
    raise TypeError(command)


def _timer(origin: str, id: int) -> str:
    kind, _, name = origin.partition(":")
    if kind == "event":
        return f"the time limit of event {name!r} (task {id})"
    if kind == "limit":
        return f"the time limit of {name!r} (task {id})"
    if kind == "retry":
        return f"the delay before a retry of {name!r} (task {id})"
    return f"a timer (task {id})"


def _ended(outcome: Outcome) -> str:
    match outcome:
        case Completed():
            return "has finished"
        case Failed():
            return f"has failed with {outcome.failure.type}: {outcome.failure.message}"
    if isinstance(outcome, Cancelled):
        return f"has ended, cancelled: {outcome.failure.message}"
    return "has continued as new"


def _short(payload: bytes | None) -> str:
    text = "no result" if payload is None else payload.decode(errors="replace")
    return text if len(text) <= 80 else text[:79] + "…"
