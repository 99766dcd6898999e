"""Long polls: requests that wait for something to happen, perhaps for minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from perdure.errors import Unavailable

T = TypeVar("T")

#: How often a waiting request looks whether its client is still there.
CHECK_SECONDS = 5.0


class LongPolls:
    """The waits in progress. They end when what they wait for happens, the client goes, or the server stops."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def run(self, request: web.Request, wait: Coroutine[Any, Any, T]) -> T:
        """The result of `wait`; only the wait is cancelled when the client goes."""
        task = asyncio.ensure_future(wait)
        self._waits.add(task)
        if self._stopping:
            task.cancel()
        try:
            while not task.done():
                await asyncio.wait((task,), timeout=CHECK_SECONDS)
                if request.transport is None or request.transport.is_closing():
                    raise ConnectionResetError("the client is gone")
            if task.cancelled():
                raise Unavailable("this node is stopping; ask again")
            return task.result()
        finally:
            self._waits.discard(task)
            task.cancel()

    def stop(self) -> None:
        """Ends all waits; their clients are told to ask again."""
        self._stopping = True
        for task in self._waits:
            task.cancel()
