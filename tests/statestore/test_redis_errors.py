"""Error replies, as several releases word them."""

from __future__ import annotations

import pytest

from perdure.errors import CorruptState, StoreError, StoreUnavailable
from perdure.statestore.redis import errors

PASSING = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "-OOM command not allowed when used memory > 'maxmemory'.",
    "@user_script: 193: -OOM command not allowed when used memory > 'maxmemory'.",
    "ERR Error running script (call to f_1): @user_script:12: @user_script: 12: -READONLY You can't write.",
    "READONLY You can't write against a read only replica. script: abc, on @user_script:38.",
    "MISCONF Redis is configured to save RDB snapshots, but …",
    "LOADING Redis is loading the dataset in memory",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "ERR max number of clients reached",
    "ERR The user executing the script can't run this command or subcommand script: a, on @user_script:9.",
    "ERR ACL failure in script: User few has no permissions to run the 'hget' command script: on @user_script:9.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "BUSY Redis is busy running a script.",
]
LASTING = [
    "ERR value is not an integer or out of range",
    "user_script:43: Bad data format in input. script: 3e7a, on @user_script:43.",
    "ERR Error running script (call to f_1): @user_script:43: Bad data format in input.",
    "ERR",
    "",
]
WRONG_TYPE = [
    "WRONGTYPE Operation against a key holding the wrong kind of value script: a, on @user_script:5.",
    "@user_script: 5: -WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR Error running script (call to f_1): @user_script:5: @user_script: 5: -WRONGTYPE Operation against",
]


@pytest.mark.parametrize("message", PASSING)
def test_what_passes(message: str) -> None:
    """The same request may succeed later: no commit is rejected for it."""
    assert errors.passing(message)
    assert isinstance(errors.mapped(message), StoreUnavailable)


@pytest.mark.parametrize("message", [*LASTING, *WRONG_TYPE])
def test_what_does_not_pass(message: str) -> None:
    assert not errors.passing(message)
    assert not isinstance(errors.mapped(message), StoreUnavailable)
    assert isinstance(errors.mapped(message), CorruptState if message in WRONG_TYPE else StoreError)
