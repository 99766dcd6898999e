"""How tests use a store over PostgreSQL: schemas and stores, fixtures to be imported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import count

import pytest

from perdure.statestore import COMMITTED, Commit, open_store
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import ALL, FENCE, PARTITIONS
from tests.servers.postgres import PostgresServer
from tests.statestore.asking import again

_schemas = count(1)
TIMEOUT = 40.0


def new_schema() -> str:
    """A name that no other test has."""
    return f"t{next(_schemas)}"


@pytest.fixture
def server(shared_postgres: PostgresServer) -> PostgresServer:
    return shared_postgres


@pytest.fixture
def schema() -> str:
    return new_schema()


@pytest.fixture
async def opened_at(schema: str) -> AsyncIterator[Callable[..., PostgresStore]]:
    """Opens stores on this test's schema of a server."""
    stores: list[PostgresStore] = []

    def opener(server: PostgresServer, **options: object) -> PostgresStore:
        store = open_store(server.url(**{"schema": schema, **options}), partitions=PARTITIONS)
        assert isinstance(store, PostgresStore)
        stores.append(store)
        return store

    yield opener
    for store in stores:
        await store.close()


@pytest.fixture
def opened(server: PostgresServer, opened_at: Callable[..., PostgresStore]) -> Callable[..., PostgresStore]:
    """Opens stores on this test's schema."""
    return partial(opened_at, server)


@pytest.fixture
async def store(opened: Callable[..., PostgresStore]) -> PostgresStore:
    store = opened()
    await store.take(ALL, FENCE)
    return store


async def own(store: PostgresStore, *commits: Commit) -> None:
    """Takes everything, and writes these, by a store that has little patience on a machine that may be busy."""
    await again(lambda: store.take(ALL, FENCE))
    if commits:
        assert list(await again(lambda: store.commit(commits))) == [COMMITTED] * len(commits)
