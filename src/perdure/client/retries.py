"""Whether a request is sent again."""

from __future__ import annotations

import enum

#: Seconds before the first repetition; each further pause is twice as long, up to `LONGEST`.
FIRST = 0.05
LONGEST = 1.0


class Trouble(enum.Enum):
    """What came of a request instead of an answer."""

    UNREACHED = "unreached"  #: it was not sent
    LOST = "lost"  #: it was sent, and may or may not have been executed
    BUSY = "busy"  #: the node, or what stands before it, cannot do it now


class Retries:
    """Of one request. What was surely not sent is sent again whatever it is; anything else only if it is
    `repeatable`, so that it makes no difference whether it has been executed already. After `until` nothing is."""

    def __init__(self, *, repeatable: bool, until: float) -> None:
        self._repeatable = repeatable
        self._until = until
        self._pause = FIRST

    def pause(self, trouble: Trouble, now: float, *, at_least: float = 0.0) -> float | None:
        """Seconds until it is sent again; None: not any more. `at_least`: what the node asks for."""
        if now >= self._until or (trouble is not Trouble.UNREACHED and not self._repeatable):
            return None
        pause = max(self._pause, at_least)
        self._pause = min(2 * self._pause, LONGEST)
        return min(pause, self._until - now)
