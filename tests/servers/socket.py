"""A store that other processes reach over a Unix socket, as the nodes of `perdure run --nodes` do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from perdure.statestore import StateStore
from perdure.statestore.socket import StoreServer


class ServedStore:
    """A store and its server, in a thread of their own until `stop`. Clients open its `url`."""

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
