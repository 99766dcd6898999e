"""MemoryStore: the whole contract in plain attributes of one object, for tests, trials and simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy

import msgspec

from perdure.errors import StoreError
from perdure.statestore import cursors
from perdure.statestore.contract import (
    COMMITTED,
    DEFAULT_PARTITIONS,
    SNAPSHOT_LIMIT,
    ActorId,
    Commit,
    CommitResult,
    Conflict,
    Fence,
    Fenced,
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
from perdure.statestore.keys import split


class ActorRecord:
    """All that the store keeps of one actor."""

    __slots__ = ("_order", "epoch", "partition", "recover", "reminders", "row", "values", "version")

    def __init__(self, partition: int, epoch: int) -> None:
        self.partition = partition
        self.version = b""
        self.values: dict[str, bytes] = {}
        self.reminders: dict[str, Reminder] = {}
        self.recover = False
        self.row: InstanceRow | None = None
        #: The store's epoch when this object was made: an older one may be part of a `MemoryState`.
        self.epoch = epoch
        self._order: list[str] | None = None

    def changeable(self, epoch: int) -> ActorRecord:
        """This record if no saved state shares it, else a copy."""
        if self.epoch == epoch:
            return self
        record = copy(self)
        record.values = dict(self.values)
        record.reminders = dict(self.reminders)
        record.epoch = epoch
        return record

    def ordered(self) -> list[str]:
        """The keys in the contract's order."""
        if self._order is None:
            self._order = sorted(self.values, key=split)
        return self._order

    def apply(self, commit: Commit) -> None:
        if commit.reset:
            self.values = dict(commit.put)
        else:
            for key in commit.delete:
                self.values.pop(key, None)
            self.values.update(commit.put)
        self._order = None
        self.version = commit.version
        if commit.recover is not None:
            self.recover = commit.recover
        if commit.delete_row:
            self.row = None
        if commit.row is not None:
            self.row = commit.row
        if commit.clear_reminders:
            self.reminders.clear()
        for name in commit.delete_reminders:
            self.reminders.pop(name, None)
        for reminder in commit.reminders:
            self.reminders[reminder.name] = reminder


class LeaseRecord(msgspec.Struct, frozen=True):
    term: int = 0
    value: bytes | None = None
    #: The handle that has it. Only identity counts.
    holder: object | None = None


class MemoryState(msgspec.Struct, frozen=True):
    """Everything a store held at one moment; see `MemoryStore.snapshot`."""

    actors: Mapping[ActorId, ActorRecord]
    fences: Mapping[TypePartition, tuple[Fence, bool]]
    leases: Mapping[str, LeaseRecord]


