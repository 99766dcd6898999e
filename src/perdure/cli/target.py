"""Whom a command asks: the node given, the node that has a store, or the store itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from perdure.cli.failures import CommandError, usage
from perdure.cli.remote import Node

if TYPE_CHECKING:
    from perdure.cli.offline import StoreReader

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
def node(server: str, store: str | None) -> Iterator[Node]:
    """For commands that change something: only a node can."""
    address = server if store is None else _address(store)
    with closing(Node(address)) as target:
        yield target


def _address(store: str) -> str:
    """Where a node of this store serves HTTP."""
    from perdure.statestore.urls import shown

    nobody = CommandError(
        f"no node has {shown(store)} open, and only a node can do this: start one with 'perdure run'"
    )
    if _is_file(store):
        address = _address_of_holder(_file(store))
        if address is None:
            raise nobody
        return address
    with closing(_opened(store)) as opened:
        nodes = opened.nodes()
    # The table may name nodes that have just died.
    for url in nodes:
        with closing(Node(url)) as target, suppress(CommandError):
            target.request("GET", "/v1.0/healthz")
            return url
    raise nobody


def _is_file(store: str) -> bool:
    return urlsplit(store).scheme not in SERVERS


def _file(store: str) -> str:
    parts = urlsplit(store)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise usage(
            f"--store {store!r} cannot be read from here; write sqlite:///file.db, redis://host, "
            "postgresql://host/database, or use --server"
        )
    path = unquote(parts.path[1:])
    if not Path(path).is_file():
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
