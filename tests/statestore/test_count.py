"""Counts of index rows: right, bounded, and without reading what is in them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from perdure.statestore import MemoryStore, StateStore, open_store
from perdure.statestore.contract import Counting
from perdure.statestore.sqlite.reader import READS
from perdure.testing.store_contract import ALL, FENCE, TYPE, actor_id, put, row, write


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store: StateStore = (
        MemoryStore(partitions=64) if request.param == "memory" else open_store(url, partitions=64)
    )
    await store.take(ALL, FENCE)
    yield store
    await store.close()


async def test_counts_by_status_up_to_a_limit(store: StateStore) -> None:
    assert isinstance(store, Counting)
    assert await store.count(TYPE, 10) == {}
    for number in range(7):
        actor, status = actor_id(str(number)), "failed" if number == 0 else "running"
        await write(store, put(actor, None, {}, row=row(actor, number, status)))
    assert await store.count(TYPE, 10) == {"running": 6, "failed": 1}
    assert await store.count(TYPE, 4) == {"running": 4, "failed": 1}
    assert await store.count("another type", 4) == {}


async def test_a_row_that_changes_or_goes(store: StateStore) -> None:
    assert isinstance(store, Counting)
    actor = actor_id()
    first = put(actor, None, {}, row=row(actor, 1))
    second = put(actor, first.version, {}, row=row(actor, 1, "completed"))
    third = put(actor, second.version, {}, delete_row=True)
    for commit, found in ((first, {"running": 1}), (second, {"completed": 1}), (third, {})):
        await write(store, commit)
        assert await store.count(TYPE, 10) == found


async def test_sqlite_counts_in_the_index_alone(tmp_path: Path) -> None:
    """However large the rows are."""
    await open_store(f"sqlite:///{tmp_path / 'store.db'}").close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN " + READS["count"].text, {"type": 1, "status": "running", "limit": 5}
        ).fetchall()
    assert any("COVERING INDEX instances_by_status" in step[-1] for step in plan), plan
