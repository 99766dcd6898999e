"""Whom a command asks: the node given, the node that has a store, or the store itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from perdure.cli.failures import CommandError, usage
from perdure.cli.remote import Node

if TYPE_CHECKING:
    from perdure.cli.offline import StoreReader

Json = dict[str, Any]


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


@contextmanager
def reader(server: str, store: str | None, app_id: str | None = None) -> Iterator[Reader]:
    """For commands that only look."""
    with closing(_reader(server, store, app_id)) as opened:
        yield opened


def _reader(server: str, store: str | None, app_id: str | None) -> Node | StoreReader:
    if store is None:
        return Node(server)
    path = _file(store)
    address = _address_of_holder(path)
    if address is not None:
        return Node(address)
    from perdure.cli.offline import StoreReader

    return StoreReader(store, path, app_id)


@contextmanager
def node(server: str, store: str | None) -> Iterator[Node]:
    """For commands that change something: only a node can."""
    address = server if store is None else _address_of_holder(_file(store))
    if address is None:
        raise CommandError(
            f"no node has {store} open, and only a node can do this: start one with 'perdure run'"
        )
    with closing(Node(address)) as target:
        yield target


def _file(store: str) -> str:
    parts = urlsplit(store)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise usage(f"--store {store!r} cannot be read from here; write sqlite:///file.db, or use --server")
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
