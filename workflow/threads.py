"""Threads for plain functions. A process may end while they run: `ThreadPoolExecutor` makes it wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """As many as there are calls at a time; kept for the next ones. Used on one event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._started = 0
        self._busy = 0

    async def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises in a thread. It runs to its end also when this is cancelled."""
        future: asyncio.Future[tuple[T, BaseException | None]] = asyncio.get_running_loop().create_future()
        self._busy += 1
        if self._busy > self._started:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        self._jobs.put((function, future))
        result, error = await future
        if error is not None:
            raise error
        return result

    def close(self) -> int:
        """Has no thread begin anything more; returns how many are still busy. Each ends with what it does."""
        with contextlib.suppress(Exception):
            while True:
                self._jobs.get_nowait()
        for _ in range(self._started):
            self._jobs.put(None)
        return self._busy

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, future = job
            result, error = None, None
            try:
                result = function()
            except BaseException as caught:  # noqa: BLE001 - the user's, whatever it is
                error = caught
            # RuntimeError: the loop is closed, so nobody waits any more.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(self._ended, future, result, error)
            del job, function, future, result, error

    def _ended(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if not future.done():
            future.set_result((result, error))
