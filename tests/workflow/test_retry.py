"""The arithmetic of retries."""

from __future__ import annotations

import math
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import InvalidInput
from perdure.workflow.events import FailureDetails
from perdure.workflow.failure import describe
from perdure.workflow.retry import MAX_DELAY, NonRetriableError, RetryAfter, RetryPolicy

FAILURE = FailureDetails("ValueError", "no")
SECOND = 1_000_000
intervals = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(days=400))


def policy(**options: Any) -> RetryPolicy:
    return RetryPolicy(
        **{"first_retry_interval": timedelta(seconds=1), "max_number_of_attempts": 5, **options}
    )


def test_delays_grow_up_to_the_limit() -> None:
    grows = policy(backoff_coefficient=2.0, max_retry_interval=timedelta(seconds=3))
    assert [grows.next_delay(n, 0, 0, FAILURE) for n in range(5)] == [
        SECOND,
        2 * SECOND,
        3 * SECOND,
        3 * SECOND,
        None,
    ]


def test_delays_are_cut_to_milliseconds() -> None:
    cut = policy(first_retry_interval=timedelta(milliseconds=1), backoff_coefficient=1.5)
    assert [cut.next_delay(n, 0, 0, FAILURE) for n in range(4)] == [1000, 1000, 2000, 3000]


def test_no_retry_after_the_time_limit() -> None:
    """At the limit there still is one."""
    limited = policy(retry_timeout=timedelta(seconds=10))
    assert limited.next_delay(0, 5 * SECOND, 15 * SECOND, FAILURE) == SECOND
    assert limited.next_delay(0, 5 * SECOND, 15 * SECOND + 1, FAILURE) is None


def test_what_is_not_retriable_is_not_retried() -> None:
    """An exception says so by its class or by an attribute."""

    class Declined(Exception):
        non_retriable = True

    for error in (NonRetriableError("declined"), Declined()):
        assert policy().next_delay(0, 0, 0, describe(error)) is None
    assert policy().next_delay(0, 0, 0, describe(ValueError())) == SECOND


@given(
    first=intervals,
    attempts=st.integers(1, 30),
    factor=st.floats(1, 10),
    longest=st.none() | intervals,
    limit=st.none() | intervals,
    attempt=st.integers(0, 40),
    began=st.integers(0, 10**15),
    elapsed=st.integers(0, 10**14),
)
def test_delays_are_those_of_a_straightforward_model(
    first: timedelta,
    attempts: int,
    factor: float,
    longest: timedelta | None,
    limit: timedelta | None,
    attempt: int,
    began: int,
    elapsed: int,
) -> None:
    options: dict[str, Any] = {
        "first_retry_interval": first,
        "max_number_of_attempts": attempts,
        "backoff_coefficient": factor,
        "max_retry_interval": longest,
        "retry_timeout": limit,
    }
    delay = RetryPolicy(**options).next_delay(attempt, began, began + elapsed, FAILURE)
    if attempt + 1 >= attempts or (limit is not None and timedelta(microseconds=elapsed) > limit):
        assert delay is None
        return
    assert delay is not None
    exact = Fraction(first / timedelta(milliseconds=1)) * Fraction(factor) ** attempt
    most = MAX_DELAY if longest is None else longest // timedelta(microseconds=1)
    expected = min(math.floor(exact) * 1000, most, MAX_DELAY)
    # Floating point may miss the whole millisecond by a hair, at any magnitude.
    assert math.isclose(delay, expected, rel_tol=1e-12, abs_tol=1000)
    assert delay == most or delay % 1000 == 0


def test_a_huge_exponent_does_not_overflow() -> None:
    huge = policy(backoff_coefficient=10.0, max_number_of_attempts=10**9)
    assert huge.next_delay(10**8, 0, 0, FAILURE) == MAX_DELAY
    zero = policy(first_retry_interval=timedelta(0), backoff_coefficient=10.0, max_number_of_attempts=10**9)
    assert zero.next_delay(10**8, 0, 0, FAILURE) == 0


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [
        ("first_retry_interval", timedelta(seconds=-1), "not negative"),
        ("first_retry_interval", 5, "is a timedelta"),
        ("max_number_of_attempts", 0, "from 1"),
        ("max_number_of_attempts", 2.5, "from 1"),
        ("max_number_of_attempts", True, "from 1"),
        ("backoff_coefficient", 0.5, "from 1"),
        ("backoff_coefficient", math.inf, "from 1"),
        ("backoff_coefficient", math.nan, "from 1"),
        ("max_retry_interval", timedelta(0), "greater than 0"),
        ("retry_timeout", timedelta(0), "greater than 0"),
        ("retry_timeout", "1h", "is a timedelta"),
    ],
)
def test_wrong_options_are_named_with_their_bound(option: str, value: Any, bound: str) -> None:
    with pytest.raises(InvalidInput, match=f"{option}.*{bound}"):
        policy(**{option: value})