class MemoryStore:
    """Keeps everything in this object. Nothing survives it; nothing waits; the same calls give the same results.

    `actors`, `fences` (with the flag `released`) and `leases` are the whole state and may be read by anyone.
    """

    def __init__(
        self,
        *,
        partitions: int | None = None,
        shared: bool = False,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`shared`: several nodes of this process are to work on it."""
        self._shared = shared
        self.actors: dict[ActorId, ActorRecord] = {}
        self.fences: dict[TypePartition, tuple[Fence, bool]] = {}
        self.leases: dict[str, LeaseRecord] = {}
        #: How many partitions each type has.
        self.partitions = DEFAULT_PARTITIONS if partitions is None else partitions
        self._now = now
        self._epoch = 0
        # Which actors `owing` and `due` have to look at: both are asked often, and most actors are in neither.
        self._owing: dict[ActorId, None] = {}
        self._timed: dict[ActorId, None] = {}

    @property
    def shared(self) -> bool:
        return self._shared

    def snapshot(self) -> MemoryState:
        """All state as it is now, at a cost by the number of actors, not of keys. Never changes."""
        self._epoch += 1
        return MemoryState(dict(self.actors), dict(self.fences), dict(self.leases))

    def restore(self, state: MemoryState) -> None:
        """Makes the store what it was at `snapshot`. A state can be restored more than once."""
        self._epoch += 1
        self.actors = dict(state.actors)
        self.fences = dict(state.fences)
        self.leases = dict(state.leases)
        self._owing = {actor: None for actor, record in self.actors.items() if record.recover}
        self._timed = {actor: None for actor, record in self.actors.items() if record.reminders}

    # --- one actor ---------------------------------------------------------------------------------------------------

    async def load(self, actor: ActorId) -> Snapshot | None:
        record = self.actors.get(actor)
        if record is None:
            return None
        values = record.values
        if len(values) <= SNAPSHOT_LIMIT:
            shown = {key: values[key] for key in record.ordered()}
        else:
            shown = {key: values[key] for key in _first(record.ordered())}
        return Snapshot(record.version, shown, record.recover, len(shown) == len(values))

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = SNAPSHOT_LIMIT
    ) -> Page[tuple[str, bytes]]:
        record = self.actors.get(actor)
        if record is None:
            return Page([])
        least = split(start or "")
        found: list[tuple[str, bytes]] = []
        for key in record.ordered():
            if key.startswith(prefix) and (start is None or split(key) >= least):
                if len(found) == limit:
                    return Page(found, key)
                found.append((key, record.values[key]))
        return Page(found)

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        record = self.actors.get(actor)
        return sorted(record.reminders.values(), key=lambda r: r.name) if record else []

    async def row(self, actor: ActorId) -> InstanceRow | None:
        record = self.actors.get(actor)
        return record.row if record else None

    async def types(self) -> Sequence[str]:
        return sorted({held.type for held in self.fences})

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        return [self._commit(commit) for commit in batch]

    def _commit(self, commit: Commit) -> CommitResult:
        actor = commit.actor
        record = self.actors.get(actor)
        stored = record.version if record else None
        removal = commit.reset and not commit.put
        if stored == commit.version or (removal and record is None):
            return COMMITTED
        fence, _ = self.fences.get(TypePartition(actor.type, commit.partition), (None, False))
        if fence != commit.fence:
            return Fenced(fence)
        if stored != commit.expected:
            return Conflict(stored)
        if removal:
            self._remove(actor)
            return COMMITTED
        record = record.changeable(self._epoch) if record else ActorRecord(commit.partition, self._epoch)
        record.apply(commit)
        self.actors[actor] = record
        _mark(self._owing, actor, record.recover)
        _mark(self._timed, actor, bool(record.reminders))
        return COMMITTED

    def _remove(self, actor: ActorId) -> None:
        del self.actors[actor]
        self._owing.pop(actor, None)
        self._timed.pop(actor, None)

    # --- partitions --------------------------------------------------------------------------------------------------

    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        return [self._take(TypePartition(*one), fence) for one in held]

    def _take(self, held: TypePartition, fence: Fence) -> Taken | Refused:
        stored, released = self.fences.get(held, (None, True))
        if stored is not None and stored >= fence:
            return Refused(stored)
        self.fences[held] = (fence, False)
        return Taken(released)

    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        for one in held:
            if self.fences.get(one, (None, False))[0] == fence:
                self.fences[TypePartition(*one)] = (fence, True)

    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        after = cursors.decode(cursor, str, str) if cursor is not None else None
        found = sorted(
            actor for actor in self._among(self._owing, held) if after is None or tuple(actor) > after
        )
        return cursors.page(found, limit, tuple)

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        after = cursors.decode(cursor, int, str, str, str) if cursor is not None else None
        found = [
            reminder
            for actor in self._among(self._timed, held)
            for reminder in self.actors[actor].reminders.values()
            if reminder.due <= until and (after is None or cursors.due_place(reminder) > after)
        ]
        return cursors.page(sorted(found, key=cursors.due_place), limit, cursors.due_place)

    def _among(self, actors: Collection[ActorId], held: Sequence[TypePartition]) -> list[ActorId]:
        wanted = set(held)
        return [actor for actor in actors if (actor.type, self.actors[actor].partition) in wanted]

    # --- lists -------------------------------------------------------------------------------------------------------

    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        after = cursors.decode(cursor, int, str) if cursor is not None else None
        found = [
            record.row
            for record in self.actors.values()
            if record.row is not None
            and _matches(record.row, where)
            and (after is None or cursors.row_place(record.row) > after)
        ]
        return cursors.page(sorted(found, key=cursors.row_place), limit, cursors.row_place)

    async def count(self, type: str, limit: int) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for record in self.actors.values():
            if record.row is not None and record.row.actor.type == type:
                found[record.row.status] = min(found.get(record.row.status, 0) + 1, limit)
        return found

    # --- the store ---------------------------------------------------------------------------------------------------

    def lease(self, name: str) -> MemoryLease:
        return MemoryLease(self, name)

    async def settings(self) -> Settings:
        return Settings(partitions=self.partitions)

    async def health(self) -> None:
        pass

    async def close(self) -> None:
        """Does nothing: a named store outlives its users."""


class MemoryLease:
    """One contender for a lease of a `MemoryStore`."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store = store
        self._name = name
        self._term: int | None = None

    @property
    def _record(self) -> LeaseRecord:
        return self._store.leases.get(self._name, LeaseRecord())

    async def acquire(self) -> int | None:
        record = self._record
        if record.holder not in (None, self):
            return None
        self._term = max(record.term + 1, self._store._now() // 1000)
        self._store.leases[self._name] = LeaseRecord(self._term, record.value, self)
        return self._term

    async def read(self) -> bytes | None:
        return self._record.value

    async def write(self, value: bytes) -> None:
        record = self._record
        if self._term is None or record.term != self._term:
            raise StoreError(f"the lease {self._name!r} is not held under term {self._term}")
        self._store.leases[self._name] = LeaseRecord(record.term, value, record.holder)

    async def renew(self) -> None:
        if self._term is None or self._record.term != self._term:
            raise StoreError(f"the lease {self._name!r} is not held under term {self._term}")

    async def release(self) -> None:
        record = self._record
        self._term = None
        if record.holder is self:
            self._store.leases[self._name] = LeaseRecord(record.term, record.value)


def _first(keys: Sequence[str]) -> list[str]:
    """The keys that a snapshot shows of these."""
    shown: list[str] = []
    counts = {"history-": 0, "": 0}
    for key in keys:
        numbered, family, _ = split(key)
        if not numbered or family not in ("history-", "inbox-", "outbox-"):
            family = ""
        if family in counts:
            counts[family] += 1
            if counts[family] > SNAPSHOT_LIMIT:
                continue
        shown.append(key)
    return shown


def _mark(marks: dict[ActorId, None], actor: ActorId, present: bool) -> None:
    if present:
        marks[actor] = None
    else:
        marks.pop(actor, None)


def _matches(row: InstanceRow, where: InstanceFilter) -> bool:
    return (
        row.actor.type == where.type
        and (not where.statuses or row.status in where.statuses)
        and (where.name is None or row.name == where.name)
        and row.actor.id.startswith(where.id_prefix)
        and (where.created_from is None or row.created >= where.created_from)
        and (where.created_to is None or row.created < where.created_to)
    )
