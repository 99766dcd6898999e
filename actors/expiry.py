"""State values that are there for a time only: what they are in the store, and when those that are over go away.

A value that expires is the byte 0, eight bytes of time, and the value itself. No JSON begins with that byte, nor does
a map of msgpack, so any other value is what it always was. Nobody sees a value from its time on; it is deleted up to
`SLACK` later, by a turn of the runtime that the actor's own reminder `EXPIRE` wakes, so that one turn deletes many.
"""

from __future__ import annotations

from perdure.actors.schedule import ENDLESS, Schedule
from perdure.statestore.contract import ActorId, Reminder

#: The reminder that has expired values deleted. It is there while there are such values.
EXPIRE = "dapr.internal.expire"
#: Microseconds that a value may lie in the store after its time.
SLACK = 60_000_000
#: How many values one turn deletes at most.
LIMIT = 10_000

_MARK = b"\x00"
_HEAD = 9


def expiring(value: bytes, at: int) -> bytes:
    """The value as it is stored. `at`: microseconds since 1970 UTC."""
    return _MARK + at.to_bytes(8) + value


def expires_at(stored: bytes) -> int | None:
    """When a stored value expires; None: never."""
    if stored[:1] != _MARK or len(stored) < _HEAD:
        return None
    return int.from_bytes(stored[1:_HEAD])


def bare(stored: bytes) -> bytes:
    """A stored value without its time."""
    return stored if expires_at(stored) is None else stored[_HEAD:]


def visible(stored: bytes | None, now: int) -> bytes | None:
    """What a turn sees at `now` of what is stored."""
    # Almost no value expires: this must cost next to nothing.
    if not stored or stored[0] != 0:
        return stored
    at = expires_at(stored)
    return stored if at is None else (stored[_HEAD:] if now < at else None)


def sweep(soonest: int, now: int, known: Reminder | None) -> int | None:
    """When the reminder is to be due, since a value expires at `soonest`; None: as it is, or not at all."""
    due = max(soonest, now) + SLACK
    return due if known is None or known.due > due else None


def wake(actor: ActorId, due: int) -> Reminder:
    """The reminder. It is tried until it succeeds: nobody else would delete what has expired."""
    return Reminder(actor, EXPIRE, due, Schedule(due, retries=ENDLESS, interval=SLACK).encode())
