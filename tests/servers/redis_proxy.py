"""A TCP proxy before a Redis server, that loses, cuts and keeps back what is to go through it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Proxy:
    """Runs on the test's event loop. Each trap works once: on the first data of a client that contains `marker`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._trap: tuple[str, bytes, int] | None = None
        self._kept: list[tuple[asyncio.StreamWriter, bytes, asyncio.Task[None]]] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def armed(self) -> bool:
        return self._trap is not None

    def lose_answer(self, marker: bytes) -> None:
        """The data reaches the server; when the server answers, the client's connection is cut instead."""
        self._trap = ("answer", marker, 0)

    def lose_request(self, marker: bytes, after: int = 0) -> None:
        """Only the first `after` bytes of the data reach the server; then both connections are cut."""
        self._trap = ("request", marker, after)

    def keep_back(self, marker: bytes) -> None:
        """The data, and what follows it, waits here until `deliver`, also when the client has gone."""
        self._trap = ("keep", marker, 0)

    async def deliver(self) -> None:
        """What was kept back goes to the server; returns when the server has done with it, in whichever way."""
        kept, self._kept = self._kept, []
        for writer, data, backwards in kept:
            with contextlib.suppress(OSError):
                writer.write(data)
                writer.write_eof()
                await writer.drain()
            # The server answers all that it still takes, and then closes its side.
            await asyncio.wait([backwards])
            writer.close()

    def cut(self) -> None:
        """Every connection is cut."""
        for task in self._tasks:
            task.cancel()

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer, _, backwards in self._kept:
            backwards.cancel()
            writer.close()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except BaseException as error:
            to_client.transport.abort()
            if isinstance(error, OSError):
                return
            raise
        kept: list[bytes] = []
        lost = False

        async def back() -> None:
            with contextlib.suppress(OSError):
                while data := await server.read(1 << 16):
                    if lost:
                        break
                    to_client.write(data)
            to_client.close()

        backwards = asyncio.get_running_loop().create_task(back())
        try:
            while data := await client.read(1 << 20):
                trap = self._trap
                if trap is not None and trap[1] in data:
                    self._trap = None
                    kind, _, after = trap
                    if kind == "request":
                        to_server.write(data[:after])
                        await to_server.drain()
                        break
                    if kind == "keep":
                        kept.append(data)
                        continue
                    lost = True
                if kept:
                    kept.append(data)
                else:
                    to_server.write(data)
        except (OSError, asyncio.CancelledError):
            pass
        to_client.close()
        if kept:
            # The server's side stays open: as if the data were still on its way.
            self._kept.append((to_server, b"".join(kept), backwards))
        else:
            backwards.cancel()
            to_server.close()


@contextlib.asynccontextmanager
async def redis_proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy before the server at a port of this host."""
    proxy = Proxy(port)
    await proxy._start()
    try:
        yield proxy
    finally:
        await proxy._stop()
