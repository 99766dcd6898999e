"""Group commit: what goes together, and what happens when the store fails in each way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from perdure.clock import LoopClock
from perdure.errors import StoreError, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    Commit,
    CommitResult,
    Committer,
    Conflict,
    MemoryStore,
    Rejected,
)
from perdure.statestore.committer import BATCH_BYTES, BATCH_COMMITS, FULL, RETRY_FIRST, RETRY_MOST
from perdure.testing.store_contract import ALL, FENCE, actor_id, put


class FaultyStore(MemoryStore):
    """Fails as told: `faults` are taken one per call, then `poison` actors refuse any batch that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[ActorId]] = []
        self.faults: list[tuple[Exception, bool]] = []
        self.poison: set[ActorId] = set()
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        self.batches.append([commit.actor for commit in batch])
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.faults:
            error, written = self.faults.pop(0)
            if written:
                await super().commit(batch)
            raise error
        if any(commit.actor in self.poison for commit in batch):
            raise StoreError("poison")
        return await super().commit(batch)


class FastClock(LoopClock):
    """Waits nothing, and writes down how long it should have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []
        loop = asyncio.get_running_loop()

        def call_later(delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
            self.delays.append(delay)
            return loop.call_later(0, callback, *args)

        self.call_later = call_later


class Bench:
    def __init__(self) -> None:
        self.store = FaultyStore()
        self.clock = FastClock()
        self.committer = Committer(self.store, self.clock)
        self.results: dict[str, CommitResult] = {}

    def submit(self, id: str, value: bytes = b"", **rest: Any) -> None:
        commit = put(actor_id(id), rest.pop("expected", None), {"k": value}, **rest)
        self.committer.submit(commit, lambda result: self.results.__setitem__(id, result))

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.store.batches]


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.store.take(ALL, FENCE)
    return bench


async def test_one_iteration_is_one_batch(bench: Bench) -> None:
    """Commits submitted together are written together, in order."""
    for number in range(5):
        bench.submit(str(number))
    assert bench.store.batches == []
    assert bench.committer.pending == 5
    await bench.committer.drain()
    assert bench.store.batches == [[actor_id(str(number)) for number in range(5)]]
    assert list(bench.results.values()) == [COMMITTED] * 5
    assert bench.committer.pending == 0


async def test_what_comes_meanwhile_is_the_next_batch(bench: Bench) -> None:
    """While a batch is being written the rest gathers."""
    bench.store.gate = asyncio.Event()
    bench.submit("first")
    await bench.store.asked.wait()
    for number in range(3):
        bench.submit(str(number))
        await asyncio.sleep(0)
    bench.store.gate.set()
    await bench.committer.drain()
    assert bench.sizes() == [1, 3]


async def test_a_commit_from_a_callback(bench: Bench) -> None:
    """`done` may submit the same actor's next commit, and drain waits for that too."""
    first = put(actor_id("1"), None, {"k": b"1"})
    second = put(actor_id("1"), first.version, {"k": b"2"})
    results: list[CommitResult] = []

    def next_one(result: CommitResult) -> None:
        results.append(result)
        bench.committer.submit(second, results.append)

    bench.committer.submit(first, next_one)
    await bench.committer.drain()
    assert results == [COMMITTED, COMMITTED]


