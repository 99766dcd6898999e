"""How tests use a store over Redis: `opened` as a fixture, to be imported; and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

import pytest_asyncio

from perdure.errors import StoreUnavailable
from perdure.statestore import open_store
from perdure.statestore.redis.store import RedisStore
from perdure.testing.store_contract import PARTITIONS

T = TypeVar("T")

PATIENCE = 60.0


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


async def eventually(ask: Callable[[], Awaitable[T]]) -> T:
    """The first answer that is not `StoreUnavailable`."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)


async def until(true: Callable[[], object], what: str) -> None:
    """Returns when a state is reached."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not true():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.01)


def watched(store: RedisStore) -> list[str]:
    """The reasons for which acknowledged writes may be gone, as the store tells them."""
    reasons: list[str] = []
    store.on_rollback(reasons.append)
    return reasons
