"""Every store keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.statestore import MemoryStore, StateStore, open_store
from perdure.testing.store_contract import PARTITIONS, StoreContract


class MemoryHarness:
    durable = False

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore(partitions=PARTITIONS)

    async def open(self) -> StateStore:
        return self.store

    async def reopen(self) -> StateStore:
        raise NotImplementedError

    async def close(self) -> None:
        await self.store.close()


class SqliteHarness:
    durable = True

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'store.db'}"
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


class TestStores(StoreContract):
    @pytest_asyncio.fixture(params=[MemoryHarness, SqliteHarness], ids=["memory", "sqlite"])
    async def harness(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> AsyncIterator[MemoryHarness | SqliteHarness]:
        harness = request.param(tmp_path)
        yield harness
        await harness.close()
