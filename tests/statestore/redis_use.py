"""How tests use a store over Redis: `opened` as a fixture, to be imported; servers, fixtures to be imported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import pytest
import pytest_asyncio

from perdure.statestore import open_store
from perdure.statestore.redis.store import RedisStore
from perdure.testing.store_contract import PARTITIONS
from tests.servers.redis import RedisServer


class Opened(Protocol):
    def __call__(self, url: str, partitions: int | None = PARTITIONS) -> RedisStore: ...


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens stores, and closes them afterwards."""
    stores: list[RedisStore] = []

    def open(url: str, partitions: int | None = PARTITIONS) -> RedisStore:
        store = open_store(url, partitions=partitions)
        assert isinstance(store, RedisStore)
        stores.append(store)
        return store

    yield open
    for store in stores:
        await store.close()


@pytest.fixture
def server(shared_redis: RedisServer) -> RedisServer:
    return shared_redis


@pytest.fixture
def clean(server: RedisServer) -> RedisServer:
    server.command("FLUSHALL")
    return server


def watched(store: RedisStore) -> list[str]:
    """The reasons for which acknowledged writes may be gone, as the store tells them."""
    reasons: list[str] = []
    store.on_rollback(reasons.append)
    return reasons
