"""PostgresStore: the contract over a schema of a PostgreSQL database, shared by any number of processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from perdure.errors import PerdureError, StoreError, StoreUnavailable
from perdure.statestore import cursors
from perdure.statestore.contract import (
    COMMITTED,
    SNAPSHOT_LIMIT,
    ActorId,
    Commit,
    CommitResult,
    Conflict,
    Fence,
    Fenced,
    Finding,
    InstanceFilter,
    InstanceRow,
    Page,
    Refused,
    Rejected,
    Reminder,
    Settings,
    Snapshot,
    Taken,
    TypePartition,
)
from perdure.statestore.postgres import reads
from perdure.statestore.postgres.batch import ARGUMENTS, call, unstorable
from perdure.statestore.postgres.channel import Channel
from perdure.statestore.postgres.connector import Connector
from perdure.statestore.postgres.diagnosis import SETTINGS, findings
from perdure.statestore.postgres.errors import at_first, mapped
from perdure.statestore.postgres.ids import storable, type_number
from perdure.statestore.postgres.lease import PostgresLease
from perdure.statestore.postgres.options import Options
from perdure.statestore.postgres.places import key as key_at
from perdure.statestore.postgres.schema import prepare
from perdure.statestore.postgres.sweeper import Sweeper

#: Loads read together. Bounds the memory that one answer takes.
LOADS = 128
#: Families remembered whose keys are put over each other.
MOST_FAMILIES = 10_000
#: Bytes of values that one call may carry: an array of PostgreSQL has at most 1 GB, and is copied there.
MOST_BYTES = 256 * 1024 * 1024

_Waiting = tuple[ActorId, "asyncio.Future[Snapshot | None]"]


class PostgresStore:
    """A store of its own in each schema. Connects when it is first used, and brings the schema up to date then:
    `ConfigurationError` from that first use says what is wrong with the URL or the database, `StoreFormat` that a newer
    release has been there.

    One connection is for commits alone, so that nothing that is read delays them; the others are shared. `RollbackAware`.
    """

    def __init__(
        self,
        options: Options,
        *,
        partitions: int | None = None,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.options = options
        self.now = now
        self.connector = Connector(options)
        self.connector.on_rollback(self._rolled_back)
        self._partitions = partitions
        self._settings: Settings | None = None
        self._opening = asyncio.Lock()
        self._opened = False
        self._closed = False
        self._writer = Channel(self.connector, watch=True)
        self._writing = asyncio.Lock()
        #: Families of numbered keys that were put over keys that there were: history never is, a user's may be.
        self._rewritten: set[bytes] = set()
        #: Connections for everything else: those free, the one used last on top; and how many may be used.
        self._free = [Channel(self.connector) for _ in range(options.connections - 1)]
        self._channels = [self._writer, *self._free]
        self._room = asyncio.Semaphore(len(self._free))
        self._sweeper: Sweeper | None = None
        self._leases: list[PostgresLease] = []
        self._loads: list[_Waiting] = []
        self._loading = 0
        self._sql = {name: self.named(text) for name, text in _STATEMENTS.items()}

    @property
    def shared(self) -> bool:
        return True

    def on_rollback(self, callback: Callable[[str], None]) -> None:
        self.connector.on_rollback(callback)

    def named(self, sql: str) -> str:
        """A statement for this store's schema."""
        return sql.replace("perdure.", f"{self.options.schema}.")

    # --- one actor ---------------------------------------------------------------------------------------------------

    async def load(self, actor: ActorId) -> Snapshot | None:
        # Loads asked for in one iteration of the loop, or while earlier ones are being read, are read together.
        if not (storable(actor.id) and storable(actor.type)):
            return None  # It could not have been written, and nobody else's load shall fail by it.
        future: asyncio.Future[Snapshot | None] = asyncio.get_running_loop().create_future()
        self._loads.append((actor, future))
        if len(self._loads) == 1:
            future.get_loop().call_soon(self._read_loads)
        return await future

    def _read_loads(self) -> None:
        while self._loads and self._loading < max(1, len(self._channels) - 2):
            waiting, self._loads = self._loads[:LOADS], self._loads[LOADS:]
            self._loading += 1
            task = asyncio.get_running_loop().create_task(self._load(waiting), name="perdure-load")
            task.add_done_callback(self._loaded)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        self._loading -= 1
        self._read_loads()

    async def _load(self, waiting: Sequence[_Waiting]) -> None:
        """Gives each its snapshot or error; never raises."""
        actors = [actor for actor, _ in waiting]
        try:
            found = await self._snapshots(actors)
        except StoreUnavailable as error:
            _fail(waiting, error)
        except (PerdureError, ValueError, LookupError) as error:
            # Only who cannot be read shall hear of it.
            if len(waiting) > 1:
                middle = len(waiting) // 2
                await self._load(waiting[:middle])
                await self._load(waiting[middle:])
            else:
                _fail(waiting, error if isinstance(error, PerdureError) else reads.corrupt(actors[0], error))
        except BaseException as error:
            _fail(waiting, StoreUnavailable(f"the load was given up: {error!r}"))
            raise
        else:
            for (_, future), snapshot in zip(waiting, found, strict=True):
                if not future.done():
                    future.set_result(snapshot)

    async def _snapshots(self, actors: Sequence[ActorId]) -> list[Snapshot | None]:
        found: list[Snapshot | None] = [None] * len(actors)
        numbers = [type_number(actor.type) for actor in actors]
        try:
            rows = await self._read("load", numbers, [actor.id for actor in actors])
        except StoreError as error:
            if isinstance(error, StoreUnavailable) or len(actors) > 1:
                raise
            # Its keys are too large for one array.
            return [await self._long_snapshot(actors[0])]
        for row in rows:
            at = row[0] - 1
            snapshot = reads.snapshot(row)
            found[at] = snapshot if snapshot is not None else await self._long_snapshot(actors[at])
        return found

    async def _long_snapshot(self, actor: ActorId) -> Snapshot | None:
        rows = await self._read("load_long", type_number(actor.type), actor.id, *reads.LONG_RANGES)
        return reads.long_snapshot(rows)

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = SNAPSHOT_LIMIT
    ) -> Page[tuple[str, bytes]]:
        if not storable(actor.id):
            return Page([])
        try:
            ranges = reads.key_ranges(prefix, start)
        except UnicodeEncodeError:
            raise StoreError(f"no key has a lone surrogate, as {prefix!r} or {start!r} does") from None
        found: list[tuple[str, bytes]] = []
        # Once, unless the prefix ends within a number.
        while ranges and len(found) <= limit:
            lows, highs = (list(column) for column in zip(*ranges, strict=True))
            rows = await self._read("keys", type_number(actor.type), actor.id, lows, highs, limit + 1)
            found += [(key, value) for at, value in rows if (key := key_at(at)).startswith(prefix)]
            if len(rows) <= limit:
                break
            next_one = rows[-1][0] + b"\0"
            ranges = [(max(low, next_one), high) for low, high in ranges if high > next_one]
        return Page(found[:limit], found[limit][0] if len(found) > limit else None)

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        if not storable(actor.id):
            return []
        rows = await self._read("reminders", type_number(actor.type), actor.id)
        return [Reminder(actor, *row) for row in rows]

    async def row(self, actor: ActorId) -> InstanceRow | None:
        if not storable(actor.id):
            return None
        rows = await self._read("row", type_number(actor.type), actor.id)
        return reads.instance(actor.type, rows[0]) if rows else None

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        if not batch:
            return []
        await self._open()
        if sum(len(value) for commit in batch for value in commit.put.values()) > MOST_BYTES:
            raise StoreError(f"more than {MOST_BYTES} bytes in one batch")
        try:
            return await self._commit(batch)
        except StoreUnavailable:
            raise
        except StoreError:
            # Nothing was written. What can be seen to be at fault is told apart here, else by halving the batch.
            reasons = [unstorable(commit) for commit in batch]
            if not any(reasons):
                raise
        good = [commit for commit, reason in zip(batch, reasons, strict=True) if reason is None]
        results = iter(await self._commit(good) if good else ())
        return [next(results) if reason is None else Rejected(reason) for reason in reasons]

    async def _commit(self, batch: Sequence[Commit]) -> list[CommitResult]:
        try:
            called = call(batch, self._rewritten)
        except UnicodeEncodeError as error:
            raise mapped(error) from error
        async with self._writing:
            try:
                rows = await self._writer.fetch(self._sql["commit"], *called.arguments)
            except StoreError as error:
                if not called.fresh or not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                    raise
                rows = None
            if self._writer.warning is not None:
                # As when an administrator ends the wait for a synchronous replica: it is written, but not where it
                # has to be before it is acknowledged. The next try waits for that again.
                raise StoreUnavailable(f"PostgreSQL: {self._writer.warning}")
        if rows is None:
            # Some numbered key was there already, and nothing was written. Its family is one whose keys are rewritten.
            if len(self._rewritten) > MOST_FAMILIES:
                self._rewritten.clear()
            self._rewritten |= called.fresh
            return await self._commit(batch)
        if self._sweeper is not None and any(commit.reset for commit in batch):
            self._sweeper.wake()
        results: list[CommitResult] = [COMMITTED] * len(batch)
        for at, kind, version, term, epoch in rows:
            results[called.order[at - 1]] = Conflict(version) if kind == 2 else Fenced(_fence(term, epoch))
        return results

    # --- partitions --------------------------------------------------------------------------------------------------

    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        numbers = {name: type_number(name) for name in {name for name, _ in held}}
        ordered = sorted({(numbers[name], partition) for name, partition in held})
        if not ordered:
            return []
        stored = await self._read("put_types", list(numbers.values()), list(numbers))
        for number, name in stored:
            if numbers[name] != number:
                raise StoreError(f"the actor type {name!r} cannot be stored: its number is another one's")
        if len(stored) != len(numbers):
            raise StoreError(f"of {sorted(numbers)}, a type's number is another one's")
        rows = await self._read("take", [n for n, _ in ordered], [p for _, p in ordered], *fence)
        answers = {
            ordered[at - 1]: Taken(released) if taken else Refused(Fence(term, epoch))
            for at, taken, released, term, epoch in rows
        }
        results: list[Taken | Refused] = []
        for name, partition in held:
            place = (numbers[name], partition)
            results.append(answers[place])
            # A partition that is named twice is refused the second time.
            if isinstance(answers[place], Taken):
                answers[place] = Refused(Fence(*fence))
        return results

    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        ordered = sorted({(type_number(name), partition) for name, partition in held})
        if ordered:
            await self._read("release", [n for n, _ in ordered], [p for _, p in ordered], *fence)

    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        after = cursors.decode(cursor, str, int, int) if cursor is not None else ("", -1, -1)
        found: list[tuple[str, int, int, str]] = []
        for name, partitions in _by_type(held):
            if len(found) > limit or name < after[0]:
                continue
            partition, num = after[1:] if name == after[0] else (-1, -1)
            wanted = [one for one in partitions if one >= partition]
            rows = await self._read(
                "owing", type_number(name), wanted, partition, num, limit + 1 - len(found)
            )
            found += [(name, *row) for row in rows]
        page = cursors.page(found, limit, lambda one: one[:3])
        return Page([ActorId(one[0], one[3]) for one in page.items], page.cursor)

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        after = (
            cursors.decode(cursor, int, str, str, str) if cursor is not None else (reads.LEAST, "", "", "")
        )
        every = (await self.settings()).partitions
        found: list[Reminder] = []
        for name, partitions in _by_type(held):
            held_bits = reads.bits(partitions) if len(partitions) < every else None
            rows = await self._read(
                "due", type_number(name), until, *_due_place(name, after), held_bits, limit + 1
            )
            found += [Reminder(ActorId(name, id), reminder, at, data) for at, id, reminder, data in rows]
        found.sort(key=cursors.due_place)
        return cursors.page(found[: limit + 1], limit, cursors.due_place)

    # --- lists -------------------------------------------------------------------------------------------------------

    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        after = cursors.decode(cursor, int, str) if cursor is not None else (reads.LEAST + 1, "")
        rows = await self._read(
            "query",
            type_number(where.type),
            sorted(set(where.statuses)) or None,
            reads.LEAST if where.created_from is None else where.created_from,
            reads.MOST if where.created_to is None else where.created_to,
            -after[0],
            after[1],
            where.name,
            where.id_prefix,
            limit + 1,
        )
        return cursors.page([reads.instance(where.type, row) for row in rows], limit, cursors.row_place)

    async def types(self) -> Sequence[str]:
        return [name for (name,) in await self._read("types")]

    # --- the store ---------------------------------------------------------------------------------------------------

    def lease(self, name: str) -> PostgresLease:
        lease = PostgresLease(self, name)
        self._leases.append(lease)
        return lease

    async def read_lease(self, name: str) -> bytes | None:
        """For leases: the value of one."""
        rows = await self._read("lease", name)
        return rows[0][0] if rows else None

    async def settings(self) -> Settings:
        return await self._open()

    async def diagnose(self) -> Sequence[Finding]:
        (row,) = await self._read("settings")
        return findings(row, self.options.synchronous_commit)

    async def health(self) -> None:
        await self._read("health")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._sweeper is not None:
            await self._sweeper.stop()
        async with self._writing:
            pass
        await asyncio.gather(
            *(lease.close() for lease in self._leases),
            *(channel.close() for channel in self._channels),
            self.connector.close(),
        )

    def _rolled_back(self, _: str) -> None:
        # The server may have lost the schema as well. What was fixed at first use stays fixed.
        if self._settings is not None:
            self._partitions, self._settings = self._settings.partitions, None

    # --- connections -------------------------------------------------------------------------------------------------

    async def _open(self) -> Settings:
        """At first use: connects, and brings the schema up to date."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._settings is not None:
            return self._settings
        async with self._opening:
            settings = self._settings
            if settings is None:
                settings = self._settings = await self._prepare()
                self._opened = True
            if self._sweeper is None and not self._closed:
                self._sweeper = Sweeper(self._sweep)
        return settings

    async def _prepare(self) -> Settings:
        try:
            async with asyncio.timeout(self.options.timeout * 4):
                connection, _ = await self.connector.connect()
                try:
                    return await prepare(connection, self.options, self._partitions)
                finally:
                    with contextlib.suppress(Exception):
                        await connection.close(timeout=1)
        except Exception as error:
            raise (mapped(error) if self._opened else at_first(error)) from error

    async def _read(self, name: str, *arguments: object) -> list[Any]:
        """The rows of one of the statements, by any free connection."""
        await self._open()
        async with self._room:
            channel = self._free.pop()
            try:
                return await channel.fetch(self._sql[name], *arguments)
            finally:
                self._free.append(channel)

    async def _sweep(self, rows: int) -> bool:
        ((more,),) = await self._read("sweep", rows)
        return bool(more)


def _fail(waiting: Sequence[_Waiting], error: Exception) -> None:
    for _, future in waiting:
        if not future.done():
            future.set_exception(error)


def _fence(term: int | None, epoch: int | None) -> Fence | None:
    return None if term is None or epoch is None or term < 0 else Fence(term, epoch)


def _by_type(held: Sequence[TypePartition]) -> list[tuple[str, list[int]]]:
    """Each type in order, with its partitions in order."""
    types: dict[str, set[int]] = {}
    for name, partition in held:
        types.setdefault(name, set()).add(partition)
    return [(name, sorted(types[name])) for name in sorted(types)]


def _due_place(name: str, after: tuple[Any, ...]) -> tuple[int, str, str]:
    """After which of one type's reminders those come that are after a place in the order of all types."""
    due, type, id, reminder = after
    if name == type:
        return due, id, reminder
    # Equal times are ordered by type: those of a lower type are over, those of a higher one are all still to come.
    return (due + 1 if name < type else due), "", ""


_STATEMENTS = {
    "load": reads.LOAD,
    "load_long": reads.LOAD_LONG,
    "keys": reads.KEYS,
    "reminders": reads.REMINDERS,
    "row": reads.ROW,
    "owing": reads.OWING,
    "due": reads.DUE,
    "query": reads.QUERY,
    "types": reads.TYPES,
    "lease": reads.LEASE,
    "commit": f"SELECT at, kind, version, term, epoch FROM perdure.commit_1({ARGUMENTS})",
    "put_types": "SELECT type, name FROM perdure.types_1($1, $2)",
    "take": "SELECT at, taken, released, term, epoch FROM perdure.take_1($1, $2, $3, $4)",
    "release": "SELECT perdure.release_1($1, $2, $3, $4)",
    "sweep": "SELECT perdure.sweep_1($1)",
    "health": "SELECT perdure.check_1()",
    "settings": SETTINGS,
}
