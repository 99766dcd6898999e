"""`open_store`: a store from its URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from perdure.errors import ConfigurationError
from perdure.statestore.contract import StateStore
from perdure.statestore.memory import MemoryStore

_named: dict[str, MemoryStore] = {}
#: Options that hold a password, or a URL with one.
_SECRET = re.compile(r"([?&](?:[^=&]*password|direct)=)[^&#]*", re.IGNORECASE)


def open_store(url: str, *, partitions: int | None = None) -> StateStore:
    """Opens the store that a URL names, and makes it if it is not there yet, with so many partitions.

    `memory://` (its own), `memory://name` (one per process), `sqlite:///file.db` (relative), `sqlite:////var/file.db`
    (absolute), `unix:///folder/store.sock` (the store of another process, see `perdure.statestore.socket`). SQLite
    takes `?synchronous=normal`, by which the last commits before a power cut may be lost. `redis://host`,
    `rediss://host` (TLS), `redis+sentinel://hosts/service`, `redis+cluster://hosts`: see `perdure.statestore.redis.url`.
    `ConfigurationError` when there is no such store, or it has another number of partitions; `StoreHeld` when
    another process has it.
    """
    parts = urlsplit(url)
    opener = OPENERS.get(parts.scheme)
    if opener is None:
        known = ", ".join(f"{scheme}://" for scheme in OPENERS)
        raise ConfigurationError(f"{_shown(url)!r} is not the URL of a store; known are {known}")
    return opener(parts, partitions)


def shown(url: str) -> str:
    """A store's URL as people and logs may see it: without passwords, also those of options."""
    url = _SECRET.sub(r"\1***", url)
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()


def _open_memory(url: SplitResult, partitions: int | None) -> StateStore:
    _options(url)
    name = url.netloc + url.path
    if not name:
        return MemoryStore(partitions=partitions)
    store = _named.get(name)
    if store is None:
        store = _named[name] = MemoryStore(partitions=partitions, shared=True)
    elif partitions not in (None, store.partitions):
        raise ConfigurationError(f"memory://{name} has {store.partitions} partitions, not {partitions}")
    return store


def _open_sqlite(url: SplitResult, partitions: int | None) -> StateStore:
    # Late, so that a system without fcntl can use the other stores.
    from perdure.statestore.sqlite.store import SqliteStore

    if url.netloc:
        raise ConfigurationError(
            f"sqlite://{url.netloc}… names a host; write sqlite:///file.db, or sqlite:////folder/file.db"
        )
    path = unquote(url.path[1:])
    if not path:
        raise ConfigurationError("sqlite:/// names no file; write sqlite:///file.db")
    options = _options(url, "synchronous")
    return SqliteStore(path, partitions=partitions, synchronous=options.get("synchronous", "full"))


def _open_socket(url: SplitResult, partitions: int | None) -> StateStore:
    from perdure.statestore.socket.client import SocketStore

    _options(url)
    path = unquote(url.path)
    if url.netloc or not path:
        raise ConfigurationError("write unix:///folder/store.sock")
    return SocketStore(path, partitions=partitions)


def _open_postgres(url: SplitResult, partitions: int | None) -> StateStore:
    try:
        from perdure.statestore.postgres import PostgresStore
        from perdure.statestore.postgres.options import parse
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ConfigurationError("postgresql:// needs asyncpg: pip install 'perdure[postgres]'") from None
    return PostgresStore(parse(url), partitions=partitions)


def _shown(url: str) -> str:
    """A URL for people: what stands before an @ may be a password."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2] if "@" in rest else url


def _open_redis(url: SplitResult, partitions: int | None) -> StateStore:
    try:
        from perdure.statestore.redis.url import OPTIONS, open_redis
    except ModuleNotFoundError as error:
        if error.name != "hiredis":
            raise
        raise ConfigurationError(f"{url.scheme}:// needs hiredis: pip install 'perdure[redis]'") from None
    return open_redis(url, partitions, _options(url, *OPTIONS))


def _options(url: SplitResult, *known: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
    for name in options:
        if name not in known:
            raise ConfigurationError(f"a {url.scheme} store has no option {name!r}")
    return options


#: What opens the URLs of each scheme.
OPENERS: dict[str, Callable[[SplitResult, int | None], StateStore]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "postgres": _open_postgres,
    "postgresql": _open_postgres,
    "redis": _open_redis,
    "rediss": _open_redis,
    "redis+cluster": _open_redis,
    "redis+sentinel": _open_redis,
    "unix": _open_socket,
}
