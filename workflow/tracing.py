"""What tells a tracing system how instances went. `perdure.telemetry.otel` does; without one nothing is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from perdure.workflow.events import (
    ChildScheduled,
    EventRaised,
    ExecutionStarted,
    FailureDetails,
    TaskScheduled,
    TimerCreated,
    TraceContext,
)
from perdure.workflow.requests import ActivityRequest


class Tracing(Protocol):
    """Called on a node's loop; never raises. Times are those of the history.

    Each span is told of once, when it has ended and after the commit that says so; its id follows from the execution
    id (`perdure.workflow.trace`), so that it is the same one wherever it ends, and parts of it may be told of before.
    A process that dies just after that commit takes the span with it.
    """

    def starting(self, name: str, instance_id: str) -> AbstractContextManager[TraceContext | None]:
        """Around the request that starts an instance, with what becomes `ExecutionStarted.trace`."""

    def asked(self, started: ExecutionStarted, task_id: int) -> TraceContext:
        """What goes with an activity or a child: the span of this task, in the trace of its execution."""

    def follows(self, started: ExecutionStarted) -> TraceContext:
        """What goes with an execution that this one sets going and does not wait for."""

    def activity_ended(
        self,
        instance_id: str,
        started: ExecutionStarted,
        task: TaskScheduled,
        failure: FailureDetails | None,
        at: int,
    ) -> None:
        """The instance has an activity's answer."""

    def child_ended(
        self,
        instance_id: str,
        started: ExecutionStarted,
        task: ChildScheduled,
        failure: FailureDetails | None,
        at: int,
    ) -> None:
        """The instance has a child's answer."""

    def timer_fired(self, instance_id: str, started: ExecutionStarted, timer: TimerCreated, at: int) -> None:
        """The instance has been told that a timer was due."""

    def events_raised(
        self, instance_id: str, started: ExecutionStarted, raised: Sequence[EventRaised]
    ) -> None:
        """The code has been given events."""

    def execution_ended(
        self,
        instance_id: str,
        started: ExecutionStarted,
        status: str,
        failure: FailureDetails | None,
        left: Sequence[TaskScheduled | ChildScheduled],
        at: int,
    ) -> None:
        """An execution is "completed", "failed", "terminated" or "continued_as_new". `left`: what it asked for and
        did not wait for."""

    async def within(self, request: ActivityRequest, run: Callable[[], Awaitable[None]]) -> None:
        """Runs an activity, in a span that its code finds as the current one."""

    def failed(self, error: BaseException) -> None:
        """The activity that runs here raised this."""
