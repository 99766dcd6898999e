"""Times as callers give them: a time, or a delay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from perdure.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: The last one that there is, in microseconds since 1970 UTC: the end of the year 9999.
LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def start_time(given: datetime | timedelta, now: int) -> int:
    """When a start that was given like this begins, in microseconds since 1970 UTC. A time without a zone is UTC, a
    delay counts from `now`; what is over is as good as now. `InvalidInput` when it is neither, or too far off."""
    if isinstance(given, timedelta):
        time = now + given // _MICROSECOND
    elif isinstance(given, datetime):
        time = ((given.replace(tzinfo=UTC) if given.tzinfo is None else given) - _EPOCH) // _MICROSECOND
    else:
        raise InvalidInput(
            f"start_at takes a datetime or a timedelta, not {given!r}: use timedelta(seconds=…)"
        )
    if time > LAST:
        raise InvalidInput(f"start_at is after the year 9999: {given!r}")
    return max(time, 0)
