"""RedisStore keeps the contract over real servers: one, and a cluster of three."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from perdure.statestore import StateStore, open_store
from perdure.testing.store_contract import PARTITIONS, StoreContract
from tests.servers.redis import RedisCluster, RedisServer, redis_cluster, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(appendfsync="everysec") as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster(appendfsync="everysec") as cluster:
        yield cluster


class RedisHarness:
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


class TestSingle(StoreContract):
    @pytest_asyncio.fixture
    async def harness(self, server: RedisServer) -> AsyncIterator[RedisHarness]:
        server.command("FLUSHALL")
        harness = RedisHarness(server.url())
        yield harness
        await harness.close()


class TestCluster(StoreContract):
    @pytest_asyncio.fixture
    async def harness(self, cluster: RedisCluster) -> AsyncIterator[RedisHarness]:
        cluster.clear()
        harness = RedisHarness(cluster.url(namespace="other"))
        yield harness
        await harness.close()
