"""The contract over a Unix socket, with the store in another thread's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.statestore import MemoryStore, StateStore, open_store
from perdure.statestore.socket import StoreServer
from perdure.testing.store_contract import PARTITIONS, StoreContract


class ServedStore:
    """A store and its server, in a thread of their own until `stop`."""

    def __init__(self, make: Callable[[], StateStore], path: Path) -> None:
        self._make = make
        self._path = path
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        if self._failure is not None:
            raise self._failure

    async def _serve(self) -> None:
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        try:
            store = self._make()
            server = StoreServer(store, self._path)
            await server.start()
            self.url = server.url
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._ready.set()
        await self._told.wait()
        await server.stop()
        await store.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._told.set)
        self._thread.join(30)
        assert not self._thread.is_alive()


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
