"""When a reminder or timer is due next: pure computation, with time passed in, in whole microseconds.

Ticks fall on `due`, `due + period`, `due + 2 * period`, …, however late each was handled, so there is no drift. Ticks
that were missed (the node was down, the last one took long) are not made up: one fires for all of them, and the next
is the first on that grid that lies in the future. `repeats` counts the ticks that fired. Nothing fires at or after
the time that `ttl` gave.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from perdure.duration import Period, parse_duration, parse_moment, parse_period
from perdure.errors import CorruptState, InvalidInput
from perdure.payload import Payload

#: What users give: a delay or a time; text in the forms of `perdure.duration`.
When = timedelta | datetime | str
#: Microseconds between a tick whose handler raised and its next try, unless its policy says otherwise.
RETRY_DELAY = 1_000_000
#: How often a tick is then tried again before it is given up.
RETRIES = 3
#: As `retries`: until the handler returns.
ENDLESS = -1
#: The least interval of tries without end, in microseconds: what fails for ever must not keep a node busy.
ENDLESS_INTERVAL = 1_000_000
#: The latest time that stores keep: about the year 294,000.
LAST = 2**63 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class FailurePolicy(msgspec.Struct, frozen=True):
    """What becomes of a reminder's tick whose handler raises. Without a policy it is `FailurePolicy.constant()`.

    `FailurePolicy.drop()` gives it up at once. `FailurePolicy.constant("10s", 5)` tries it again after 10 s, five
    times. A tick that is given up is logged as an error; a reminder with a period goes on with its next one.
    """

    #: Microseconds before each try.
    interval: int
    #: How often it is tried again; `ENDLESS`: until the handler returns.
    retries: int

    @classmethod
    def drop(cls) -> FailurePolicy:
        return cls(0, 0)

    @classmethod
    def constant(
        cls, interval: timedelta | str = timedelta(seconds=1), max_retries: int | None = RETRIES
    ) -> FailurePolicy:
        """`max_retries` None: until the handler returns, for which `interval` is at least 1 s. `InvalidInput`."""
        if isinstance(interval, str):
            length = parse_duration(interval)
        elif isinstance(interval, timedelta):
            length = interval // _MICROSECOND
        else:
            raise InvalidInput(f"the interval of retries is a timedelta or text such as '10s': {interval!r}")
        if length < 0:
            raise InvalidInput(f"the interval of retries is not negative: {interval!r}")
        if max_retries is None:
            if length < ENDLESS_INTERVAL:
                raise InvalidInput(f"the interval of retries without end is at least 1 s: {interval!r}")
            return cls(length, ENDLESS)
        if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
            raise InvalidInput(f"max_retries is a number from 0 on, or None for no end: {max_retries!r}")
        return cls(length, max_retries)

    def checked(self) -> FailurePolicy:
        """Itself, if it is one that `constant` or `drop` could have made; `InvalidInput` otherwise."""
        retries = None if self.retries == ENDLESS else self.retries
        return self.constant(timedelta(microseconds=self.interval), retries)


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a reminder carries in the store beside its name and the time of its next try."""

    #: The tick's place on the grid. A try after a failure is later than this.
    due: int
    period: int | None = None
    #: Ticks that are still to fire, this one included; None: no end.
    left: int | None = None
    #: From this time on nothing fires; None: no end.
    expires: int | None = None
    data: Payload = None
    #: How often this tick's handler has raised.
    failures: int = 0
    #: Its failure policy.
    retries: int = RETRIES
    interval: int = RETRY_DELAY

    def expired(self, now: int) -> bool:
        return self.expires is not None and now >= self.expires

    def after(self, now: int) -> Schedule | None:
        """The next tick once this one is done with at `now`; None: there is none."""
        if self.period is None or self.left == 1:
            return None
        missed = max(0, (now - self.due) // self.period)
        due = self.due + (missed + 1) * self.period
        if self.expired(due) or due > LAST:
            return None
        left = None if self.left is None else self.left - 1
        return msgspec.structs.replace(self, due=due, left=left, failures=0)

    def retried(self) -> Schedule | None:
        """The same tick with one failure more; None: it was tried often enough."""
        if self.retries != ENDLESS and self.failures >= self.retries:
            return None
        return msgspec.structs.replace(self, failures=self.failures + 1)

    def shifted(self, by: int) -> Schedule:
        """The same on a clock that shows `by` more."""
        expires = None if self.expires is None else self.expires + by
        return msgspec.structs.replace(self, due=self.due + by, expires=expires)

    def encode(self) -> bytes:
        return _encode(self)


def decode(data: bytes) -> Schedule:
    try:
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"a reminder cannot be read: {error}") from error


def schedule(
    now: int,
    due: When | None = None,
    period: timedelta | str | None = None,
    ttl: When | None = None,
    data: Payload = None,
    policy: FailurePolicy | None = None,
) -> Schedule:
    """What a user asked for at `now`. No `due`: at once; no `period`: once. `ttl` is a time, or a delay from now.
    `InvalidInput` for what cannot be read, and for what would never fire."""
    first = now if due is None else moment(due, now, "due")
    if first > LAST:
        raise InvalidInput(f"due is too far ahead: {due!r}")
    every = _period(period)
    expires = None if ttl is None or ttl == "" else moment(ttl, now, "ttl")
    if expires is not None and expires <= max(first, now):
        raise InvalidInput("it would never fire: its ttl ends before it is due")
    interval, repeats = (None, None) if every is None else (every.interval, every.repeats)
    plan = Schedule(first, interval, repeats, expires, data)
    if policy is None:
        return plan
    if not isinstance(policy, FailurePolicy):
        raise InvalidInput(
            f"a failure policy is FailurePolicy.drop() or FailurePolicy.constant(…), not {policy!r}"
        )
    policy = policy.checked()
    return msgspec.structs.replace(plan, retries=policy.retries, interval=policy.interval)


def moment(when: When, now: int, what: str) -> int:
    """The time that is meant by `when`, which `what` names in errors. `InvalidInput`."""
    if isinstance(when, str):
        return parse_moment(when).at(now)
    if isinstance(when, datetime):
        # A naive time means UTC, as everywhere.
        aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MICROSECOND
    if isinstance(when, timedelta):
        if when < timedelta(0):
            raise InvalidInput(f"{what} is not negative: {when!r}")
        return now + when // _MICROSECOND
    raise InvalidInput(
        f"{what} is a timedelta, a datetime or text such as '1h30m', not {type(when).__name__}"
    )


def _period(period: timedelta | str | None) -> Period | None:
    if period is None:
        return None
    if isinstance(period, timedelta):
        if period < _MICROSECOND:
            raise InvalidInput(f"a period is longer than 0: {period!r}")
        return Period(period // _MICROSECOND)
    if not isinstance(period, str):
        raise InvalidInput(f"period is a timedelta or text such as 'R5/PT1M', not {type(period).__name__}")
    parsed = parse_period(period)
    if parsed is not None and parsed.repeats is not None and parsed.repeats < 1:
        raise InvalidInput(f"a repeat is at least once: {period!r}")
    return parsed


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Schedule).decode