class Declined(Exception):
    pass


class CardDeclined(Declined):
    pass


def test_a_failure_of_a_type_that_is_not_retriable_is_not_retried() -> None:
    """By class or by name, and what is derived from it, too."""
    for types in ([Declined], ["Declined"], (ValueError, "Declined"), {Declined}):
        picky = policy(non_retryable_error_types=types)
        for error in (Declined(), CardDeclined()):
            assert picky.next_delay(0, 0, 0, describe(error)) is None
        assert picky.next_delay(0, 0, 0, describe(KeyError())) == SECOND
    assert (
        policy(non_retryable_error_types=[CardDeclined]).next_delay(0, 0, 0, describe(Declined())) == SECOND
    )
    assert (
        policy(non_retryable_error_types=[OSError]).next_delay(0, 0, 0, describe(ConnectionResetError()))
        is None
    )


@pytest.mark.parametrize("types", ["Declined", [1], [Declined()], [int], [""], [Exception], 3, None])
def test_what_is_no_exception_class_is_refused(types: Any) -> None:
    with pytest.raises(InvalidInput):
        policy(non_retryable_error_types=types)


def test_a_predicate_says_what_is_retried() -> None:
    asked: list[FailureDetails] = []

    def busy(failure: FailureDetails) -> bool:
        asked.append(failure)
        return "busy" in failure.message

    picky = policy(retry_if=busy, non_retryable_error_types=[KeyError], max_number_of_attempts=2)
    assert picky.next_delay(0, 0, 0, describe(OSError("busy"))) == SECOND
    assert picky.next_delay(0, 0, 0, describe(OSError("no"))) is None
    assert [failure.message for failure in asked] == ["busy", "no"]
    # It is not asked where the answer is known.
    picky.next_delay(0, 0, 0, describe(KeyError("busy")))
    picky.next_delay(1, 0, 0, describe(OSError("busy")))
    picky.next_delay(0, 0, 0, describe(NonRetriableError("busy")))
    assert len(asked) == 2


def test_a_predicate_is_a_plain_function() -> None:
    async def later(failure: FailureDetails) -> bool:
        return True

    for predicate in (later, "yes"):
        with pytest.raises(InvalidInput, match="retry_if is a plain function"):
            policy(retry_if=predicate)


def test_a_failure_says_when_to_try_again() -> None:
    """In place of the policy's own delay, longer than its longest; the number of attempts stays the policy's."""
    limited = policy(max_retry_interval=timedelta(seconds=2), max_number_of_attempts=2)
    minute = describe(RetryAfter(timedelta(minutes=1)))
    assert limited.next_delay(0, 0, 0, minute) == 60 * SECOND
    assert limited.next_delay(1, 0, 0, minute) is None
    assert limited.next_delay(0, 0, 0, describe(RetryAfter(0))) == 0


def test_any_exception_may_say_when_to_try_again() -> None:
    class Busy(Exception):
        def __init__(self, retry_after: Any) -> None:
            self.retry_after = retry_after

    class Broken(Exception):
        @property
        def retry_after(self) -> int:
            raise RuntimeError

    said = [timedelta(seconds=2), 2, 1.5, -1, math.nan, math.inf, True, "120", None, 10**400, timedelta.max]
    assert [describe(Busy(value)).retry_after for value in said] == [
        2 * SECOND,
        2 * SECOND,
        1_500_000,
        *[None] * 6,
        MAX_DELAY,
        MAX_DELAY,
    ]
    assert describe(Broken()).retry_after is None
    assert describe(ValueError()).retry_after is None


@pytest.mark.parametrize("value", [-1, timedelta(seconds=-1), math.nan, "soon", None])
def test_no_time_to_try_again_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="RetryAfter takes a timedelta or seconds"):
        RetryAfter(value)
