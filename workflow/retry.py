"""When a failed activity or child workflow is tried again. Pure arithmetic: time comes in, a delay goes out."""

from __future__ import annotations

import math
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and after which delays something that failed is tried again.

    The delay after failure n (from 0) is `first_retry_interval * backoff_coefficient ** n`, cut to whole
    milliseconds, at most `max_retry_interval`. There is no further attempt once `max_number_of_attempts` were made
    (the first one included), nor when an attempt fails later than `retry_timeout` after the first one began.
    """

    first_retry_interval: timedelta
    max_number_of_attempts: int
    backoff_coefficient: float = 1.0
    max_retry_interval: timedelta | None = None
    retry_timeout: timedelta | None = None

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

    def next_delay(
        self, attempt: int, first_attempt_at: int, now: int, failure: FailureDetails
    ) -> int | None:
        """Microseconds until the next attempt, or None: give up. `attempt` counts from 0: the one that failed."""
        if failure.non_retriable or attempt + 1 >= self.max_number_of_attempts:
            return None
        if self.retry_timeout is not None and now > first_attempt_at + self.retry_timeout // _MICROSECOND:
            return None
        return self._delay(attempt)

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


def _check_interval(name: str, value: object, *, zero: bool) -> None:
    if not isinstance(value, timedelta):
        raise InvalidInput(f"{name} is a timedelta, such as timedelta(seconds=1): {value!r}")
    if value < timedelta(0) or (not zero and not value):
        bound = "not negative" if zero else "greater than 0 (leave it out for no limit)"
        raise InvalidInput(f"{name} must be {bound}: {value!r}")
