"""Why an instance cannot go on: kinds of stall, as `metadata` keeps them."""

from __future__ import annotations

from perdure.errors import PerdureError

#: The code does not do what the history says. Tried again when the instance is loaded by another process, or resumed.
NON_DETERMINISM = "non-determinism"
#: The code held the event loop too long.
BLOCKED = "blocked"
#: No workflow of this name is registered.
UNREGISTERED = "unregistered"
#: A key of the instance cannot be read.
UNREADABLE = "unreadable"
#: The store refuses the turn's commit.
REJECTED = "rejected"
#: The process died each time the code ran. Only resume tries again.
CRASHED = "crashed"
#: The engine itself failed on it.
INTERNAL = "internal"


class Stalled(Exception):
    """This turn cannot be made. Nothing of it was committed."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class Purged(PerdureError):
    """The instance of this start was purged or terminated before it began."""

    code = "ERR_PURGED"
