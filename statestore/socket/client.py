"""SocketStore: the store of another process on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from perdure.errors import ConfigurationError, PerdureError, StoreUnavailable
from perdure.statestore.contract import (
    SNAPSHOT_LIMIT,
    ActorId,
    Commit,
    CommitResult,
    Fence,
    InstanceFilter,
    InstanceRow,
    Page,
    Refused,
    Reminder,
    Settings,
    Snapshot,
    Taken,
    TypePartition,
)
from perdure.statestore.socket import messages
from perdure.statestore.socket.frames import FrameProtocol
from perdure.statestore.socket.messages import (
    AcquireLease,
    Commits,
    Count,
    Decoder,
    Due,
    Health,
    Keys,
    Load,
    Owing,
    Query,
    ReadLease,
    Release,
    ReleaseLease,
    Reminders,
    RenewLease,
    Request,
    Row,
    Take,
    Types,
    WriteLease,
)

T = TypeVar("T")

#: Seconds that a server may take to accept the connection, and to say its welcome.
WELCOME = 10.0


class SocketStore:
    """The store that a `StoreServer` serves on `path`: its results and its errors are that store's own.

    There is one connection, for good. When it is lost, so is the process that has the store, and another one may have
    it by now: whatever is outstanding is `StoreUnavailable`, so is everything after it, and `on_lost` tells those who
    should end with it.
    """

    def __init__(self, path: str, *, partitions: int | None = None) -> None:
        """Connects; `ConfigurationError` when nobody serves a store there. Another number of partitions, or another
        release's server, is a `ConfigurationError` of the first call."""
        self.path = path
        self._partitions = partitions
        self._socket: socket.socket | None = _connect(path)
        self._opening: asyncio.Task[_Link] | None = None
        self._link: _Link | None = None
        self._lost: str | None = None
        self._callbacks: list[Callable[[str], None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._leases = count()

    @property
    def shared(self) -> bool:
        return True

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Calls back on the event loop, with the reason for people, when the server is gone; not after `close`."""
        self._callbacks.append(callback)
        if self._lost is not None:
            asyncio.get_running_loop().call_soon(callback, self._lost)

    # --- one actor ---------------------------------------------------------------------------------------------------

    async def load(self, actor: ActorId) -> Snapshot | None:
        return await self.ask(Load(actor), messages.SNAPSHOT)

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = SNAPSHOT_LIMIT
    ) -> Page[tuple[str, bytes]]:
        return await self.ask(Keys(actor, prefix, start, limit), messages.KEYS)

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        return await self.ask(Reminders(actor), messages.REMINDERS)

    async def row(self, actor: ActorId) -> InstanceRow | None:
        return await self.ask(Row(actor), messages.ROW)

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        if not batch:
            return []
        return await self.ask(Commits(list(batch)), messages.RESULTS)

    # --- partitions --------------------------------------------------------------------------------------------------

    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        return await self.ask(Take(list(held), fence), messages.TAKEN)

    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        await self.ask(Release(list(held), fence), messages.NOTHING)

    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        return await self.ask(Owing(list(held), cursor, limit), messages.ACTORS)

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        return await self.ask(Due(list(held), until, cursor, limit), messages.REMINDER_PAGE)

    # --- lists -------------------------------------------------------------------------------------------------------

    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        return await self.ask(Query(where, cursor, limit), messages.ROWS)

    async def types(self) -> Sequence[str]:
        return await self.ask(Types(), messages.TYPES)

    async def count(self, type: str, limit: int) -> Mapping[str, int]:
        """`Counting`; `StoreError` when the store itself cannot."""
        return await self.ask(Count(type, limit), messages.COUNTS)

    # --- the store ---------------------------------------------------------------------------------------------------

    def lease(self, name: str) -> SocketLease:
        return SocketLease(self, next(self._leases), name)

    async def settings(self) -> Settings:
        return (await self._open()).settings

    async def health(self) -> None:
        await self.ask(Health(), messages.NOTHING)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def ask(self, request: Request, answer: Decoder[T]) -> T:
        """For leases, too: the answer to a request. `StoreError` when it cannot be sent, `StoreUnavailable` when the
        connection is lost, and whatever the store raised."""
        if self._closing is not None:
            raise StoreUnavailable("the store is closed")
        link = self._link or await self._open()
        return await link.ask(request, answer)

    # --- the connection ----------------------------------------------------------------------------------------------

    async def _open(self) -> _Link:
        if self._closing is not None:
            raise StoreUnavailable("the store is closed")
        if self._opening is None:
            self._opening = asyncio.create_task(self._connected())
        # One caller that gives up does not end it for the others.
        return await asyncio.shield(self._opening)

    async def _connected(self) -> _Link:
        connected, self._socket = self._socket, None
        assert connected is not None
        link = _Link(self._gone)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=connected)
        try:
            async with asyncio.timeout(WELCOME):
                await link.welcomed
            link.check(self.path, self._partitions)
        except TimeoutError:
            link.close()
            raise StoreUnavailable(f"who listens on {self.path} says nothing") from None
        except PerdureError:
            link.close()
            raise
        self._link = link
        return link

    def _gone(self, reason: str) -> None:
        if self._closing is not None or self._link is None:
            return
        self._lost = f"the process that has the store is gone: {reason}"
        for callback in self._callbacks:
            callback(self._lost)

    async def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._opening is not None:
            with contextlib.suppress(PerdureError):
                await (await self._opening).finish()


class SocketLease:
    """One contender for a lease of the store; the server holds it for this process, until the connection ends."""

    def __init__(self, store: SocketStore, number: int, name: str) -> None:
        self._store = store
        self._number = number
        self._name = name

    async def acquire(self) -> int | None:
        return await self._store.ask(AcquireLease(self._number, self._name), messages.TERM)

    async def read(self) -> bytes | None:
        return await self._store.ask(ReadLease(self._number, self._name), messages.VALUE)

    async def write(self, value: bytes) -> None:
        await self._store.ask(WriteLease(self._number, self._name, value), messages.NOTHING)

    async def renew(self) -> None:
        await self._store.ask(RenewLease(self._number, self._name), messages.NOTHING)

    async def release(self) -> None:
        await self._store.ask(ReleaseLease(self._number, self._name), messages.NOTHING)


class _Link(FrameProtocol):
    """The client's end of the connection."""

    def __init__(self, gone: Callable[[str], None]) -> None:
        super().__init__()
        self._gone = gone
        self._numbers = count(1)
        self._asked: dict[int, tuple[asyncio.Future[Any], Decoder[Any]]] = {}
        self._finished: asyncio.Future[None] | None = None
        self._reason = ""
        self._protocol = 0
        self.settings = Settings()
        #: Done when the server has said its welcome, or is gone.
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def check(self, path: str, partitions: int | None) -> None:
        """After the welcome: that this client and that server can work together."""
        if self.transport is None:
            raise StoreUnavailable(self._reason)
        if self._protocol != messages.PROTOCOL:
            raise ConfigurationError(
                f"the process that serves {path} is of another release (protocol {self._protocol}, here "
                f"{messages.PROTOCOL}): start it again"
            )
        if partitions not in (None, self.settings.partitions):
            raise ConfigurationError(f"{path} has {self.settings.partitions} partitions, not {partitions}")

    def ask(self, request: Request, answer: Decoder[T]) -> asyncio.Future[T]:
        if self.transport is None:
            raise StoreUnavailable(self._reason)
        number = next(self._numbers)
        try:
            frame = messages.encode((number, request))
        except messages.UNSENDABLE as error:
            raise messages.unsendable(error) from error
        self.send(frame)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked[number] = (future, answer)
        return future

    async def finish(self) -> None:
        """Closes when all that was asked is answered."""
        if self._asked:
            self._finished = asyncio.get_running_loop().create_future()
            await self._finished
        self.close()

    def received(self, frame: memoryview) -> None:
        if not self.welcomed.done():
            welcome = messages.decode_welcome(frame)
            self._protocol, self.settings = welcome.protocol, welcome.settings
            self.welcomed.set_result(None)
            return
        number, code, value = messages.decode_answer(frame)
        if number not in self._asked:
            raise ValueError(f"an answer to nothing that was asked ({number})")
        future, answer = self._asked.pop(number)
        if not future.done():
            try:
                if code is None:
                    future.set_result(answer.decode(value))
                else:
                    future.set_exception(messages.raised(code, messages.TEXT.decode(value)))
            except ValueError as error:
                future.set_exception(StoreUnavailable(f"the store's answer cannot be read: {error}"))
        if self._finished is not None and not self._asked and not self._finished.done():
            self._finished.set_result(None)

    def lost(self, reason: str) -> None:
        self._reason = reason
        asked, self._asked = self._asked, {}
        for future, _ in asked.values():
            if not future.done():
                future.set_exception(StoreUnavailable(f"the process that has the store is gone: {reason}"))
        for waiting in (self.welcomed, self._finished):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        self._gone(reason)


def _connect(path: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(WELCOME)
    try:
        connected.connect(path)
    except OSError as error:
        connected.close()
        raise ConfigurationError(f"nobody serves a store on {path}: {error.strerror or error}") from error
    connected.setblocking(False)
    return connected
