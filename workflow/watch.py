"""The time limits of one activity that runs. Kept in memory: a node that dies has its activities run again elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from perdure.clock import Cancellable, Clock
from perdure.workflow.events import FailureDetails


class Watch:
    """Calls `expired` once, with the reason, unless it is stopped before. Times are in microseconds; 0: no limit."""

    __slots__ = ("_clock", "_expired", "_heartbeat", "_last", "_timers")

    def __init__(
        self,
        clock: Clock,
        start_to_close: int,
        heartbeat: int,
        expired: Callable[[FailureDetails], None],
    ) -> None:
        self._clock = clock
        self._expired = expired
        self._heartbeat = heartbeat
        self._last = clock.monotonic()
        self._timers: list[Cancellable] = []
        if start_to_close:
            self._timers.append(clock.call_later(start_to_close / 1e6, self._end, _too_long(start_to_close)))
        if heartbeat:
            self._timers.append(clock.call_later(heartbeat / 1e6, self._look))

    def beat(self) -> None:
        """From any thread."""
        self._last = self._clock.monotonic()

    def stop(self) -> None:
        """Idempotent."""
        timers, self._timers = self._timers, []
        for timer in timers:
            timer.cancel()

    def _look(self) -> None:
        left = self._last + self._heartbeat / 1e6 - self._clock.monotonic()
        if left > 0:
            self._timers[-1] = self._clock.call_later(left, self._look)
        else:
            self._end(_silent(self._heartbeat))

    def _end(self, failure: FailureDetails) -> None:
        self.stop()
        self._expired(failure)


def _too_long(limit: int) -> FailureDetails:
    text = f"it did not end within its start_to_close_timeout of {timedelta(microseconds=limit)}"
    return FailureDetails("ActivityTimeout", text, bases=("TaskFailedError", "TimeoutError"))


def _silent(limit: int) -> FailureDetails:
    text = f"it gave no heartbeat within its heartbeat_timeout of {timedelta(microseconds=limit)}"
    return FailureDetails(
        "HeartbeatTimeout", text, bases=("ActivityTimeout", "TaskFailedError", "TimeoutError")
    )
