"""Gatherer: group commit over all clients of one store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from perdure.errors import PerdureError, StoreError, StoreUnavailable
from perdure.statestore.committer import BATCH_BYTES, BATCH_COMMITS
from perdure.statestore.contract import ActorId, Commit, CommitResult, QuickStore, StateStore

#: Called once with the results of a client's batch, or with what the store raised for it.
Answer = Callable[[Sequence[CommitResult] | Exception], None]


class _Entry(NamedTuple):
    commits: Sequence[Commit]
    actors: set[ActorId]
    size: int
    answer: Answer


class Gatherer:
    """While one batch is being written, the batches that clients send wait, and then form the next one.

    A client gets what the store said of its own commits, and tries again itself if it wants to. What a client sent
    together is never divided; a batch that the store refuses is halved between clients until the one at fault is
    alone. No actor is in a batch twice, though its old owner and its new one may send at the same time: the later
    has to wait for the next.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._quick = store if isinstance(store, QuickStore) else None
        self._waiting: deque[_Entry] = deque()
        self._running = False
        self._task: asyncio.Task[None] | None = None

    def submit(self, commits: Sequence[Commit], size: int, answer: Answer) -> None:
        """Has a client's batch written; `size` is that of its values in bytes, about."""
        actors = {commit.actor for commit in commits}
        if len(actors) != len(commits):
            # Among the commits of others nobody could say what became of it.
            answer(StoreError("a batch has an actor twice"))
            return
        self._waiting.append(_Entry(commits, actors, size, answer))
        if not self._running:
            self._running = True
            # In the loop's next iteration: all that arrives in this one is in the first batch.
            asyncio.get_running_loop().call_soon(self._begin)

    async def drain(self) -> None:
        """Returns when nothing waits and nothing is being written."""
        while self._running:
            if self._task is None:
                await asyncio.sleep(0)
            else:
                await asyncio.wait((self._task,))

    def _begin(self) -> None:
        batch = self._batch()
        if self._quick is None or self._waiting or not self._write_now(self._quick, batch):
            self._task = asyncio.create_task(self._run(batch), name="store-gatherer")

    def _write_now(self, store: QuickStore, batch: Sequence[_Entry]) -> bool:
        try:
            results = store.commit_now(_commits(batch))
        except Exception:  # noqa: BLE001 - the task writes the same again, and knows what to do about it
            results = None
        if results is None:
            return False
        self._running = False
        _share(batch, results)
        return True

    async def _run(self, batch: Sequence[_Entry]) -> None:
        try:
            while batch:
                await self._write(batch)
                batch = self._batch()
        finally:
            self._running, self._task = False, None

    def _batch(self) -> Sequence[_Entry]:
        waiting = self._waiting
        batch: list[_Entry] = []
        later: list[_Entry] = []
        actors: set[ActorId] = set()
        commits = size = 0
        while waiting:
            entry = waiting[0]
            if batch and (commits + len(entry.commits) > BATCH_COMMITS or size + entry.size > BATCH_BYTES):
                break
            waiting.popleft()
            free = actors.isdisjoint(entry.actors)
            # Those of one that has to wait too: an actor's commits are written in the order in which they came.
            actors |= entry.actors
            if not free:
                later.append(entry)
                continue
            batch.append(entry)
            commits += len(entry.commits)
            size += entry.size
        waiting.extendleft(reversed(later))
        return batch

    async def _write(self, batch: Sequence[_Entry]) -> None:
        """Every entry was answered when this returns."""
        try:
            results = await self._store.commit(_commits(batch))
            if len(results) != sum(len(entry.commits) for entry in batch):
                raise StoreUnavailable(f"the store gave {len(results)} results for another number of commits")
        except Exception as error:  # noqa: BLE001 - it is the client's to judge
            refused = isinstance(error, PerdureError) and not isinstance(error, StoreUnavailable)
            if refused and len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            for entry in batch:
                entry.answer(error)
        else:
            _share(batch, results)


def _commits(batch: Sequence[_Entry]) -> Sequence[Commit]:
    if len(batch) == 1:
        return batch[0].commits
    return [commit for entry in batch for commit in entry.commits]


def _share(batch: Sequence[_Entry], results: Sequence[CommitResult]) -> None:
    at = 0
    for entry in batch:
        entry.answer(results[at : at + len(entry.commits)])
        at += len(entry.commits)
