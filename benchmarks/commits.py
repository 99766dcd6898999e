"""Counts the commits that a node makes, and the batches in which its store writes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from perdure.statestore.contract import Commit, CommitResult
from perdure.statestore.memory import MemoryStore
from perdure.statestore.postgres.store import PostgresStore
from perdure.statestore.redis.store import RedisStore
from perdure.statestore.socket import SocketStore
from perdure.statestore.sqlite.store import SqliteStore


class CommitCount:
    """Commits of actors (what the budget counts), and calls of the store (what reaches the disk)."""

    commits = 0
    batches = 0

    def reset(self) -> None:
        self.commits = self.batches = 0

    def add(self, size: int) -> None:
        self.commits += size
        self.batches += 1


@contextlib.contextmanager
def counting() -> Iterator[CommitCount]:
    """Counts for all stores of this process until the block ends."""
    count = CommitCount()
    with contextlib.ExitStack() as stack:
        for store in (MemoryStore, SqliteStore, SocketStore, RedisStore, PostgresStore):
            stack.enter_context(_counted(store, count))
        yield count


@contextlib.contextmanager
def _counted(store: Any, count: CommitCount) -> Iterator[None]:
    commit, at_once = store.commit, getattr(store, "commit_now", None)

    async def counted(self: Any, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        count.add(len(batch))
        return await commit(self, batch)  # type: ignore[no-any-return]

    def counted_at_once(self: Any, batch: Sequence[Commit]) -> Sequence[CommitResult] | None:
        assert at_once is not None
        results: Sequence[CommitResult] | None = at_once(self, batch)
        if results is not None:
            count.add(len(batch))
        return results

    store.commit = counted
    if at_once is not None:
        store.commit_now = counted_at_once
    try:
        yield
    finally:
        store.commit = commit
        if at_once is not None:
            store.commit_now = at_once
