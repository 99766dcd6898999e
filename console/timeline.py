"""A history as steps: what was asked for, and what came of it. Pure, and fed bit by bit: a history only grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

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
    FailureDetails,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)

#: Characters of an error that a step shows at most.
MAX_ERROR = 300


class Span(msgspec.Struct, gc=False):
    """One attempt, or one wait: from one event to another."""

    #: The history event that began it, and the task id that it has.
    number: int
    at: int
    task: int = -1
    #: When it ended and by which event; 0 and -1: it has not.
    ended: int = 0
    end_number: int = -1
    #: "completed", "failed", "fired", "raised", "resumed", "dropped" (the workflow ended first, or cancelled it); empty: open.
    outcome: str = ""
    error: str = ""


class Step(msgspec.Struct):
    """One line of a timeline. Attempts of one call are the spans of one step.

    `kind`: "started", "activity", "child", "timer", "wait" (for an event, with a time limit), "event" (raised),
    "detached", "sent", "suspended", "cancelled", "terminated", "ended", "unreadable".
    """

    kind: str
    name: str
    spans: list[Span]
    #: When a timer fires, a wait ends, or the next attempt begins; 0: no such time.
    due: int = 0
    #: The task id of the timer that waits until then.
    timer: int = -1
    #: The other instance: a child, a target.
    instance: str = ""
    app: str = ""

    @property
    def open(self) -> bool:
        return not self.spans[-1].outcome


class Timeline:
    """The steps of one execution. Feed every event once, in order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        #: How many events were fed.
        self.count = 0
        #: When the last event was.
        self.last = 0
        #: What has no end yet, by task id, in the order in which it began: activities, children, timers, waits.
        self.open: dict[int, Step] = {}
        #: Calls that failed in this turn, and those whose delay ended in it: the next attempt may follow.
        self._failed: deque[Step] = deque()
        self._again: deque[Step] = deque()
        #: Waits for an event that have a time limit, by the event's name.
        self._waits: dict[str, deque[Step]] = {}
        self._suspended: Step | None = None

    def feed(self, event: Event | str) -> None:
        """The next event; a text says why it cannot be read."""
        number, self.count = self.count, self.count + 1
        if isinstance(event, str):
            self._point("unreadable", "", number, self.last, error=event)
            return
        if event.at != self.last:
            self._failed.clear()
            self._again.clear()
            self.last = event.at
        _HANDLERS[type(event)](self, number, event)

    # --- beginnings ------------------------------------------------------------------------------------------------

    def _point(
        self, kind: str, name: str, number: int, at: int, *, error: str = "", outcome: str = ""
    ) -> Step:
        """Something that takes no time."""
        span = Span(number, at, -1, at, number, outcome or "completed", error)
        step = Step(kind, name, [span])
        self.steps.append(step)
        return step

    def _begin(self, kind: str, name: str, number: int, event: Any, **more: Any) -> Step:
        step = Step(kind, name, [Span(number, event.at, event.id)], **more)
        self.steps.append(step)
        self.open[event.id] = step
        return step

    def _tried_before(self, kind: str, number: int, event: Any) -> Step | None:
        """The call of which this is the next attempt, with that attempt; None: it is a new one."""
        step = next((one for one in self._again if one.kind == kind and one.name == event.name), None)
        if step is not None:
            self._again.remove(step)
            step.spans.append(Span(number, event.at, event.id))
            self.open[event.id] = step
        return step

    def _started(self, number: int, event: ExecutionStarted) -> None:
        self._point("started", event.name, number, event.at)

    def _activity(self, number: int, event: TaskScheduled) -> None:
        if self._tried_before("activity", number, event) is None:
            self._begin("activity", event.name, number, event, app=event.app_id)

    def _child(self, number: int, event: ChildScheduled) -> None:
        step = self._tried_before("child", number, event)
        if step is None:
            step = self._begin("child", event.name, number, event, app=event.app_id)
        step.instance = event.instance_id

    def _timer(self, number: int, event: TimerCreated) -> None:
        kind, _, name = event.origin.partition(":")
        if kind == "retry":
            step = next((one for one in self._failed if one.name == name), None)
            if step is not None:
                self._failed.remove(step)
                step.due, step.timer = event.fire_at, event.id
                self.open[event.id] = step
                return
        step = self._begin("wait" if kind == "event" else "timer", name, number, event, due=event.fire_at)
        step.timer = event.id
        if kind == "event":
            self._waits.setdefault(name.casefold(), deque()).append(step)

    def _detached(self, number: int, event: DetachedScheduled) -> None:
        step = self._point("detached", event.name, number, event.at)
        step.instance, step.app = event.instance_id, event.app_id

    def _sent(self, number: int, event: EventSent) -> None:
        step = self._point("sent", event.name, number, event.at)
        step.instance, step.app = event.instance_id, event.app_id

    # --- ends --------------------------------------------------------------------------------------------------------

    def _done(self, number: int, event: TaskCompleted | ChildCompleted) -> None:
        self._end(number, event.id, event.at, "completed")

    def _broke(self, number: int, event: TaskFailed | ChildFailed) -> None:
        step = self._end(number, event.id, event.at, "failed", failure_text(event.failure))
        if step is not None:
            self._failed.append(step)

    def _end(self, number: int, task: int, at: int, outcome: str, error: str = "") -> Step | None:
        step = self.open.pop(task, None)
        if step is not None:
            span = step.spans[-1]
            span.ended, span.end_number, span.outcome, span.error = at, number, outcome, error
        return step

    def _fired(self, number: int, event: TimerFired) -> None:
        step = self.open.pop(event.id, None)
        if step is None:
            return
        if step.kind in ("activity", "child"):
            # The delay before an attempt, which follows in this turn.
            step.due, step.timer = 0, -1
            self._again.append(step)
            return
        span = step.spans[-1]
        span.ended, span.end_number, span.outcome = event.at, number, "fired"
        self._forget_wait(step)

    def _raised(self, number: int, event: EventRaised) -> None:
        waits = self._waits.get(event.name.casefold())
        if not waits:
            self._point("event", event.name, number, event.at)
            return
        step = waits[0]
        self._forget_wait(step)
        self._end(number, step.spans[-1].task, event.at, "raised")

    def _forget_wait(self, step: Step) -> None:
        key = step.name.casefold()
        waits = self._waits.get(key)
        if waits is not None and step in waits:
            waits.remove(step)
            if not waits:
                del self._waits[key]

    def _suspend(self, number: int, event: ExecutionSuspended) -> None:
        if self._suspended is None:
            self._suspended = Step("suspended", event.reason, [Span(number, event.at)])
            self.steps.append(self._suspended)

    def _resume(self, number: int, event: ExecutionResumed) -> None:
        if self._suspended is not None:
            span = self._suspended.spans[-1]
            span.ended, span.end_number, span.outcome = event.at, number, "resumed"
            self._suspended = None

    def _terminated(self, number: int, event: ExecutionTerminated) -> None:
        self._point("terminated", event.reason, number, event.at, outcome="failed")

    def _cancel_requested(self, number: int, event: CancelRequested) -> None:
        self._point("cancelled", event.reason, number, event.at, outcome="failed")

    def _task_cancelled(self, number: int, event: TaskCancelled) -> None:
        self._end(number, event.id, event.at, "dropped")

    def _ended(self, number: int, event: ExecutionCompleted) -> None:
        left = [*self.open.values(), *([self._suspended] if self._suspended is not None else [])]
        for step in left:
            span = step.spans[-1]
            if not span.outcome:
                span.ended, span.outcome = event.at, "dropped"
            step.due, step.timer = 0, -1
        self.open.clear()
        self._waits.clear()
        self._suspended = None
        error = failure_text(event.failure) if event.failure is not None else ""
        outcome = "completed" if event.status == "completed" else "failed"
        self._point("ended", event.status, number, event.at, error=error, outcome=outcome)


def failure_text(failure: FailureDetails) -> str:
    text = f"{failure.type}: {failure.message}"
    return text if len(text) <= MAX_ERROR else text[: MAX_ERROR - 1] + "…"


_HANDLERS: dict[type, Callable[[Timeline, int, Any], None]] = {
    ExecutionStarted: Timeline._started,
    TaskScheduled: Timeline._activity,
    TaskCompleted: Timeline._done,
    TaskFailed: Timeline._broke,
    TimerCreated: Timeline._timer,
    TimerFired: Timeline._fired,
    ChildScheduled: Timeline._child,
    ChildCompleted: Timeline._done,
    ChildFailed: Timeline._broke,
    DetachedScheduled: Timeline._detached,
    EventSent: Timeline._sent,
    EventRaised: Timeline._raised,
    ExecutionSuspended: Timeline._suspend,
    ExecutionResumed: Timeline._resume,
    ExecutionTerminated: Timeline._terminated,
    CancelRequested: Timeline._cancel_requested,
    TaskCancelled: Timeline._task_cancelled,
    ExecutionCompleted: Timeline._ended,
}
