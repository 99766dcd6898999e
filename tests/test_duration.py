"""Durations, periods and times as text."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.duration import (
    Moment,
    Period,
    format_go,
    format_iso,
    format_period,
    format_time,
    parse_duration,
    parse_moment,
    parse_period,
    parse_time,
)
from perdure.errors import InvalidInput

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1h30m", HOUR * 3 // 2),
        ("0h0m3s0ms", 3 * SECOND),
        ("1.5s", SECOND * 3 // 2),
        ("-2ms", -2000),
        ("5µs", 5),
        ("5us", 5),
        ("1500ns", 1),
        ("0", 0),
        (".5s", SECOND // 2),
        ("PT5M", 300 * SECOND),
        ("P1DT2H", DAY + 2 * HOUR),
        ("P2W", 14 * DAY),
        ("PT0.25S", SECOND // 4),
        (" PT1S ", SECOND),
    ],
)
def test_reads_durations(text: str, expected: int) -> None:
    """Go's and ISO 8601's ways of writing a duration give microseconds."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5", "1x", "1h 2m", "s", "P", "PT", "P1H", "PT5", "-PT5M", "1h-2m", "٣s"]
)
def test_refuses_what_is_no_duration(text: str) -> None:
    """The error shows how a duration is written."""
    with pytest.raises(InvalidInput, match="written like"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["P1Y", "P2M", "P1Y2M3D"])
def test_refuses_years_and_months(text: str) -> None:
    """They have no fixed length; the error says to write days."""
    with pytest.raises(InvalidInput, match="write days"):
        parse_duration(text)


def test_refuses_a_duration_beyond_64_bits() -> None:
    with pytest.raises(InvalidInput, match="too long"):
        parse_duration("9" * 5000 + "h")
    with pytest.raises(InvalidInput, match="too long"):
        parse_duration("P99999999999999D")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("10s", Period(10 * SECOND)),
        ("PT3S", Period(3 * SECOND)),
        ("R10/PT3S", Period(3 * SECOND, 10)),
        ("R/P1D", Period(DAY)),
    ],
)
def test_reads_periods(text: str, expected: Period | None) -> None:
    """Nothing is once, a duration is for ever, R counts."""
    assert parse_period(text) == expected


@pytest.mark.parametrize("text", ["R5", "R5/", "R5/10s", "0s", "-1s", "PT0S"])
def test_refuses_what_is_no_period(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_period(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:00:00.5-01:00", SECOND // 2),
        ("1970-01-01t00:00:00.123456789z", 123456),
    ],
)
def test_reads_times(text: str, expected: int) -> None:
    """With any offset; what is finer than a microsecond is cut off."""
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text", ["2030-01-31", "2030-13-01T00:00:00Z", "2030-01-01T00:00:00", "2030-01-01T00:00:00+25:00"]
)
def test_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_time(text)


def test_a_moment_is_a_time_or_a_delay() -> None:
    """Nothing is now; a delay counts from when it is asked for."""
    assert parse_moment("") == Moment()
    assert parse_moment("3s").at(1000) == 1000 + 3 * SECOND
    assert parse_moment("1970-01-01T00:00:01Z").at(1000) == SECOND
    with pytest.raises(InvalidInput, match="not negative"):
        parse_moment("-3s")


@pytest.mark.parametrize(
    ("value", "go"),
    [(0, "0s"), (5, "5µs"), (20_000, "20ms"), (1500, "1.5ms"), (HOUR * 3 // 2, "1h30m0s"), (-SECOND, "-1s")],
)
def test_writes_as_go_does(value: int, go: str) -> None:
    assert format_go(value) == go


@given(st.integers(-(10**17), 10**17))
def test_go_durations_round_trip(value: int) -> None:
    assert parse_duration(format_go(value)) == value


@given(st.integers(0, 10**17))
def test_iso_durations_round_trip(value: int) -> None:
    assert parse_duration(format_iso(value)) == value


@given(st.builds(Period, st.integers(1, 10**15), st.none() | st.integers(0, 10**6)))
def test_periods_round_trip(period: Period) -> None:
    assert parse_period(format_period(period)) == period


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_round_trip(value: int) -> None:
    assert parse_time(format_time(value)) == value


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other exception than InvalidInput."""
    for parse in (parse_duration, parse_period, parse_moment, parse_time):
        with contextlib.suppress(InvalidInput):
            parse(text)


def test_iso_has_no_negative_durations() -> None:
    with pytest.raises(InvalidInput, match="negative"):
        format_iso(-1)
