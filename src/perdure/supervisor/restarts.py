"""Restarts: when a process that ended is started again."""

from __future__ import annotations

#: Seconds of the first and of the longest wait.
FIRST = 0.1
MOST = 5.0
#: A process that lived so many seconds was well: the next wait is the first again.
WELL = 10.0


class Restarts:
    """Of one process. Whoever ends soon after its start waits twice as long each time."""

    def __init__(self) -> None:
        self._next = FIRST

    def ended(self, lived: float) -> float:
        """The process has ended after so many seconds: how many to wait before the next is started."""
        if lived >= WELL:
            self._next = FIRST
        delay, self._next = self._next, min(self._next * 2, MOST)
        return delay
