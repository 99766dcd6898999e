"""The contract over a Unix socket, with the store in another thread's event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.statestore import MemoryStore, StateStore, open_store
from perdure.testing.store_contract import PARTITIONS, StoreContract
from tests.servers.socket import ServedStore


class SocketHarness:
    def __init__(self, kind: str, folder: Path) -> None:
        self.durable = kind == "sqlite"
        self._folder = folder
        self._make: Callable[[], StateStore] = (
            self._sqlite if self.durable else lambda: MemoryStore(partitions=PARTITIONS)
        )
        self._served: ServedStore | None = None
        self._store: StateStore | None = None

    def _sqlite(self) -> StateStore:
        return open_store(f"sqlite:///{self._folder / 'store.db'}", partitions=PARTITIONS)

    async def open(self) -> StateStore:
        self._served = ServedStore(self._make, self._folder / "store.sock")
        self._store = open_store(self._served.url, partitions=PARTITIONS)
        return self._store

    async def reopen(self) -> StateStore:
        await self.close()
        return await self.open()

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
        if self._served is not None:
            self._served.stop()


class TestSocketStore(StoreContract):
    @pytest_asyncio.fixture(params=["memory", "sqlite"])
    async def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SocketHarness]:
        harness = SocketHarness(request.param, tmp_path)
        yield harness
        await harness.close()
