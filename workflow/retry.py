"""When a failed activity or child workflow is tried again. Pure arithmetic: time comes in, a delay goes out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta

from perdure.errors import InvalidInput, PerdureError
from perdure.workflow.events import FailureDetails

#: Longest delay between two attempts, in microseconds: about 285 years, so that exponents cannot overflow a time.
MAX_DELAY = 9 * 10**15

_MICROSECOND = timedelta(microseconds=1)


class NonRetriableError(PerdureError):
    """Raised in an activity or workflow: trying again cannot help, whatever the retry policy says."""

    code = "ERR_NON_RETRIABLE"
    non_retriable = True


class RetryAfter(PerdureError):
    """Raised in an activity or workflow: if it is tried again, then not before `retry_after` is over.

    Takes the place of the retry policy's next delay, also where that has a maximum; how many attempts there are, and
    for how long, is the policy's still. Any other exception with an attribute `retry_after` (a timedelta, or seconds)
    does the same.
    """

    code = "ERR_RETRY_AFTER"

    def __init__(self, retry_after: timedelta | float, message: str | None = None) -> None:
        delay = retry_delay(retry_after)
        if delay is None:
            raise InvalidInput(
                f"RetryAfter takes a timedelta or seconds, not negative: {retry_after!r}; such as "
                "RetryAfter(timedelta(minutes=1))"
            )
        self.retry_after = timedelta(microseconds=delay)
        super().__init__(message or f"to be tried again in {self.retry_after}")


def retry_delay(value: object) -> int | None:
    """Microseconds of a delay as an exception gives it: a timedelta, or seconds. None: it is neither, or negative."""
    if isinstance(value, timedelta):
        delay: float = value // _MICROSECOND
    elif type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        delay = value * 1_000_000
    else:
        return None
    return int(min(delay, MAX_DELAY)) if delay >= 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and after which delays something that failed is tried again.

    The delay after failure n (from 0) is `first_retry_interval * backoff_coefficient ** n`, cut to whole
    milliseconds, at most `max_retry_interval`; a failure that says itself when to try again (`RetryAfter`) is taken at
    its word. There is no further attempt once `max_number_of_attempts` were made (the first one included), nor when an
    attempt fails later than `retry_timeout` after the first one began.

    `non_retryable_error_types` are exception classes or their names: a failure whose class is one of them, or derived
    from one, is not tried again. `retry_if` is asked about every other failure, and has to answer the same on replay:
    it is workflow code that may only look at what it is given.
    """

    first_retry_interval: timedelta
    max_number_of_attempts: int
    backoff_coefficient: float = 1.0
    max_retry_interval: timedelta | None = None
    retry_timeout: timedelta | None = None
    non_retryable_error_types: Collection[type[BaseException] | str] = ()
    retry_if: Callable[[FailureDetails], bool] | None = None

    def __post_init__(self) -> None:
        _check_interval("first_retry_interval", self.first_retry_interval, zero=True)
        attempts = self.max_number_of_attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise InvalidInput(
                f"max_number_of_attempts is a whole number from 1 (first one included): {attempts!r}"
            )
        factor = self.backoff_coefficient
        if not isinstance(factor, int | float) or not 1 <= factor < math.inf:
            raise InvalidInput(f"backoff_coefficient is a number from 1: {factor!r}")
        for name in ("max_retry_interval", "retry_timeout"):
            if getattr(self, name) is not None:
                _check_interval(name, getattr(self, name), zero=False)
        object.__setattr__(self, "non_retryable_error_types", _names(self.non_retryable_error_types))
        if self.retry_if is not None and (
            not callable(self.retry_if) or inspect.iscoroutinefunction(self.retry_if)
        ):
            raise InvalidInput(
                f"retry_if is a plain function that takes the failure and returns a bool: {self.retry_if!r}"
            )

    def next_delay(
        self, attempt: int, first_attempt_at: int, now: int, failure: FailureDetails
    ) -> int | None:
        """Microseconds until the next attempt, or None: give up. `attempt` counts from 0: the one that failed.
        Raises what `retry_if` raises."""
        if failure.non_retriable or attempt + 1 >= self.max_number_of_attempts:
            return None
        if self.retry_timeout is not None and now > first_attempt_at + self.retry_timeout // _MICROSECOND:
            return None
        types = self.non_retryable_error_types
        if types and (failure.type in types or any(base in types for base in failure.bases)):
            return None
        if self.retry_if is not None and not self.retry_if(failure):
            return None
        return self._delay(attempt) if failure.retry_after is None else failure.retry_after

    def _delay(self, attempt: int) -> int:
        limit = MAX_DELAY
        if self.max_retry_interval is not None:
            limit = min(limit, self.max_retry_interval // _MICROSECOND)
        first = self.first_retry_interval // _MICROSECOND
        try:
            delay = first * self.backoff_coefficient**attempt
        except OverflowError:
            return limit if first else 0
        return limit if delay >= limit else int(delay / 1000) * 1000


def _names(types: object) -> tuple[str, ...]:
    """The names of exception classes. By name, since only that crosses processes and languages."""
    if isinstance(types, str) or not isinstance(types, Collection):
        raise InvalidInput(f"non_retryable_error_types is a list of exception classes or names: {types!r}")
    found = []
    for one in types:
        if isinstance(one, str) and one:
            found.append(one)
        elif one is Exception or one is BaseException:
            raise InvalidInput(
                "every failure is an Exception: to try nothing again, max_number_of_attempts is 1"
            )
        elif isinstance(one, type) and issubclass(one, BaseException):
            found.append(one.__name__)
        else:
            raise InvalidInput(f"non_retryable_error_types takes exception classes and names, not {one!r}")
    return tuple(found)


def _check_interval(name: str, value: object, *, zero: bool) -> None:
    if not isinstance(value, timedelta):
        raise InvalidInput(f"{name} is a timedelta, such as timedelta(seconds=1): {value!r}")
    if value < timedelta(0) or (not zero and not value):
        bound = "not negative" if zero else "greater than 0 (leave it out for no limit)"
        raise InvalidInput(f"{name} must be {bound}: {value!r}")
