"""Pace: whether the disk is fast enough for the event loop to wait for it."""

from __future__ import annotations

#: Seconds that what is done on the loop's thread may take on average; above, threads do it all for `PAUSE` seconds. A
#: hand-over to a thread and back costs a quarter of a fast disk's write and many times a read; on a slow disk it does
#: not count, and the event loop must not wait.
LIMIT = 0.002
PAUSE = 1.0
#: What one of them counts at most: a disk that is slow once, as when it also takes a checkpoint, is not a slow disk.
MOST = 4 * LIMIT


class Pace:
    """The moving average of what took the loop's time. Times are monotonic seconds."""

    __slots__ = ("_average", "_from")

    def __init__(self) -> None:
        self._average = 0.0
        self._from = 0.0

    def fast(self, now: float) -> bool:
        """Whether the next one may be tried."""
        return now >= self._from

    def took(self, began: float, ended: float) -> None:
        self._average += (min(ended - began, MOST) - self._average) / 8
        if self._average > LIMIT:
            self._average, self._from = 0.0, ended + PAUSE
