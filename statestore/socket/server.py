"""StoreServer: serves a store of this process to others on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Coroutine
from functools import partial
from pathlib import Path

from perdure.errors import ConfigurationError, StoreError, StoreUnavailable
from perdure.logs import fields
from perdure.statestore.contract import Counting, RollbackAware, StateStore
from perdure.statestore.socket import messages
from perdure.statestore.socket.frames import FrameProtocol
from perdure.statestore.socket.gather import Gatherer
from perdure.statestore.socket.lease import Leases
from perdure.statestore.socket.messages import (
    Commits,
    Count,
    Due,
    Health,
    Keys,
    Load,
    Owing,
    Query,
    Release,
    Reminders,
    Request,
    Row,
    Take,
    Types,
    Welcome,
)

logger = logging.getLogger("perdure.statestore")

#: Connections that wait to be accepted.
BACKLOG = 64
#: Seconds that clients have to read their last answers.
FAREWELL = 1.0


class StoreServer:
    """Serves `store` on the Unix socket `path` from `start` to `stop`, to whoever may enter the folder that it is in:
    its user alone. The store stays its owner's, who closes it after `stop`.

    The commits of all clients that are ready while the last batch is being written form the next one (`Gatherer`).
    A client's leases go with its connection.
    """

    def __init__(self, store: StateStore, path: str | Path) -> None:
        if isinstance(store, RollbackAware):
            raise ConfigurationError(
                f"{type(store).__name__} is for many processes as it is: it needs no server"
            )
        self._store = store
        self._path = Path(path)
        self._gatherer = Gatherer(store)
        self._listener: asyncio.Server | None = None
        self._stopping = False
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Event()
        self._welcome = b""

    @property
    def path(self) -> Path:
        return self._path

    @property
    def url(self) -> str:
        """What `open_store` of another process takes."""
        return f"unix://{self._path.resolve()}"

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    async def start(self) -> None:
        """Listens. `ConfigurationError` when the path is not fit for it, or another server is there."""
        self._welcome = messages.encode(Welcome(messages.PROTOCOL, await self._store.settings()))
        listener = _listen(self._path)
        try:
            self._listener = await asyncio.get_running_loop().create_unix_server(
                partial(_Client, self), sock=listener
            )
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Takes no more requests, finishes the commits in hand, closes all connections and gives their leases back.
        Idempotent."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._stopping = True
        listener.close()
        self._path.unlink(missing_ok=True)
        await self._gatherer.drain()
        await self._finish_tasks()
        for client in list(self._clients):
            client.close()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._left_alone()
        except TimeoutError:
            # Stopped, or stuck: they do not even read.
            for client in list(self._clients):
                client.abort()
            await self._left_alone()
        await self._finish_tasks()

    async def _left_alone(self) -> None:
        while self._clients:
            self._alone.clear()
            await self._alone.wait()

    async def _finish_tasks(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- what clients ask --------------------------------------------------------------------------------------------

    def _joined(self, client: _Client) -> None:
        self._clients.add(client)
        client.send(self._welcome)

    def _left(self, client: _Client, leases: Leases, reason: str) -> None:
        self._clients.discard(client)
        self._alone.set()
        logger.debug("store client left", extra=fields(reason=reason))
        self._spawn(leases.close())

    def _asked(self, client: _Client, leases: Leases, frame: memoryview) -> None:
        number, request = messages.decode_request(frame)
        if self._stopping:
            client.answer(number, StoreUnavailable("the process that has the store is stopping"))
        elif isinstance(request, Commits):
            self._gatherer.submit(request.batch, len(frame), partial(client.answer, number))
        else:
            self._spawn(self._serve(client, leases, number, request))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: _Client, leases: Leases, number: int, request: Request) -> None:
        result: object
        try:
            result = await self._result(leases, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked has to hear of it
            result = error
        client.answer(number, result)

    async def _result(self, leases: Leases, request: Request) -> object:
        store = self._store
        match request:
            case Load(actor):
                return await store.load(actor)
            case Keys(actor, prefix, start, limit):
                return await store.keys(actor, prefix, start, limit)
            case Take(held, fence):
                return await store.take(held, fence)
            case Release(held, fence):
                return await store.release(held, fence)
            case Owing(held, cursor, limit):
                return await store.owing(held, cursor, limit)
            case Due(held, until, cursor, limit):
                return await store.due(held, until, cursor, limit)
            case Reminders(actor):
                return await store.reminders(actor)
            case Row(actor):
                return await store.row(actor)
            case Query(where, cursor, limit):
                return await store.query(where, cursor, limit)
            case Types():
                return await store.types()
            case Count(kind, limit):
                if not isinstance(store, Counting):
                    raise StoreError(f"{type(store).__name__} cannot count")
                return await store.count(kind, limit)
            case Health():
                return await store.health()
            case Commits():
                raise AssertionError("commits are gathered")
            case _:
                return await leases.ask(request)


class _Client(FrameProtocol):
    """The server's end of one connection."""

    def __init__(self, server: StoreServer) -> None:
        super().__init__()
        self._server = server
        self._leases = Leases(server._store)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server._joined(self)

    def received(self, frame: memoryview) -> None:
        self._server._asked(self, self._leases, frame)

    def lost(self, reason: str) -> None:
        self._server._left(self, self._leases, reason)

    def answer(self, number: int, result: object) -> None:
        """What the store gave, or the exception that it raised."""
        if isinstance(result, Exception):
            self.send(messages.failure(number, result))
            return
        try:
            self.send(messages.encode((number, None, result)))
        except messages.UNSENDABLE as error:
            self.send(messages.failure(number, messages.unsendable(error)))
        except StoreError as error:
            self.send(messages.failure(number, error))

    # A client that does not read its answers is not read from either: what it asks must not pile up here.

    def pause_writing(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()


def _listen(path: Path) -> socket.socket:
    folder = path.parent
    try:
        about = folder.stat()
    except OSError as error:
        raise ConfigurationError(
            f"the folder {folder} cannot be used for a socket: {error.strerror}"
        ) from error
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise ConfigurationError(
            f"the folder {folder} is open to others: whoever can connect can change the store"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(listener, path)
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {path}: {error.strerror or error}") from error
    return listener


def _bind(listener: socket.socket, path: Path) -> None:
    if path.is_socket() and not _answers(path):
        # Of a server that was killed.
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    listener.bind(str(path))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            # It may be busy.
            return True
        return True
