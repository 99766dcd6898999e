"""Lets work through after a crash so that whatever caused it is found, and nothing else suffers from it for long.

After a crash nobody knows which of many instances killed the process. Each that is woken commits a death first, and
its next commit takes it back. So what really kills the process keeps its deaths. Those who never died before go in
waves of 64, those with one death in waves of 8, the rest alone: an innocent instance settles, or has run for long
enough, before it reaches the limit, and 10,000 instances in flight are not held up by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from perdure.clock import Clock

#: Deaths at which an instance is STALLED, or an activity fails with `CrashedProcess`.
DEATH_LIMIT = 3
#: How many go at a time, by deaths so far (the last entry: that many or more).
WAVES = (64, 8, 1)
#: Seconds that a redispatched activity must have run to be taken as harmless.
SURVIVED = 10.0
#: Seconds after which the next may go although one has not settled, by deaths as above: it may run for hours. The
#: first is what lets 10,000 instances in flight go on within two seconds. The last is longer than it takes to be found
#: harmless: whoever is convicted by its next death was alone, so that long activities are not taken for what kills.
GRACE = (0.01, 0.05, SURVIVED + 1.0)


class RecoveryGate:
    """One per node. The most suspected go first, and never together with others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: tuple[deque[Callable[[], None]], ...] = tuple(deque() for _ in WAVES)
        self._inside: dict[int, int] = {}
        self._level = 0
        self._ticket = 0

    def enter(self, deaths: int, go: Callable[[int], None]) -> None:
        """Calls `go(ticket)` when it is this one's turn, at once if possible. `leave(ticket)` when it has settled."""
        level = min(deaths, len(WAVES) - 1)
        self._waiting[level].append(lambda: self._admit(level, go))
        self._next()

    def leave(self, ticket: int) -> None:
        """Idempotent."""
        if self._inside.pop(ticket, None) is not None:
            self._next()

    def _admit(self, level: int, go: Callable[[int], None]) -> None:
        self._ticket += 1
        self._level = level
        self._inside[self._ticket] = level
        self._clock.call_later(GRACE[level], self.leave, self._ticket)
        go(self._ticket)

    def _next(self) -> None:
        while True:
            level = next((n for n in reversed(range(len(WAVES))) if self._waiting[n]), None)
            if level is None:
                return
            if self._inside and (self._level != level or len(self._inside) >= WAVES[level]):
                return
            self._waiting[level].popleft()()
