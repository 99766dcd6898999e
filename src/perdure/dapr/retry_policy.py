"""Dapr's retry policy."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from perdure.workflow import retry

_NONE = timedelta(0)


class RetryPolicy:
    """How often and after which delays an activity or a child workflow is tried again. `ValueError` for what makes no
    sense. `obj` is the same as Perdure's own policy: its documentation has the arithmetic."""

    def __init__(
        self,
        *,
        first_retry_interval: timedelta,
        max_number_of_attempts: int,
        backoff_coefficient: float | None = 1.0,
        max_retry_interval: timedelta | None = None,
        retry_timeout: timedelta | None = None,
        non_retryable_error_types: Collection[type[BaseException] | str] | None = None,
    ) -> None:
        """`max_number_of_attempts` counts the first one too. A failure of one of the `non_retryable_error_types`
        (exception classes or their names) is not tried again."""
        if first_retry_interval < _NONE:
            raise ValueError("first_retry_interval must be >= 0")
        if max_number_of_attempts < 1:
            raise ValueError("max_number_of_attempts must be >= 1")
        if backoff_coefficient is not None and backoff_coefficient < 1:
            raise ValueError("backoff_coefficient must be >= 1")
        if max_retry_interval is not None and max_retry_interval < _NONE:
            raise ValueError("max_retry_interval must be >= 0")
        if retry_timeout is not None and retry_timeout < _NONE:
            raise ValueError("retry_timeout must be >= 0")
        self.first_retry_interval = first_retry_interval
        self.max_number_of_attempts = max_number_of_attempts
        self.backoff_coefficient = backoff_coefficient
        self.max_retry_interval = max_retry_interval
        self.retry_timeout = retry_timeout
        self.non_retryable_error_types = list(non_retryable_error_types or ())
        # Perdure's own has no limits of zero: nothing but the first attempt, and no delay at all, are said otherwise.
        self.obj = retry.RetryPolicy(
            first_retry_interval=_NONE if max_retry_interval == _NONE else first_retry_interval,
            max_number_of_attempts=1 if retry_timeout == _NONE else max_number_of_attempts,
            backoff_coefficient=1.0 if backoff_coefficient is None else backoff_coefficient,
            max_retry_interval=max_retry_interval or None,
            retry_timeout=retry_timeout or None,
            non_retryable_error_types=self.non_retryable_error_types,
        )
