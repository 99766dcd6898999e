"""When the event loop may wait for the disk itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.statestore.contract import COMMITTED, ActorId, Commit, Fence
from perdure.statestore.sqlite.pace import LIMIT, PAUSE, Pace
from perdure.statestore.sqlite.store import SqliteStore


def test_a_fast_disk_is_waited_for() -> None:
    pace = Pace()
    for at in range(1000):
        assert pace.fast(at)
        pace.took(at, at + LIMIT / 2)


def test_a_slow_disk_is_left_to_threads_for_a_while_and_then_tried_again() -> None:
    pace = Pace()
    at = 0.0
    while pace.fast(at):
        assert at < 1
        pace.took(at, at + 5 * LIMIT)
        at += 5 * LIMIT
    assert not pace.fast(at + PAUSE / 2)
    assert pace.fast(at + PAUSE)


def test_one_slow_answer_among_many_does_not_count() -> None:
    pace = Pace()
    for at in range(100):
        pace.took(at, at + LIMIT / 10)
    pace.took(100, 100 + 500 * LIMIT)
    assert pace.fast(102)


@pytest.mark.parametrize("slow", [False, True])
async def test_a_load_answers_the_same_on_either_thread(tmp_path: Path, slow: bool) -> None:
    store = SqliteStore(str(tmp_path / "p.db"))
    actor, fence = ActorId("counter", "1"), Fence(1, 1)
    try:
        if slow:
            # Far in the future: no look at the index is tried in this test.
            while store._quick_reads.fast(1e12):
                store._quick_reads.took(1e12, 1e12 + 100 * LIMIT)
        # Before the type is known, when only others are, when it is there, and when it has gone again.
        assert await store.load(actor) is None
        await store.take([("counter", 0)], fence)
        other = Commit(
            actor=ActorId("counter", "2"),
            partition=0,
            fence=fence,
            version=b"1",
            expected=None,
            put={"a": b""},
        )
        assert await store.commit([other]) == [COMMITTED]
        assert await store.load(actor) is None
        commit = Commit(
            actor=actor, partition=0, fence=fence, version=b"1", expected=None, put={"metadata": b"m"}
        )
        assert await store.commit([commit]) == [COMMITTED]
        loaded = await store.load(actor)
        assert loaded is not None
        assert (loaded.version, loaded.values) == (b"1", {"metadata": b"m"})
        removal = Commit(
            actor=actor, partition=0, fence=fence, version=b"2", expected=b"1", put={}, reset=True
        )
        assert await store.commit([removal]) == [COMMITTED]
        assert await store.load(actor) is None
    finally:
        await store.close()
