"""PostgreSQL keeps the contract, directly and through a pooler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
import pytest_asyncio

from perdure.statestore import StateStore, open_store
from perdure.testing.store_contract import PARTITIONS, StoreContract
from tests.servers.postgres import PostgresServer, pooler, postgres_server

_schemas = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    # Nothing crashes here, so nothing has to be on disk.
    with postgres_server(fsync="off") as server:
        yield server


@pytest.fixture(scope="module")
def address(server: PostgresServer) -> Iterator[str]:
    with pooler(server) as address:
        yield address


class PostgresHarness:
    durable = True

    def __init__(self, url: str) -> None:
        self.url = url
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


class TestDirectly(StoreContract):
    @pytest_asyncio.fixture
    async def harness(self, server: PostgresServer) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(server.url(schema=f"s{next(_schemas)}"))
        yield harness
        await harness.close()


class TestThroughAPooler(StoreContract):
    @pytest_asyncio.fixture
    async def harness(self, server: PostgresServer, address: str) -> AsyncIterator[PostgresHarness]:
        schema = f"s{next(_schemas)}"
        harness = PostgresHarness(server.url(address=address, schema=schema, direct=server.url()))
        yield harness
        await harness.close()
