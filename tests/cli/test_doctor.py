from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.doctor import clocks
from perdure.placement.hashing import partition_of
from perdure.statestore import open_store
from perdure.statestore.contract import (
    COMMITTED,
    DEFAULT_PARTITIONS,
    ActorId,
    Commit,
    Fence,
    TypePartition,
)
from perdure.statestore.sqlite.database import PAGE_SIZE
from tests.cli.conftest import in_thread


def test_a_node_is_asked(perdure: Any, node: Any) -> None:
    result = perdure("doctor", "--server", node.url)
    assert result.status == 1
    assert result.out.splitlines()[:3] == [
        "ok  durability: it is on disk",
        "error  reminders: one is overdue",
        "    start a node",
    ]


def test_a_file_that_nobody_has_open(perdure: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    in_thread(lambda: _make(url))
    found = perdure("doctor", "--store", url, "--json").json
    assert {one["level"] for one in found["findings"]} == {"ok"}


def test_a_file_with_broken_pages(perdure: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    url = f"sqlite:///{path}"
    in_thread(lambda: _make(url, actors=3000))
    assert perdure("doctor", "--store", url).status == 0
    # Those with values alone: the store can still be opened.
    _overwrite(path, lambda page: b"count" in page)
    result = perdure("doctor", "--store", url)
    assert result.status == 1
    (line,) = [line for line in result.out.splitlines() if line.startswith("error  file: ")]
    assert "btree" in line.lower() or "malformed" in line
    assert "restore a backup" in result.out


def test_a_file_that_cannot_even_be_opened(perdure: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    in_thread(lambda: _make(f"sqlite:///{path}", actors=100))
    _overwrite(path, lambda page: not page.startswith(b"SQLite format 3"))
    result = perdure("doctor", "--store", f"sqlite:///{path}")
    assert result.status == 1
    assert f"{path} is not a usable SQLite database: " in result.error
    assert result.error.endswith("keep the file, and restore a backup")


def _overwrite(path: Path, chosen: Callable[[bytes], bool]) -> None:
    """Pages, with what is none."""
    data = bytearray(path.read_bytes())
    starts = [at for at in range(0, len(data), PAGE_SIZE) if chosen(bytes(data[at : at + PAGE_SIZE]))]
    assert starts
    for at in starts:
        data[at : at + 200] = b"\xff" * 200
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello" * 1000, "is not a usable SQLite database"),
        (None, "is another program's database"),
    ],
)
def test_a_file_that_is_no_store(perdure: Any, tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "other.db"
    if content is None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    result = perdure("doctor", "--store", f"sqlite:///{path}")
    assert (result.status, said in result.error) == (1, True)
    assert path.read_bytes() == before


def test_a_file_that_is_not_there(perdure: Any, tmp_path: Path) -> None:
    result = perdure("doctor", "--store", f"sqlite:///{tmp_path}/none.db")
    assert (result.status, result.error) == (1, f"there is no file {tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_holder_serves_no_http(perdure: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    store = open_store(url)
    try:
        result = perdure("doctor", "--store", url)
    finally:
        in_thread(lambda: asyncio.run(store.close()))
    assert result.status == 1
    assert f"is held by process {os.getpid()}, which serves no HTTP: stop it first" in result.error


def _make(url: str, actors: int = 0) -> None:
    async def make() -> None:
        store, fence = open_store(url), Fence(1, 1)
        ids = [ActorId("Counter", f"c{number}") for number in range(actors)]
        places = {id: partition_of(id.id, DEFAULT_PARTITIONS) for id in ids}
        if actors:
            await store.take([TypePartition("Counter", partition) for partition in {*places.values()}], fence)
            commits = [
                Commit(id, place, fence, None, os.urandom(16), {"count": os.urandom(1000)})
                for id, place in places.items()
            ]
            assert set(await store.commit(commits)) == {COMMITTED}
        await store.close()

    asyncio.run(make())


def node(id: str, difference: float | None) -> dict[str, Any]:
    known = {} if difference is None else {"clockDifference": difference}
    return {"id": id, "address": f"{id}:1", "answered": difference is not None, **known}


def test_clocks_that_differ() -> None:
    (found,) = clocks({"nodes": [node("a", 0.0), node("b", 0.2)]})
    assert found["level"] == "ok"
    silent, found = clocks({"nodes": [node("a", 0.0), node("b", 3.5), node("c", None), node("d", -0.5)]})
    assert silent["said"].startswith("c (c:1) gives other nodes no answer")
    assert found["level"] == "error"
    assert "differ by 4.000 s" in found["said"]
    assert "b is ahead" in found["advice"]
