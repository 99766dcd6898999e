"""Plan: what a batch of commits writes, as rows for each statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from perdure.statestore.contract import (
    COMMITTED,
    ActorId,
    Commit,
    CommitResult,
    Conflict,
    Fence,
    Fenced,
    InstanceRow,
    Reminder,
)
from perdure.statestore.keys import split
from perdure.statestore.sqlite import queries

WRITES = queries.load("writes.sql")

#: In this order: what is deleted before what is put, so that a reminder can be cleared and put by one commit.
ORDER = (
    "put_types",
    "put_settings",
    "put_garbage",
    "delete_keys",
    "delete_owing",
    "clear_reminders",
    "delete_reminders",
    "delete_instances",
    "delete_heads",
    "delete_actors",
    "put_actors",
    "put_heads_0",
    "put_heads_1",
    "put_heads_2",
    "put_heads_3",
    "put_keys",
    "put_owing",
    "put_reminders",
    "put_instances",
    "put_fences",
    "put_leases",
)
_STATEMENTS = tuple(WRITES[name] for name in ORDER)

METADATA = "metadata"
CUSTOM_STATUS = "customStatus"


class Entry(NamedTuple):
    """What the writer knows of an actor without asking the database."""

    num: int
    keyset: int
    version: bytes


class Numbers:
    """Gives out the numbers of actors, key sets and types. Reserved in the database in blocks, in the transaction
    that first uses one: a number never comes twice, however the process ends."""

    BLOCK = 4096

    def __init__(self, reserved: int) -> None:
        self.next = reserved + 1
        self.reserved = reserved

    def take(self) -> int:
        number = self.next
        self.next = number + 1
        return number


class Memory:
    """The writer's own knowledge. Only one process and one thread write, so this can be looked at instead of the
    database; it changes after a transaction, never before."""

    #: Actors whose entry is kept: the last ones that were written.
    ENTRIES = 50_000

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.types: dict[str, int] = {}
        self.fences: dict[tuple[str, int], tuple[Fence, bool]] = {}
        self.entries: dict[ActorId, Entry] = {}

    def settle(self, types: dict[str, int], entries: dict[ActorId, Entry | None]) -> None:
        self.types.update(types)
        known = self.entries
        for actor, entry in entries.items():
            known.pop(actor, None)  # So that the dict's order is that of the last writes.
            if entry is not None:
                known[actor] = entry
        while len(known) > self.ENTRIES:
            del known[next(iter(known))]


class Plan:
    """Gathers the rows of one transaction."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.rows: dict[str, list[Any]] = {name: [] for name in ORDER}
        self._entries: dict[ActorId, Entry | None] = {}
        self._types: dict[str, int] = {}
        rows = self.rows
        self._heads = (rows["put_heads_0"], rows["put_heads_1"], rows["put_heads_2"], rows["put_heads_3"])
        self._keys = rows["put_keys"]
        #: Bytes of the values put.
        self.size = 0

    def write(self, connection: sqlite3.Connection) -> None:
        """Runs the transaction, and then settles the memory."""
        numbers = self._memory.numbers
        reserved = numbers.reserved
        if numbers.next > reserved:
            reserved = numbers.next + Numbers.BLOCK
            self.rows["put_settings"] += ("numbers", reserved)
        work = [(query, rows) for query, rows in zip(_STATEMENTS, self.rows.values(), strict=True) if rows]
        if work:
            transact(connection, work)
        numbers.reserved = reserved
        self._memory.settle(self._types, self._entries)

    def add(self, commit: Commit) -> CommitResult:
        """Decides one commit, and takes its rows if it passes."""
        actor, memory = commit.actor, self._memory
        entry = memory.entries.get(actor)
        stored = None if entry is None else entry.version
        if stored == commit.version:
            return COMMITTED
        if entry is None and commit.reset and not commit.put:
            return COMMITTED
        held = memory.fences.get((actor.type, commit.partition))
        if held is None or held[0] != commit.fence:
            return Fenced(held[0] if held else None)
        if stored != commit.expected:
            return Conflict(stored)
        if entry is None:
            num = keyset = self._create(actor, commit.partition)
            touched = 3
        elif not commit.reset:
            num, keyset, _ = entry
            touched = 0
        elif not commit.put:
            self._remove(commit, entry)
            return COMMITTED
        else:
            num, keyset = entry.num, memory.numbers.take()
            self.rows["put_garbage"].append(entry.keyset)
            touched = 3
        self._put(commit, num, keyset, touched)
        self._entries[actor] = Entry(num, keyset, commit.version)
        return COMMITTED

    def _put(self, commit: Commit, num: int, keyset: int, touched: int) -> None:
        metadata = custom_status = None
        keys, size = self._keys, 0
        for key, value in commit.put.items():
            size += len(value)
            if key == METADATA:
                metadata, touched = value, touched | 1
            elif key == CUSTOM_STATUS:
                custom_status, touched = value, touched | 2
            else:
                numbered, name, seq = split(key)
                keys += (keyset, numbered, name, seq, value)
        self.size += size
        if commit.delete and not commit.reset:
            touched |= self._delete(commit, keyset)
        self._heads[touched].extend((num, keyset, commit.version, metadata, custom_status))
        if commit.recover is not None:
            name = "put_owing" if commit.recover else "delete_owing"
            self.rows[name] += (self.type(commit.actor.type), commit.partition, num)
        if commit.clear_reminders or commit.delete_reminders or commit.reminders:
            self._remind(commit, num)
        if commit.delete_row:
            self.rows["delete_instances"].append(num)
        if commit.row is not None:
            self.rows["put_instances"] += self._instance(commit.row, num)

    def _delete(self, commit: Commit, keyset: int) -> int:
        touched = 0
        rows = self.rows["delete_keys"]
        for key in commit.delete:
            if key == METADATA:
                touched |= 1
            elif key == CUSTOM_STATUS:
                touched |= 2
            else:
                rows += (keyset, *split(key))
        return touched

    def _create(self, actor: ActorId, partition: int) -> int:
        num = self._memory.numbers.take()
        self.rows["put_actors"] += (num, self.type(actor.type), actor.id, partition)
        return num

    def _remove(self, commit: Commit, entry: Entry) -> None:
        rows = self.rows
        rows["put_garbage"].append(entry.keyset)
        rows["delete_owing"] += (self.type(commit.actor.type), commit.partition, entry.num)
        for name in ("clear_reminders", "delete_instances", "delete_heads", "delete_actors"):
            rows[name].append(entry.num)
        self._entries[commit.actor] = None

    def _remind(self, commit: Commit, num: int) -> None:
        if commit.clear_reminders:
            self.rows["clear_reminders"].append(num)
        for name in commit.delete_reminders:
            self.rows["delete_reminders"] += (num, name)
        if commit.reminders:
            # Of one name the last counts.
            last: dict[str, Reminder] = {reminder.name: reminder for reminder in commit.reminders}
            kind = self.type(commit.actor.type)
            for name, one in last.items():
                self.rows["put_reminders"] += (
                    num, name, kind, commit.partition, commit.actor.id, one.due, one.data,
                )  # fmt: skip

    def _instance(self, row: InstanceRow, num: int) -> tuple[Any, ...]:
        kind = self.type(row.actor.type)
        return (num, kind, row.actor.id, row.name, row.status, row.created, row.updated, row.details)

    def type(self, name: str) -> int:
        """The number of an actor type; a new one is part of this plan."""
        number = self._memory.types.get(name) or self._types.get(name)
        if number is None:
            number = self._types[name] = self._memory.numbers.take()
            self.rows["put_types"] += (number, name)
        return number


def transact(connection: sqlite3.Connection, work: Sequence[tuple[queries.Query, list[Any]]]) -> None:
    """Runs statements as one transaction: all or, with the exception, nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for query, rows in work:
            query.run(connection, rows)
        connection.execute("COMMIT")
    except BaseException:
        rollback(connection)
        raise


def rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # Some errors end the transaction themselves.
        connection.execute("ROLLBACK")
