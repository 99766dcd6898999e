"""SqliteStore: the contract over one SQLite file, which belongs to this process while the store is open."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from perdure.errors import PerdureError, StoreUnavailable
from perdure.statestore.contract import (
    SNAPSHOT_LIMIT,
    ActorId,
    Commit,
    CommitResult,
    Fence,
    Finding,
    InstanceFilter,
    InstanceRow,
    Page,
    Refused,
    Reminder,
    Settings,
    Snapshot,
    Taken,
    TypePartition,
)
from perdure.statestore.sqlite import reader
from perdure.statestore.sqlite.checkpoint import Checkpoints
from perdure.statestore.sqlite.database import Database, unusable
from perdure.statestore.sqlite.lease import SqliteLease
from perdure.statestore.sqlite.lockfile import LockFile
from perdure.statestore.sqlite.pace import Pace
from perdure.statestore.sqlite.worker import Worker
from perdure.statestore.sqlite.writer import Writer

T = TypeVar("T")

#: Threads that read; one fewer do loads, so that a page of a list never waits for a long history.
READERS = 3
#: The most commits, and bytes, that are written on the caller's thread.
QUICK_COMMITS = 4
QUICK_BYTES = 64 * 1024
#: Loads read together. Bounds the memory that one answer of the database takes.
LOADS = 128

_Waiting = tuple[ActorId, "asyncio.Future[Snapshot | None]"]


class SqliteStore:
    """One writer thread, a few readers, and one that checkpoints; see the docstrings of each.

    Opening takes the lock beside the file (`StoreHeld` when another has it) and brings the schema up to date.
    """

    def __init__(
        self,
        path: str,
        *,
        partitions: int | None = None,
        synchronous: str = "full",
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.path = path
        database = Database(path, synchronous)
        self._lock = LockFile(path)
        try:
            self._settings = database.prepare(partitions)
            self._open(database)
        except sqlite3.Error as error:
            self._lock.close()
            raise unusable(error, path) from error
        except BaseException:
            self._lock.close()
            raise
        self._now = now
        self._loads: list[_Waiting] = []
        self._loading = 0
        self._closed: asyncio.Future[None] | None = None
        #: Of writes, and of reads, on the loop's thread.
        self._quick_writes = Pace()
        self._quick_reads = Pace()
        #: Who has each lease. All contenders are in this process: the file's lock is the lease against others.
        self.lease_holders: dict[str, SqliteLease] = {}
        for worker in (self._reads, self._copies, self._writes):
            worker.start()

    def _open(self, database: Database) -> None:
        self._writer = Writer(checkpoint=self._checkpoint, later=self._sweep)
        self._checkpoints = Checkpoints(finish=self._finish_checkpoint)
        connection = database.writer()
        self._writer.open(connection)
        self._writes = Worker("perdure-writer", lambda: connection, idle=self._writer.idle)
        #: For looks at the index on the loop's thread, which waits for nobody.
        self._looks = database.reader()
        self._looks.execute("PRAGMA busy_timeout = 0")
        self._reads = Worker("perdure-reader", database.reader, threads=READERS)
        self._copies = Worker("perdure-checkpoint", database.checkpointer)

    @property
    def shared(self) -> bool:
        return False

    def announce(self, address: str | None) -> None:
        """Tells other processes, by the lock file, where this one's HTTP API is."""
        self._lock.announce(address)

    # --- one actor ---------------------------------------------------------------------------------------------------

    async def load(self, actor: ActorId) -> Snapshot | None:
        # Loads asked for in one iteration of the loop, or while earlier ones are being read, are read together.
        future: asyncio.Future[Snapshot | None] = self._loop().create_future()
        self._loads.append((actor, future))
        if len(self._loads) == 1:
            future.get_loop().call_soon(self._read_loads)
        return await future

    def _read_loads(self) -> None:
        if self._closed is not None:
            # Asked for just before: the threads may be gone already.
            for _, future in self._loads:
                if not future.done():
                    future.set_exception(StoreUnavailable("the store is closed"))
            self._loads = []
        if len(self._loads) == 1 and not self._loading and self._is_new(self._loads[0][0]):
            [(_, future)], self._loads = self._loads, []
            if not future.done():
                future.set_result(None)
        while self._loads and self._loading < READERS - 1:
            waiting, self._loads = self._loads[:LOADS], self._loads[LOADS:]
            self._loading += 1
            asked = self._reads.ask(reader.load, self._writer.memory.types, [actor for actor, _ in waiting])
            asked.add_done_callback(partial(self._loaded, waiting))

    def _is_new(self, actor: ActorId) -> bool:
        """Whether a lone load has nothing to read, which the index says at once: so it is when an instance starts.
        False also when that would have to be asked of a slow disk."""
        began = time.monotonic()
        if not self._quick_reads.fast(began):
            return False
        try:
            new = reader.is_new(self._looks, self._writer.memory.types, actor)
        except sqlite3.Error:
            return False  # Who loads hears of it.
        self._quick_reads.took(began, time.monotonic())
        return new

    def _loaded(
        self, waiting: list[_Waiting], answer: asyncio.Future[list[Snapshot | PerdureError | None]]
    ) -> None:
        self._loading -= 1
        self._read_loads()
        failure = answer.exception()
        results: Sequence[Any] = [failure] * len(waiting) if failure else answer.result()
        for (_, future), result in zip(waiting, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = SNAPSHOT_LIMIT
    ) -> Page[tuple[str, bytes]]:
        return await self._read(reader.keys, actor, prefix, start, limit)

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        return await self._read(reader.reminders, actor)

    async def row(self, actor: ActorId) -> InstanceRow | None:
        return await self._read(reader.row, actor)

    async def types(self) -> Sequence[str]:
        return sorted(self._writer.memory.types.copy())

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        return await self._write(self._writer.commit, batch)

    def commit_now(self, batch: Sequence[Commit]) -> Sequence[CommitResult] | None:
        """`QuickStore`: a few small commits, while the disk is fast and nothing else is being written."""
        began = time.monotonic()
        if len(batch) > QUICK_COMMITS or not self._quick_writes.fast(began) or self._closed is not None:
            return None
        if sum(len(value) for commit in batch for value in commit.put.values()) > QUICK_BYTES:
            return None
        results = self._writes.now(self._writer.commit, batch)
        self._quick_writes.took(began, time.monotonic())
        return results

    # --- partitions --------------------------------------------------------------------------------------------------

    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        return await self._write(self._writer.take, held, fence)

    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        await self._write(self._writer.release, held, fence)

    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        return await self._read(reader.owing, self._settings.partitions, held, cursor, limit)

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        return await self._read(reader.due, self._settings.partitions, held, until, cursor, limit)

    # --- lists -------------------------------------------------------------------------------------------------------

    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        return await self._read(reader.query, where, cursor, limit)

    async def count(self, type: str, limit: int) -> Mapping[str, int]:
        """`Counting`."""
        return await self._read(reader.count, type, limit)

    # --- the store ---------------------------------------------------------------------------------------------------

    def lease(self, name: str) -> SqliteLease:
        return SqliteLease(self, name)

    async def raise_term(self, name: str) -> int:
        """For leases: the next term of one, stored."""
        return await self._write(self._writer.raise_term, name, self._now())

    async def read_lease(self, name: str) -> bytes | None:
        """For leases: the value of one."""
        _, value = await self._asked(self._reads, reader.lease, name)
        return value

    async def write_lease(self, name: str, mine: Callable[[], int | None], value: bytes) -> None:
        """For leases: writes the value of one if its term is still `mine()` when the write's turn comes."""
        await self._write(self._writer.write_lease, name, mine, value)

    async def settings(self) -> Settings:
        return self._settings

    async def diagnose(self) -> Sequence[Finding]:
        return await self._read(reader.diagnose)

    async def health(self) -> None:
        await self._write(self._writer.check)
        await self._asked(self._reads, reader.lease, "")

    async def close(self) -> None:
        if self._closed is not None:
            await asyncio.shield(self._closed)
            return
        self._closed = self._loop().create_future()
        try:
            # In this order: the writer may ask for a checkpoint, and a checkpoint's rest is the writer's.
            for worker in (self._reads, self._copies, self._writes):
                await asyncio.to_thread(worker.stop)
            self._looks.close()
        finally:
            self._lock.close()
            self._closed.set_result(None)

    # --- threads -----------------------------------------------------------------------------------------------------

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._closed is not None:
            raise StoreUnavailable("the store is closed")
        return asyncio.get_running_loop()

    async def _asked(self, worker: Worker, job: Callable[..., T], *args: Any) -> T:
        self._loop()
        return await worker.ask(job, *args)

    async def _read(self, job: Callable[..., T], *args: Any) -> T:
        return await self._asked(self._reads, job, self._writer.memory.types, *args)

    async def _write(self, job: Callable[..., T], *args: Any) -> T:
        return await self._asked(self._writes, job, *args)

    def _checkpoint(self) -> None:
        self._copies.tell(self._checkpoints.run)

    def _finish_checkpoint(self) -> None:
        self._writes.tell(self._checkpoints.finish)

    def _sweep(self) -> None:
        self._writes.tell(self._writer.sweep)
