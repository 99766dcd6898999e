"""Servers that no test ends or changes for good: one for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.redis import RedisServer, redis_server


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with redis_server(appendfsync="everysec", repl_diskless_sync_delay="0") as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server
