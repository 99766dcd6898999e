"""Timers: wake-ups of one user actor that are kept in memory only, and are lost with its activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from perdure.actors.schedule import Schedule
from perdure.clock import Cancellable, Clock


class TimerSpec(NamedTuple):
    """What a user asked for. Times are monotonic, in microseconds, so that jumps of the wall clock do no harm."""

    name: str
    schedule: Schedule
    #: The name of one of the actor's methods.
    callback: str
    data: object


class Timer:
    """One registered timer. Setting its name again makes another one."""

    __slots__ = ("schedule", "spec", "wait")

    def __init__(self, spec: TimerSpec) -> None:
        self.spec = spec
        self.schedule = spec.schedule
        self.wait: Cancellable | None = None


class Timers:
    """INVARIANT: a timer has at most one tick under way. The next is armed by `done`, after its callback returned, so
    that ticks of a slow callback never pile up before the actor."""

    def __init__(self, clock: Clock, tick: Callable[[Timer], None]) -> None:
        self._clock = clock
        self._tick = tick
        self._timers: dict[str, Timer] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def set(self, spec: TimerSpec) -> None:
        """Replaces the timer of the same name, if there is one."""
        self.delete(spec.name)
        timer = self._timers[spec.name] = Timer(spec)
        self._arm(timer)

    def delete(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None and timer.wait is not None:
            timer.wait.cancel()

    def live(self, timer: Timer) -> bool:
        """Whether this very timer is still registered."""
        return self._timers.get(timer.spec.name) is timer

    def done(self, timer: Timer) -> None:
        """The timer's tick was handled, well or not: arms the next one."""
        if not self.live(timer):
            return
        after = timer.schedule.after(monotonic(self._clock))
        if after is None:
            del self._timers[timer.spec.name]
            return
        timer.schedule = after
        self._arm(timer)

    def close(self) -> None:
        for name in list(self._timers):
            self.delete(name)

    def _arm(self, timer: Timer) -> None:
        delay = max(0, timer.schedule.due - monotonic(self._clock)) / 1e6
        timer.wait = self._clock.call_later(delay, self._due, timer)

    def _due(self, timer: Timer) -> None:
        timer.wait = None
        if timer.schedule.expired(monotonic(self._clock)):
            self._timers.pop(timer.spec.name, None)
        else:
            self._tick(timer)


def monotonic(clock: Clock) -> int:
    return int(clock.monotonic() * 1e6)
