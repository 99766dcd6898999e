"""Committer: gathers the commits of one node into batches, and sees each through to a result."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from perdure.clock import Clock
from perdure.errors import PerdureError, StoreUnavailable
from perdure.logs import fields
from perdure.metrics import Counts, Distribution
from perdure.statestore.contract import ActorId, Commit, CommitResult, QuickStore, Rejected, StateStore

logger = logging.getLogger("perdure.statestore")

#: Commits in a batch.
BATCH_COMMITS = 500
#: Bytes of values in a batch. A commit of this size or more goes alone.
BATCH_BYTES = 512 * 1024
#: Commits outstanding at which `full` asks those who submit to slow down.
FULL = 10_000
#: Seconds before a batch without an answer is tried again: the first and the longest wait.
RETRY_FIRST = 0.05
RETRY_MOST = 5.0
#: Upper ends of buckets: of the seconds that a batch takes, and of the commits in it.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)

Done = Callable[[CommitResult], None]


class _Entry(NamedTuple):
    commit: Commit
    done: Done
    size: int


class Committer:
    """Group commit over one store, for one node.

    While one batch is being written, all commits submitted meanwhile wait, and then form the next batch: so an idle
    node pays one write per commit, and a busy one a share of one. A batch without an answer is tried again with the
    same versions, which makes it safe, for ever; `trouble` says so meanwhile. A batch that is refused is halved until
    the commit at fault is alone: only that one is `Rejected`.
    """

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._quick = store if isinstance(store, QuickStore) else None
        self._clock = clock
        self._small: deque[_Entry] = deque()
        self._large: deque[_Entry] = deque()
        self._outstanding: set[ActorId] = set()
        self._running = False
        self._drained: list[asyncio.Future[None]] = []
        #: Why the store gives no answer now; None while it does.
        self.trouble: str | None = None
        #: Since when (microseconds since 1970), and how often the batch in hand was tried since then.
        self.trouble_since: int | None = None
        self.attempts = 0
        #: What was written since the start: how long each batch took, its commits, and tries without an answer.
        self.seconds = Distribution(SECONDS)
        self.sizes = Distribution(SIZES)
        self.retries = Counts()

    @property
    def pending(self) -> int:
        """Commits submitted whose `done` was not called yet."""
        return len(self._outstanding)

    @property
    def full(self) -> bool:
        """So many commits are outstanding that no new work should be taken."""
        return len(self._outstanding) >= FULL

    def outstanding(self, actor: ActorId) -> bool:
        """Whether a commit of this actor was submitted whose `done` was not called yet."""
        return actor in self._outstanding

    def submit(self, commit: Commit, done: Done) -> None:
        """Has the commit written, and then calls `done` once with its result, from the event loop. An actor has at
        most one commit outstanding: a second one would be in a batch with the first."""
        assert commit.actor not in self._outstanding, f"{commit.actor} has a commit outstanding"
        self._outstanding.add(commit.actor)
        size = sum(map(len, commit.put.values()))
        (self._small if size < BATCH_BYTES else self._large).append(_Entry(commit, done, size))
        if not self._running:
            self._running = True
            # In the loop's next iteration: all commits of this one are in its first batch.
            self._clock.call_soon(self._begin)

    async def drain(self) -> None:
        """Returns when nothing is outstanding."""
        if self._outstanding:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(future)
            await future

    def _begin(self) -> None:
        """An idle committer has work: at once if the store can, else by a task."""
        if self._quick is None or self._large or not self._write_now(self._quick):
            self._clock.spawn(self._run(), name="committer")

    def _write_now(self, store: QuickStore) -> bool:
        batch = self._batch()
        began = self._clock.monotonic()
        try:
            results = store.commit_now([entry.commit for entry in batch])
        except PerdureError:
            # The task tries the same versions again, and knows what to do about it.
            results = None
        if results is None:
            self._small.extendleft(reversed(batch))
            return False
        self._written(len(batch), began)
        self._running = False
        for entry, result in zip(batch, results, strict=True):
            self._finish(entry, result)
        if (self._small or self._large) and not self._running:
            self._running = True
            self._clock.call_soon(self._begin)
        if not self._outstanding:
            self._tell_drained()
        return True

    async def _run(self) -> None:
        try:
            while self._small or self._large:
                if self._small:
                    await self._write(self._batch())
                if self._large:
                    await self._write([self._large.popleft()])
        finally:
            self._running = False
        self._tell_drained()

    def _tell_drained(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _batch(self) -> list[_Entry]:
        small = self._small
        batch: list[_Entry] = []
        room = BATCH_BYTES
        while small and len(batch) < BATCH_COMMITS:
            room -= small[0].size
            if room < 0 and batch:
                break
            batch.append(small.popleft())
        return batch

    async def _write(self, batch: Sequence[_Entry]) -> None:
        """Sees a batch through: every `done` of it was called when this returns."""
        try:
            results = await self._answer([entry.commit for entry in batch])
        except PerdureError as error:
            if len(batch) == 1:
                self._finish(batch[0], Rejected(str(error)))
                return
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
            return
        for entry, result in zip(batch, results, strict=True):
            self._finish(entry, result)

    async def _answer(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        """The store's answer, however long that takes; raises only what is definite."""
        while True:
            began = self._clock.monotonic()
            try:
                results = await self._store.commit(commits)
            except StoreUnavailable as error:
                await self._back_off(error, len(commits))
            except PerdureError:
                self._recovered()
                raise
            except Exception as error:  # noqa: BLE001 - see below
                # A fault in the store itself. Whether it wrote is not known, so this too must be tried again.
                await self._back_off(error, len(commits))
            else:
                self._recovered()
                self._written(len(commits), began)
                return results

    def _written(self, commits: int, began: float) -> None:
        self.seconds.observe(self._clock.monotonic() - began)
        self.sizes.observe(commits)

    async def _back_off(self, error: Exception, commits: int) -> None:
        self.attempts += 1
        self.retries.add()
        if self.trouble is None:
            self.trouble_since = self._clock.now()
            logger.error(
                "store unavailable", extra=fields(reason=str(error), commits=commits), exc_info=error
            )
        self.trouble = str(error) or type(error).__name__
        # The exponent is bounded: 2.0**1100 is an OverflowError after an hour and a half of trouble.
        delay: float = min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(self.attempts - 1, 16))
        jitter = int.from_bytes(self._clock.token(2), "big") / 65536
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clock.call_later(delay * (0.5 + jitter / 2), _wake, future)
        await future

    def _recovered(self) -> None:
        if self.trouble is not None:
            since = self.trouble_since or 0
            seconds = (self._clock.now() - since) / 1e6
            logger.warning("store available again", extra=fields(attempts=self.attempts, seconds=seconds))
            self.trouble, self.trouble_since, self.attempts = None, None, 0

    def _finish(self, entry: _Entry, result: CommitResult) -> None:
        # Before `done`, which may submit the actor's next commit.
        self._outstanding.discard(entry.commit.actor)
        try:
            entry.done(result)
        except Exception:
            logger.exception("commit callback failed", extra=fields(actor=str(entry.commit.actor)))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
