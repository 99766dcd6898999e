"""Link: one connection. Requests go out at once, one after the other; answers come in the same order."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterable
from ssl import SSLContext
from typing import Any, NamedTuple, cast

import hiredis

from perdure.errors import StoreUnavailable

#: An answer of the server: bytes, int, None, a list of answers, or an error as a value.
Reply = Any
Error = hiredis.ReplyError

#: What a link is assumed to carry at least, in bytes per second, when it is decided how long an answer may take.
SLOWEST = 4_000_000
#: Bytes that are sent as soon as they are there, without waiting for the rest of a request.
CHUNK = 8192

_PENDING = object()


def packed(*words: str | bytes | int) -> bytes:
    """A command as it goes over the wire."""
    return cast(bytes, hiredis.pack_command(words))  # type: ignore[arg-type] # hiredis says: a tuple of one


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Request:
    __slots__ = ("count", "future", "patience", "replies", "sent")

    def __init__(self, future: asyncio.Future[list[Reply]], sent: float) -> None:
        self.future = future
        self.count = 0
        self.sent = sent
        #: Seconds of silence after which no answer is expected any more.
        self.patience = 0.0
        self.replies: list[Reply] = []


class Link(asyncio.Protocol):
    """Made by `connect`; `patience` is how many seconds of silence it takes for the end. Every request that is not answered when the link breaks, or not in time, ends with
    `StoreUnavailable`; then the link is closed for good."""

    def __init__(self, address: Address, patience: float) -> None:
        self.address = address
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_PENDING)
        self._waiting: deque[_Request] = deque()
        self._out: list[bytes] = []
        self._flushing = False
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        #: When the server last said something.
        self._heard = 0.0
        #: Why it is closed; None while it is open.
        self.closed: str | None = None

    @classmethod
    async def connect(cls, address: Address, tls: SSLContext | None, patience: float) -> Link:
        """A connection, on which nothing was said yet. `StoreUnavailable` if there is none in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience):
                _, link = await loop.create_connection(
                    lambda: cls(address, patience), address.host, address.port, ssl=tls
                )
        except TimeoutError:
            raise StoreUnavailable(f"Redis at {address}: no connection within {patience:g} s") from None
        except OSError as error:
            raise StoreUnavailable(f"Redis at {address}: {error}") from error
        return link

    def ask(self, commands: Iterable[bytes]) -> asyncio.Future[list[Reply]]:
        """Sends packed commands, and gives their answers in order. Errors are among them as values. What is made while
        this goes through `commands` is made while the server works on the first ones."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.closed is not None:
            future.set_exception(StoreUnavailable(self.closed))
            return future
        out, waiting = self._out, self._waiting
        idle = not waiting
        request = _Request(future, self._loop.time())
        waiting.append(request)
        size = total = 0
        try:
            for command in commands:
                request.count += 1
                out.append(command)
                size += len(command)
                if size > CHUNK:
                    total += size
                    size = 0
                    self._flush()
        finally:
            # Also for those before one that could not be made: they are sent, and will be answered.
            request.patience = self._patience + (total + size) / SLOWEST
            if request.count == 0:
                waiting.remove(request)
                future.set_result([])
            if idle:
                self._flush()
            elif out and not self._flushing:
                # Others are under way: those of one iteration of the loop go out together.
                self._flushing = True
                self._loop.call_soon(self._flush)
            if self._watch is None and waiting:
                self._watch = self._loop.call_at(request.sent + request.patience, self._look)
        return future

    def abort(self, reason: str) -> None:
        """Closes it at once. What was not sent yet will not be."""
        transport, self._transport = self._transport, None
        self._close(reason)
        if transport is not None:
            raw = transport.get_extra_info("socket")
            if raw is not None:
                # The kernel drops what it has not sent, and says so to the other side.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # uvloop writes at once only what is above this; else when the loop's iteration ends.
        self._transport.set_write_buffer_limits(high=0)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        self._heard = self._loop.time()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _PENDING:
                request = waiting[0]
                replies = request.replies
                replies.append(reply)
                if len(replies) == request.count:
                    waiting.popleft()
                    if not request.future.done():
                        request.future.set_result(replies)
        except (hiredis.HiredisError, IndexError):
            self.abort(f"Redis at {self.address}: what came is no answer")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._close(f"Redis at {self.address}: the connection was lost" + (f" ({error})" if error else ""))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if self._transport is not None:
                self._transport.write(data)

    def _look(self) -> None:
        """Looks whether the server is silent for too long. Not set anew for each request: most are answered at
        once."""
        self._watch = None
        if not self._waiting:
            return
        first = self._waiting[0]
        deadline = max(first.sent, self._heard) + first.patience
        if deadline <= self._loop.time():
            self.abort(f"Redis at {self.address}: no answer in time; whether it was done is not known")
        else:
            self._watch = self._loop.call_at(deadline, self._look)

    def _close(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            if not request.future.done():
                request.future.set_exception(StoreUnavailable(self.closed))
