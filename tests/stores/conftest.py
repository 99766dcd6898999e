"""Whole nodes over each store that there is: servers run once for all tests here, and each test's names are its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Node
from perdure.statestore import open_store
from tests import waiting
from tests.cli.conftest import perdure
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_server
from tests.servers.socket import ServedStore

__all__ = ["perdure"]

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0


@pytest.fixture(scope="session")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'state.db'}"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url()


@pytest.fixture(scope="session")
def socket_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the nodes of `perdure run --nodes` work on: a SQLite file behind a Unix socket."""
    folder: Path = tmp_path_factory.mktemp("socket")
    served = ServedStore(lambda: open_store(f"sqlite:///{folder / 'state.db'}"), folder / "s")
    yield served.url
    served.stop()


class Place:
    """A store, over any number of nodes, one after another."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def serve(self, app: App, **options: Any) -> AsyncIterator[Node]:
        """A node of its own; replay is checked after every turn."""
        async with app.serve(store=self.url, **{"replay_check": "always", **options}) as node:
            yield node


@pytest.fixture(scope="session", params=["sqlite", "redis", "postgres", "socket"])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def until_status() -> Any:
    """`await until_status(client, id, status)`: the state once it has that status."""
    return waiting.until_status


@pytest.fixture
def run() -> Any:
    """`await run(client, workflow, input)`: the state in which it ended."""
    return waiting.run
