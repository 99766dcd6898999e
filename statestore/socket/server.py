"""StoreServer: serves a store of this process to others on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from pathlib import Path

from perdure.errors import ConfigurationError
from perdure.logs import fields
from perdure.statestore.contract import RollbackAware, StateStore
from perdure.statestore.socket import messages
from perdure.statestore.socket.gather import Gatherer
from perdure.statestore.socket.messages import Welcome
from perdure.statestore.socket.session import Session

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
        self._clients: set[Session] = set()
        self._finishing: set[asyncio.Task[None]] = set()
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
            self._listener = await asyncio.get_running_loop().create_unix_server(self._session, sock=listener)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Takes no more requests, finishes the commits in hand, closes all connections and gives their leases back.
        Idempotent."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        self._path.unlink(missing_ok=True)
        for client in list(self._clients):
            await client.stop()
        await self._gatherer.drain()
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

    # --- clients -----------------------------------------------------------------------------------------------------

    def _session(self) -> Session:
        return Session(self._store, self._gatherer, self._welcome, joined=self._clients.add, left=self._left)

    def _left(self, client: Session, reason: str) -> None:
        logger.debug("store client left", extra=fields(reason=reason))
        task = asyncio.get_running_loop().create_task(self._finish(client))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish(self, client: Session) -> None:
        try:
            await client.finish()
        finally:
            self._clients.discard(client)
            self._alone.set()

    async def _left_alone(self) -> None:
        while self._clients:
            self._alone.clear()
            await self._alone.wait()


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
