"""Commits as the arrays that the function `commit_1` of the migrations takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from perdure.errors import StoreError
from perdure.statestore.contract import Commit, Reminder
from perdure.statestore.postgres.ids import storable, type_number
from perdure.statestore.postgres.places import place as key_place

METADATA = "metadata"
CUSTOM_STATUS = "customStatus"

#: The flags of a commit.
TOUCH_METADATA = 1
TOUCH_CUSTOM_STATUS = 2
RESET = 4
REMOVE = 8
NEW = 16

#: How the function is called: one argument for each column of each table below, and the count of new actors.
ARGUMENTS = ", ".join(f"${number}" for number in range(1, 36))

_INT8 = range(-(2**63), 2**63)
_PARTITIONS = range(2**31)


class Rows:
    """The arrays of one call, flat rows turned into columns at the end: `commit_1` says what they hold."""

    __slots__ = (
        "_rewritten",
        "actors",
        "cleared",
        "deleted",
        "erased",
        "fresh",
        "gone",
        "instances",
        "keys",
        "news",
        "owing",
        "paid",
        "reminders",
    )

    def __init__(self, rewritten: Collection[bytes]) -> None:
        self._rewritten = rewritten
        self.fresh: list[tuple[Any, ...]] = []
        self.actors: list[tuple[Any, ...]] = []
        self.news = 0
        self.keys: list[tuple[Any, ...]] = []
        self.deleted: list[tuple[Any, ...]] = []
        self.owing: list[int] = []
        self.paid: list[int] = []
        self.cleared: list[int] = []
        self.erased: list[tuple[Any, ...]] = []
        self.reminders: list[tuple[Any, ...]] = []
        self.gone: list[int] = []
        self.instances: list[tuple[Any, ...]] = []

    def add(self, place: int, fence: int, commit: Commit) -> None:
        flags = 0
        metadata = custom_status = None
        fresh, keys, rewritten = self.fresh, self.keys, self._rewritten
        for key, value in commit.put.items():
            if key == METADATA:
                metadata, flags = value, flags | TOUCH_METADATA
            elif key == CUSTOM_STATUS:
                custom_status, flags = value, flags | TOUCH_CUSTOM_STATUS
            else:
                at = key_place(key)
                (fresh if at[0] and at[:-8] not in rewritten else keys).append((place, at, value))
        if commit.reset:
            flags = RESET | TOUCH_METADATA | TOUCH_CUSTOM_STATUS if commit.put else self._remove(place)
        elif commit.delete:
            flags |= self._delete(place, commit)
        if commit.expected is None and not flags & REMOVE:
            flags |= NEW
            self.news += 1
        self.actors.append(
            (commit.actor.id, fence << 5 | flags, commit.expected, commit.version, metadata, custom_status)
        )
        if not flags & REMOVE:
            self._beside(place, commit)

    def _remove(self, place: int) -> int:
        self.paid.append(place)
        self.cleared.append(place)
        self.gone.append(place)
        return RESET | REMOVE

    def _delete(self, place: int, commit: Commit) -> int:
        flags = 0
        for key in commit.delete:
            if key == METADATA:
                flags |= TOUCH_METADATA
            elif key == CUSTOM_STATUS:
                flags |= TOUCH_CUSTOM_STATUS
            else:
                self.deleted.append((place, key_place(key)))
        return flags

    def _beside(self, place: int, commit: Commit) -> None:
        """What a commit changes beside its keys."""
        if commit.recover is not None:
            if commit.recover:
                self.owing.append(place)
            else:
                self.paid.append(place)
        if commit.clear_reminders:
            self.cleared.append(place)
        elif commit.delete_reminders:
            self.erased += [(place, name) for name in commit.delete_reminders]
        if commit.reminders:
            # Of one name the last counts.
            last: dict[str, Reminder] = {reminder.name: reminder for reminder in commit.reminders}
            self.reminders += [(place, name, one.due, one.data) for name, one in last.items()]
        row = commit.row
        if row is not None:
            self.instances.append((place, row.name, row.status, row.created, row.updated, row.details))
        elif commit.delete_row:
            self.gone.append(place)


class Call(NamedTuple):
    """One call of the function."""

    #: For each place, from 0, the index of its commit in the sequence.
    order: list[int]
    arguments: list[Any]
    #: The families of the keys that must be new.
    fresh: set[bytes]


def call(commits: Sequence[Commit], rewritten: Collection[bytes] = ()) -> Call:
    """The call that writes these commits. Numbered keys are taken to be new, which saves a third of what it costs to
    write them, but those of the families `rewritten`. Locks are taken in the order of places, which is that of the
    actors' index, the same for all processes. `UnicodeEncodeError` and `StoreError` for what `unstorable` explains."""
    numbers = [type_number(commit.actor.type) for commit in commits]
    order = sorted(range(len(commits)), key=lambda at: (numbers[at], commits[at].actor.id))
    needed = sorted({(number, c.partition, *c.fence) for number, c in zip(numbers, commits, strict=True)})
    fences = {fence: place for place, fence in enumerate(needed, 1)}
    tables = sorted({(number, term, epoch) for number, _, term, epoch in needed})
    table = {one: place << 32 for place, one in enumerate(tables, 1)}
    if not all(partition in _PARTITIONS for _, partition, _, _ in needed):
        raise StoreError("a partition is a number from 0 to 2147483647")
    rows = Rows(rewritten)
    for place, at in enumerate(order, 1):
        commit = commits[at]
        rows.add(place, fences[(numbers[at], commit.partition, *commit.fence)], commit)
    arguments = [
        *_columns(tables, 3),
        [table[number, term, epoch] | partition for number, partition, term, epoch in needed],
        *_columns(rows.actors, 6),
        rows.news,
        *_columns(rows.fresh, 3),
        *_columns(rows.keys, 3),
        *_columns(rows.deleted, 2),
        rows.owing or None,
        rows.paid or None,
        rows.cleared or None,
        *_columns(rows.erased, 2),
        *_columns(rows.reminders, 4),
        rows.gone or None,
        *_columns(rows.instances, 6),
    ]
    return Call(order, arguments, {at[:-8] for _, at, _ in rows.fresh})


def unstorable(commit: Commit) -> str | None:
    """Why a commit can never be stored, as far as that can be told by looking at it."""
    for key in (*commit.put, *commit.delete):
        # Keys are bytes there, and may hold a NUL.
        if not storable(key.replace("\0", "")):
            return f"{key[:60]!r} is no text"
    texts = [
        commit.actor.id,
        *commit.delete_reminders,
        *(reminder.name for reminder in commit.reminders),
        *((commit.row.name, commit.row.status) if commit.row else ()),
    ]
    for text in texts:
        if not storable(text):
            return f"PostgreSQL's text cannot hold {text[:60]!r}"
    numbers = [*commit.fence, *(reminder.due for reminder in commit.reminders)]
    if commit.row is not None:
        numbers += (commit.row.created, commit.row.updated)
    if commit.partition not in _PARTITIONS or any(number not in _INT8 for number in numbers):
        return "a number of it is out of range"
    return None


def _columns(rows: Sequence[Sequence[Any]], width: int) -> Sequence[Sequence[Any] | None]:
    """The columns of rows; None for each when there is no row, which costs less than an empty array."""
    return list(zip(*rows, strict=True)) if rows else [None] * width
