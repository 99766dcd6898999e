"""The stores that are measured, each with its own server or file, which go when the measurement ends."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: What a report calls each kind of store.
TITLES = {
    "sqlite": "Perdure, SQLite FULL",
    "sqlite-nodes": "Perdure, SQLite FULL, as --nodes N",
    "redis-always": "Perdure, Redis appendfsync always",
    "redis-everysec": "Perdure, Redis appendfsync everysec",
    "postgres": "Perdure, PostgreSQL synchronous",
    "memory": "Perdure, memory (not durable)",
}
#: Those that several processes may use.
SHARED = ("sqlite-nodes", "redis-always", "redis-everysec", "postgres")


@contextlib.contextmanager
def store_url(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store, whose file, if it is one, is in `folder`."""
    if kind == "memory":
        yield "memory://"
    elif kind == "sqlite":
        yield f"sqlite:///{folder}/benchmark.db"
    elif kind == "sqlite-nodes":
        from benchmarks.store_process import store_process

        with store_process(folder) as url:
            yield url
    else:
        with _server(kind) as url:
            yield url


@contextlib.contextmanager
def _server(kind: str) -> Iterator[str]:
    # Those of the tests: their files are where TMPDIR says.
    if kind == "postgres":
        from tests.servers.postgres import postgres_server

        with postgres_server() as postgres:
            yield postgres.url()
    else:
        from tests.servers.redis import redis_server

        with redis_server(appendonly="yes", appendfsync=kind.removeprefix("redis-"), save="") as redis:
            yield redis.url()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder on the file system of the working directory: /tmp may be kept in memory, where nothing is durable."""
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as name:
        yield Path(name)
