"""A TCP proxy that misbehaves on request: it cuts, delays and swallows."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import Self


class Way(Enum):
    """A direction, as whoever dials sees it."""

    THERE = "there"
    BACK = "back"


class CuttingProxy:
    """Stands before one address. Use as `async with`; `address` is what to dial instead."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        #: Also those that are being closed.
        self._all: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        #: Seconds by which each piece comes later.
        self.delay = 0.0
        #: Ways on which everything is swallowed, as by a network that has failed: nobody is told.
        self.swallowing: set[Way] = set()
        #: Whether new connections are closed at once.
        self.refusing = False
        #: Bytes that have passed.
        self.passed = {Way.THERE: 0, Way.BACK: 0}
        #: How many connections were taken.
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.refusing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._all:
            writer.transport.abort()
        for writer in self._all:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Ends every connection in the middle, in both directions."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._all.append(writer)
        if self.refusing:
            writer.transport.abort()
            return
        # The server does not wait for what it has begun here.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._tasks.discard(task)
        self._all.append(far_writer)
        self._writers |= {writer, far_writer}
        for way, source, sink in ((Way.THERE, reader, far_writer), (Way.BACK, far_reader, writer)):
            task = asyncio.create_task(self._pump(way, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if way in self.swallowing:
                    continue
                if self.delay:
                    await asyncio.sleep(self.delay)
                self.passed[way] += len(data)
                sink.write(data)
                await sink.drain()
        # A network that swallows everything swallows the end of a connection too.
        if way not in self.swallowing:
            self._writers.discard(sink)
            sink.close()
