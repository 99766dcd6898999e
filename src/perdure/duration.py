"""Durations, periods and times as text: Go's and ISO 8601's durations, `R5/PT1M` repeats, RFC 3339 times.

All numbers are whole microseconds; what is finer is cut off. Errors are `InvalidInput` and show what would be right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

from perdure.errors import InvalidInput

_SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: What 64 bits hold: about 292,000 years.
_LIMIT = 2**63 - 1
#: Longer text is no duration, and Python refuses to read numbers of thousands of digits.
_MAX_TEXT = 200

_GO_UNITS = {
    "ns": Fraction(1, 1000),
    "us": Fraction(1),
    "µs": Fraction(1),  # U+00B5, micro sign
    "\u03bcs": Fraction(1),  # Greek letter mu
    "ms": Fraction(1000),
    "s": Fraction(_SECOND),
    "m": Fraction(60 * _SECOND),
    "h": Fraction(3600 * _SECOND),
}
_GO_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|\u03bcs|ms|s|m|h)", re.ASCII)
_ISO = re.compile(
    r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?"
    r"(T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:[.,]\d+)?)S)?)?",
    re.ASCII,
)
_REPEAT = re.compile(r"R(\d*)(?:/(.+))?", re.ASCII)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Period:
    """Every `interval` microseconds, `repeats` times in all; None: for ever."""

    interval: int
    repeats: int | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """A time, or a delay from whenever it is asked for."""

    time: int | None = None
    delay: int = 0

    def at(self, now: int) -> int:
        """In microseconds since 1970 UTC."""
        return now + self.delay if self.time is None else self.time


def parse_duration(text: str) -> int:
    """`1h30m`, `0h0m3s0ms` (Go) or `PT5M`, `P1DT2H`, `P2W` (ISO 8601). Only Go's may be negative."""
    stripped = text.strip()
    if len(stripped) > _MAX_TEXT:
        raise InvalidInput(f"the duration {text[:20]!r}… is too long")
    duration = _parse_iso(stripped) if stripped.startswith("P") else _parse_go(stripped)
    if abs(duration) > _LIMIT:
        raise InvalidInput(f"the duration {text!r} is too long")
    return duration


def parse_period(text: str) -> Period | None:
    """A duration, or `R<times>/<ISO 8601 duration>` (`R/…`: for ever). None when empty: once."""
    stripped = text.strip()[:_MAX_TEXT]
    if not stripped:
        return None
    match = _REPEAT.fullmatch(stripped)
    if match is None:
        return Period(_positive(stripped))
    times, duration = match.groups()
    if not duration or not duration.startswith("P"):
        raise InvalidInput(f"a repeat is R<times>/<ISO 8601 duration>, such as R5/PT1M: {text!r}")
    return Period(_positive(duration), int(times) if times else None)


def parse_moment(text: str) -> Moment:
    """A time (RFC 3339) or a delay (a duration, not negative). Empty: now."""
    stripped = text.strip()
    if not stripped:
        return Moment()
    if _TIME.fullmatch(stripped):
        return Moment(time=parse_time(stripped))
    delay = parse_duration(stripped)
    if delay < 0:
        raise InvalidInput(f"a delay is not negative: {text!r}")
    return Moment(delay=delay)


def parse_time(text: str) -> int:
    """An RFC 3339 time, such as `2030-01-31T12:00:00.5Z` or `2030-01-31T12:00:00+01:00`."""
    match = _TIME.fullmatch(text.strip())
    if match is None or len(text) > _MAX_TEXT:
        raise InvalidInput(f"a time is written like 2030-01-31T12:00:00Z (RFC 3339): {text!r}")
    year, month, day, hour, minute, second, fraction, _, sign, hours, minutes = match.groups()
    try:
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        zone = timezone(-offset if sign == "-" else offset)
        micro = int(((fraction or "") + "000000")[:6])
        time = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro, zone)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a time: {error}") from error
    return (time - _EPOCH) // timedelta(microseconds=1)


def format_time(microseconds: int) -> str:
    """RFC 3339 in UTC; the fraction only when there is one."""
    time = _EPOCH + timedelta(microseconds=microseconds)
    return time.replace(tzinfo=None).isoformat() + "Z"


def format_go(microseconds: int) -> str:
    """As Go writes it: `1h30m0s`, `1.5s`, `20ms`, `5µs`, `0s`."""
    sign = "-" if microseconds < 0 else ""
    rest = abs(microseconds)
    if rest and rest < _SECOND:
        return f"{sign}{_decimal(rest, 1000)}ms" if rest >= 1000 else f"{sign}{rest}µs"
    minutes, rest = divmod(rest, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, _SECOND)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else sign + text


def format_iso(microseconds: int) -> str:
    """ISO 8601: `P1DT2H`, `PT0.5S`, `PT0S`. `InvalidInput` when negative: it has no such durations."""
    if microseconds < 0:
        raise InvalidInput(f"ISO 8601 has no negative durations: {microseconds} µs")
    minutes, rest = divmod(microseconds, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    date = f"{days}D" if days else ""
    time = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    if rest or not (date or time):
        time += f"{_decimal(rest, _SECOND)}S"
    return f"P{date}T{time}" if time else f"P{date}"


def format_period(period: Period) -> str:
    """`R5/PT1M`, or only the duration when it repeats for ever."""
    duration = format_iso(period.interval)
    return duration if period.repeats is None else f"R{period.repeats}/{duration}"


def _positive(text: str) -> int:
    interval = parse_duration(text)
    if interval <= 0:
        raise InvalidInput(f"a period is longer than 0: {text!r}")
    return interval


def _parse_go(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total, position = Fraction(0), 0
    while position < len(body):
        part = _GO_PART.match(body, position)
        if part is None:
            break
        total += Fraction("0" + part[1]) * _GO_UNITS[part[2]]
        position = part.end()
    if not body or position < len(body):
        raise InvalidInput(
            f"a duration is written like 1h30m, 1.5s, 20ms (Go) or PT1H30M, P1D (ISO 8601): {text!r}"
        )
    return sign * int(total)


def _parse_iso(text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None or text == "P" or match[5] == "T":
        raise InvalidInput(f"an ISO 8601 duration is written like PT5M, P1DT2H, P2W: {text!r}")
    years, months, weeks, days, _, hours, minutes, seconds = match.groups()
    if years or months:
        raise InvalidInput(f"years and months have no fixed length: write days, such as P30D, not {text!r}")
    whole = ((int(weeks or 0) * 7 + int(days or 0)) * 24 + int(hours or 0)) * 60 + int(minutes or 0)
    return whole * 60 * _SECOND + int(Fraction((seconds or "0").replace(",", ".")) * _SECOND)


def _decimal(value: int, unit: int) -> str:
    """value / unit, exactly, without trailing zeros; unit is a power of ten."""
    whole, rest = divmod(value, unit)
    return f"{whole}.{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else str(whole)
