"""Whom a command asks: the node given, the node that has a store, or the store itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from perdure.cli.failures import CommandError, usage
from perdure.cli.remote import TIMEOUT, Node

if TYPE_CHECKING:
    from perdure.cli.offline import StoreReader
    from perdure.workflow.record import Record

Json = dict[str, Any]

#: The schemes of stores that several processes may use.
SERVERS = ("redis", "rediss", "redis+cluster", "redis+sentinel", "postgres", "postgresql")


class Reader(Protocol):
    """What can be read from a node and from a store alike. Answers are those of the HTTP API, queries its own."""

    def workflow_type(self) -> str: ...

    def workflow(self, id: str) -> Json: ...

    def workflows(self, query: Json) -> Json: ...

    def history(self, id: str, query: Json) -> Json: ...

    def keys(self, type: str, id: str, query: Json) -> Json: ...

    def value(self, type: str, id: str, key: str) -> Any: ...

    def reminders(self, type: str, id: str) -> Json: ...

    def record(self, id: str) -> bytes: ...

    def cluster(self) -> Json: ...

    def examine(self) -> list[Json]: ...

    def nodes(self) -> list[str]: ...


@contextmanager
def reader(server: str, store: str | None, app_id: str | None = None) -> Iterator[Reader]:
    """For commands that only look."""
    with closing(_reader(server, store, app_id)) as opened:
        yield opened


def _reader(server: str, store: str | None, app_id: str | None) -> Node | StoreReader:
    if store is None:
        return Node(server)
    if not _is_file(store):
        return _opened(store, app_id)
    path = _file(store)
    address = _address_of_holder(path)
    return Node(address) if address is not None else _opened(store, app_id, path)


def _opened(store: str, app_id: str | None = None, name: str | None = None) -> StoreReader:
    from perdure.cli.offline import StoreReader
    from perdure.statestore.urls import shown

    return StoreReader(store, name or shown(store), app_id)


@contextmanager
def node(server: str, store: str | None, timeout: float = TIMEOUT) -> Iterator[Node]:
    """For commands that change something: only a node can."""
    address = server if store is None else _address(store)
    with closing(Node(address, timeout)) as target:
        yield target


class Importer(Protocol):
    """What takes exported instances: a node, or a store that no node works on."""

    def add(self, record: Record, line: bytes, replace: bool) -> None:
        """Durable when it returns. `Refused` or a `PerdureError` when this instance cannot be there; any other
        `CommandError` when no other one could either."""

    def close(self) -> None: ...


@contextmanager
def importer(server: str, store: str | None) -> Iterator[Importer]:
    with closing(_importer(server, store)) as opened:
        yield opened


def _importer(server: str, store: str | None) -> Importer:
    if store is None:
        return Node(server)
    from perdure.statestore.urls import shown

    address = _node_of(store, there=False)
    if address is not None:
        return Node(address)
    from perdure.cli.store_writer import StoreWriter

    return StoreWriter(store, _file(store, there=False) if _is_file(store) else shown(store))


def _address(store: str) -> str:
    """Where a node of this store serves HTTP."""
    from perdure.statestore.urls import shown

    address = _node_of(store)
    if address is None:
        raise CommandError(
            f"no node has {shown(store)} open, and only a node can do this: start one with 'perdure run'"
        )
    return address


def _node_of(store: str, *, there: bool = True) -> str | None:
    """As `_address`; None when no node has it. `there`: a file has to exist."""
    if _is_file(store):
        return _address_of_holder(_file(store, there=there))
    with closing(_opened(store)) as opened:
        nodes = opened.nodes()
    # The table may name nodes that have just died.
    for url in nodes:
        with closing(Node(url)) as target, suppress(CommandError):
            target.request("GET", "/v1.0/healthz")
            return url
    return None


def _is_file(store: str) -> bool:
    return urlsplit(store).scheme not in SERVERS


def _file(store: str, *, there: bool = True) -> str:
    parts = urlsplit(store)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise usage(
            f"--store {store!r} cannot be read from here; write sqlite:///file.db, redis://host, "
            "postgresql://host/database, or use --server"
        )
    path = unquote(parts.path[1:])
    if there and not Path(path).is_file():
        raise CommandError(f"there is no file {path}")
    return path


def _address_of_holder(path: str) -> str | None:
    """Where the node that has the file serves HTTP; None when nobody has it."""
    from perdure.statestore.sqlite import holder

    found = holder(path)
    if found is None:
        return None
    if found.address is None:
        raise CommandError(
            f"{path} is held by process {found.pid or '(unknown)'}, which serves no HTTP: stop it first"
        )
    return found.address
