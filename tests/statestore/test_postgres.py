"""PostgreSQL keeps the contract, and what is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
import pytest_asyncio

from perdure.statestore import StateStore, open_store
from perdure.testing.store_contract import PARTITIONS, StoreContract
from tests.servers.postgres import PostgresServer, postgres_server

_schemas = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


class PostgresHarness:
    durable = True

    def __init__(self, server: PostgresServer) -> None:
        self.url = server.url(schema=f"s{next(_schemas)}")
        self.store: StateStore | None = None

    async def open(self) -> StateStore:
        self.store = open_store(self.url, partitions=PARTITIONS)
        return self.store

    async def reopen(self) -> StateStore:
        await self.close()
        return await self.open()

    async def close(self) -> None:
        if self.store is not None:
            await self.store.close()


class TestPostgres(StoreContract):
    @pytest_asyncio.fixture
    async def harness(self, server: PostgresServer) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(server)
        yield harness
        await harness.close()
