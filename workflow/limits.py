"""What an app says of how many may run at a time, and what a node tells of its queues."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from perdure.errors import ConfigurationError, InvalidInput


class Queue(msgspec.Struct, frozen=True):
    """One name on one node, for people."""

    running: int
    queued: int
    #: How many run at a time on this node, and in the whole cluster; None: any number.
    limit: int | None = None
    global_limit: int | None = None
    #: How many of the cluster's this node may run now; None: the cluster does not limit them.
    share: int | None = None


def check_limit(what: str, value: int | None) -> int | None:
    """`ConfigurationError` unless it is None or a number from 1 on."""
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigurationError(
            f"{what} is {value!r}; it must be a whole number from 1 on, or None for no limit"
        )
    return value


def check_grace(what: str, value: timedelta | None) -> float | None:
    """In seconds. `ConfigurationError` unless it is None or more than 0."""
    if value is None:
        return None
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ConfigurationError(f"{what} is {value!r}; it must be a timedelta of more than 0, or None")
    return value.total_seconds()


def check_timeout(what: str, timeout: object) -> int:
    """The microseconds of a time limit; 0 for None. `InvalidInput` unless it is a timedelta greater than 0."""
    if timeout is None:
        return 0
    if not isinstance(timeout, timedelta):
        raise InvalidInput(f"{what} is a timedelta, such as timedelta(minutes=1): {timeout!r}")
    if timeout <= timedelta(0):
        raise InvalidInput(f"{what} must be greater than 0 (leave it out for no limit): {timeout!r}")
    return timeout // timedelta(microseconds=1)