async def test_limits_of_a_batch(bench: Bench) -> None:
    """500 commits, or 512 KB; a large commit goes alone, after small ones."""
    bench.submit("large", bytes(BATCH_BYTES))
    for number in range(BATCH_COMMITS + 1):
        bench.submit(str(number))
    for number in range(3):
        bench.submit(f"middle {number}", bytes(BATCH_BYTES // 2))
    await bench.committer.drain()
    assert bench.sizes() == [BATCH_COMMITS, 1, 3, 1]
    assert bench.store.batches[1] == [actor_id("large")]
    assert set(bench.results.values()) == {COMMITTED}


async def test_two_commits_of_one_actor(bench: Bench) -> None:
    """An activation has at most one outstanding."""
    bench.submit("1")
    with pytest.raises(AssertionError, match="outstanding"):
        bench.submit("1")
    await bench.committer.drain()


async def test_results_are_passed_on(bench: Bench) -> None:
    """Each commit hears its own."""
    bench.submit("good")
    bench.submit("late", expected=b"x" * 16)
    await bench.committer.drain()
    assert bench.results == {"good": COMMITTED, "late": Conflict(None)}


@pytest.mark.parametrize("poison", [[0], [7], [3, 4], [0, 9], list(range(10))])
async def test_only_the_culprit_is_rejected(bench: Bench, poison: list[int]) -> None:
    """A refused batch is halved until who is at fault is alone."""
    bench.store.poison = {actor_id(str(number)) for number in poison}
    for number in range(10):
        bench.submit(str(number))
    await bench.committer.drain()
    for number in range(10):
        assert bench.results[str(number)] == (Rejected("poison") if number in poison else COMMITTED)


@pytest.mark.parametrize("written", [False, True], ids=["lost", "answer lost"])
async def test_no_answer(bench: Bench, written: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The same commits are tried again until there is an answer; trouble is visible meanwhile, and logged twice."""
    error = StoreUnavailable("disk full")
    bench.store.faults = [(error, written), *[(error, False)] * 11]
    seen: list[tuple[str | None, int]] = []
    call_later = bench.clock.call_later

    def watching(delay: float, callback: Any, *args: Any) -> Any:
        assert bench.committer.trouble_since is not None
        seen.append((bench.committer.trouble, bench.committer.attempts))
        return call_later(delay, callback, *args)

    bench.clock.call_later = watching  # type: ignore[method-assign,assignment]
    with caplog.at_level(logging.WARNING, "perdure.statestore"):
        bench.submit("1")
        bench.submit("2")
        await bench.committer.drain()
    assert bench.results == {"1": COMMITTED, "2": COMMITTED}
    assert bench.store.batches == [[actor_id("1"), actor_id("2")]] * 13
    assert seen == [("disk full", number) for number in range(1, 13)]
    assert (bench.committer.trouble, bench.committer.trouble_since, bench.committer.attempts) == (
        None,
        None,
        0,
    )
    assert [record.message for record in caplog.records] == ["store unavailable", "store available again"]
    for number, delay in enumerate(bench.clock.delays):
        most = min(RETRY_MOST, RETRY_FIRST * 2**number)
        assert most / 2 <= delay <= most


async def test_a_fault_of_the_store_itself(bench: Bench) -> None:
    """An exception that no store should raise leaves the outcome unknown: tried again."""
    bench.store.faults = [(RuntimeError("bug"), True)]
    bench.submit("1")
    await bench.committer.drain()
    assert bench.results == {"1": COMMITTED}


async def test_no_answer_while_halving(bench: Bench) -> None:
    """Both kinds of failure at once."""
    bench.store.poison = {actor_id("2")}
    bench.store.faults = [(StoreError("once"), False), (StoreUnavailable("gone"), True)]
    for number in range(4):
        bench.submit(str(number))
    await bench.committer.drain()
    assert bench.results.pop("2") == Rejected("poison")
    assert set(bench.results.values()) == {COMMITTED}


async def test_a_callback_that_raises(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and hurts nobody else."""

    def broken(result: CommitResult) -> None:
        raise ValueError("mine")

    bench.committer.submit(put(actor_id("broken"), None, {}), broken)
    bench.submit("2")
    await bench.committer.drain()
    assert bench.results == {"2": COMMITTED}
    assert [record.message for record in caplog.records] == ["commit callback failed"]


async def test_full(bench: Bench) -> None:
    """Back-pressure shows when the queue is long."""
    for number in range(FULL):
        assert not bench.committer.full
        bench.submit(str(number))
    assert bench.committer.full
    await bench.committer.drain()
    assert not bench.committer.full
