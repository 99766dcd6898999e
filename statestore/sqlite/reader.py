"""Reader: all that only reads the database. Each function is a job of a reader thread."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from perdure.errors import PerdureError
from perdure.statestore import cursors
from perdure.statestore.contract import (
    SNAPSHOT_LIMIT,
    ActorId,
    Finding,
    InstanceFilter,
    InstanceRow,
    Page,
    Reminder,
    Snapshot,
    TypePartition,
)
from perdure.statestore.keys import KeyParts, join, split
from perdure.statestore.sqlite import queries
from perdure.statestore.sqlite.errors import mapped

READS = queries.load("reads.sql")

#: The keys that `load` reads at most in the first place; with metadata and customStatus, a whole snapshot.
SHORT = 998
#: A limit that is none.
ALL = 2**62
LEAST, MOST = -(2**63), 2**63 - 1

Types = Mapping[str, int]
#: Keys and values in the contract's order, keys taken apart.
Values = list[tuple[KeyParts, bytes]]


@contextmanager
def consistent(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything read inside is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


# --- snapshots -----------------------------------------------------------------------------------------------------


def is_new(connection: sqlite3.Connection, types: Types, actor: ActorId) -> bool:
    """Whether there is no such actor: a look into one index."""
    kind = types.get(actor.type)
    return kind is None or connection.execute(READS["knows"].text, (kind, actor.id)).fetchone() is None


def load(
    connection: sqlite3.Connection, types: Types, actors: Sequence[ActorId]
) -> list[Snapshot | PerdureError | None]:
    """A snapshot of each actor; None for one that does not exist, an error for one that cannot be read."""
    try:
        found = _load(connection, types, actors)
        return [found.get(actor) for actor in actors]
    except Exception as error:  # noqa: BLE001 - what one actor's row can do, the others must not hear of
        if len(actors) == 1:
            return [mapped(error)]
        # Only who cannot be read shall hear of it.
        middle = len(actors) // 2
        return load(connection, types, actors[:middle]) + load(connection, types, actors[middle:])


def _load(connection: sqlite3.Connection, types: Types, actors: Sequence[ActorId]) -> dict[ActorId, Snapshot]:
    wanted: list[int | str] = []
    for actor in actors:
        kind = types.get(actor.type)
        if kind is not None:
            wanted += (kind, actor.id)
    if not wanted:
        return {}
    names = {types[actor.type]: actor.type for actor in actors if actor.type in types}
    found: dict[ActorId, Snapshot] = {}
    for kind, id, recover, listing, version, metadata, custom_status, body in READS["load"].read(
        connection, wanted
    ):
        actor = ActorId(names[kind], id)
        # Text where the rows were too large to be packed.
        listed = msgspec.json.decode(listing) if isinstance(listing, str) else listing
        if len(listed) > SHORT:
            snapshot = _load_long(connection, kind, actor)
            if snapshot is not None:
                found[actor] = snapshot
            continue
        values = _shown(metadata, custom_status, listed, body or b"")
        found[actor] = Snapshot(version, values, bool(recover), True)
    return found


def _shown(
    metadata: bytes | None, custom_status: bytes | None, listed: list[tuple[int, str, int, int]], body: bytes
) -> dict[str, bytes]:
    """The snapshot's values. `listed` says what `body` is made of: each key's parts and its value's length."""
    shown: dict[str, bytes] = {}
    if custom_status is not None:
        shown["customStatus"] = custom_status
    if metadata is not None:
        shown["metadata"] = metadata
    at = 0
    for numbered, name, seq, size in listed:
        end = at + size
        shown[f"{name}{seq:06d}" if numbered else name] = body[at:end]
        at = end
    if listed and not listed[0][0] and len(shown) > len(listed):
        # Only then do other plain keys stand beside those of the head.
        return {key: shown[key] for key in sorted(shown, key=split)}
    return shown


def _with_head(metadata: bytes | None, custom_status: bytes | None, values: Values) -> Values:
    """The values with those that are kept in the head, in order."""
    head: Values = []
    if custom_status is not None:
        head.append((KeyParts(0, "customStatus", 0), custom_status))
    if metadata is not None:
        head.append((KeyParts(0, "metadata", 0), metadata))
    if not head:
        return values
    merged = head + values
    if values and not values[0][0].numbered:
        merged.sort(key=_parts)
    return merged


def _parts(item: tuple[KeyParts, bytes]) -> KeyParts:
    return item[0]


def _load_long(connection: sqlite3.Connection, kind: int, actor: ActorId) -> Snapshot | None:
    """A snapshot of an actor with so many keys that they are read family by family."""
    with consistent(connection):
        heads = READS["head"].read(connection, {"type": kind, "id": actor.id})
        if not heads:
            return None
        keyset, recover, version, metadata, custom_status = heads[0]
        more = SNAPSHOT_LIMIT + 1
        plain = _with_head(metadata, custom_status, _between(connection, keyset, 0, "", None, more))
        history = _family(connection, keyset, "history-", 0, more)
        waiting = _family(connection, keyset, "inbox-", 0, ALL) + _family(
            connection, keyset, "outbox-", 0, ALL
        )
        others = plain
        for low, high in (
            ("", "history-"),
            ("history-\0", "inbox-"),
            ("inbox-\0", "outbox-"),
            ("outbox-\0", None),
        ):
            if len(others) < more:
                others = others + _between(connection, keyset, 1, low, high, more - len(others))
    shown = others[:SNAPSHOT_LIMIT] + history[:SNAPSHOT_LIMIT] + waiting
    shown.sort(key=_parts)
    complete = len(others) < more and len(history) < more
    return Snapshot(version, {join(*parts): value for parts, value in shown}, bool(recover), complete)


def _between(
    connection: sqlite3.Connection, keyset: int, numbered: int, low: str, high: str | None, limit: int
) -> Values:
    rows = READS["keys_between"].read(
        connection, {"keyset": keyset, "numbered": numbered, "low": low, "high": high, "limit": limit}
    )
    return [(KeyParts(*row[:3]), row[3]) for row in rows]


def _family(connection: sqlite3.Connection, keyset: int, family: str, seq: int, limit: int) -> Values:
    rows = READS["keys_of_family"].read(
        connection, {"keyset": keyset, "family": family, "seq": seq, "limit": limit}
    )
    return [(KeyParts(*row[:3]), row[3]) for row in rows]


# --- keys ----------------------------------------------------------------------------------------------------------


def keys(
    connection: sqlite3.Connection, types: Types, actor: ActorId, prefix: str, start: str | None, limit: int
) -> Page[tuple[str, bytes]]:
    with consistent(connection):
        heads = READS["head"].read(connection, {"type": types.get(actor.type), "id": actor.id})
        if not heads:
            return Page([])
        keyset, _, _, metadata, custom_status = heads[0]
        least = split(start) if start is not None else KeyParts(0, "", 0)
        found: list[tuple[str, bytes]] = []
        if not least.numbered:
            low = max(prefix, least.name)
            plain = _between(connection, keyset, 0, low, None, limit + 1)
            for parts, value in _with_head(metadata, custom_status, plain):
                if parts.name >= low and parts.name.startswith(prefix):
                    found.append((parts.name, value))
        for family in _families(connection, keyset, least):
            if len(found) > limit:
                break
            if family.startswith(prefix) or prefix.startswith(family):
                first = least.seq if least.numbered and family == least.name else 0
                found += _of_family(connection, keyset, family, first, prefix, limit + 1 - len(found))
    return Page(found[:limit], found[limit][0] if len(found) > limit else None)


def _families(connection: sqlite3.Connection, keyset: int, least: KeyParts) -> Iterator[str]:
    """The numbered families from a key on: a look-up each, however many keys each has."""
    if least.numbered:
        yield least.name
    name = least.name if least.numbered else ""
    while rows := READS["next_family"].read(connection, {"keyset": keyset, "name": name}):
        name = rows[0][0]
        yield name


def _of_family(
    connection: sqlite3.Connection, keyset: int, family: str, seq: int, prefix: str, limit: int
) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    while len(found) < limit:
        values = _family(connection, keyset, family, seq, limit)
        found += [(key, value) for parts, value in values if (key := join(*parts)).startswith(prefix)]
        if len(values) < limit:
            break
        seq = values[-1][0].seq + 1  # Only a prefix that ends within the digits comes here twice.
    return found[:limit]


# --- partitions ----------------------------------------------------------------------------------------------------


def owing(
    connection: sqlite3.Connection,
    types: Types,
    partitions: int,
    held: Sequence[TypePartition],
    cursor: str | None,
    limit: int,
) -> Page[ActorId]:
    after = cursors.decode(cursor, str, int, int) if cursor is not None else ("", -1, -1)
    found: list[tuple[str, int, int, str]] = []
    for name, filter in _by_type(held, partitions):
        if len(found) > limit or name < after[0] or name not in types:
            continue
        partition, num = after[1:] if name == after[0] else (-1, -1)
        rows = READS["owing"].read(
            connection,
            {
                "type": types[name],
                "held": filter,
                "partition": partition,
                "num": num,
                "limit": limit + 1 - len(found),
            },
        )
        found += [(name, *row) for row in rows]
    page = cursors.page(found, limit, lambda one: one[:3])
    return Page([ActorId(one[0], one[3]) for one in page.items], page.cursor)


def due(
    connection: sqlite3.Connection,
    types: Types,
    partitions: int,
    held: Sequence[TypePartition],
    until: int,
    cursor: str | None,
    limit: int,
) -> Page[Reminder]:
    after = cursors.decode(cursor, int, str, str, str) if cursor is not None else (LEAST, "", "", "")
    found: list[Reminder] = []
    for name, filter in _by_type(held, partitions):
        if name in types:
            place = _place(name, after)
            rows = READS["due"].read(
                connection,
                {"type": types[name], "held": filter, "until": until, **place, "limit": limit + 1},
            )
            found += [Reminder(ActorId(name, id), reminder, at, data) for at, id, reminder, data in rows]
    found.sort(key=cursors.due_place)
    return cursors.page(found[: limit + 1], limit, cursors.due_place)


def _place(name: str, after: tuple[Any, ...]) -> dict[str, Any]:
    """From where on one type's reminders come after a place in the order of all types."""
    due, type, id, reminder = after
    if name == type:
        return {"due": due, "id": id, "name": reminder}
    # Equal times are ordered by type: those of a lower type are over, those of a higher one are all still to come.
    return {"due": due + 1 if name < type else due, "id": "", "name": ""}


def _by_type(held: Sequence[TypePartition], partitions: int) -> list[tuple[str, str | None]]:
    """Each type in order with its partitions as JSON; None: all of them, which need no filter."""
    types: dict[str, set[int]] = {}
    for name, partition in held:
        types.setdefault(name, set()).add(partition)
    return [
        (name, None if len(types[name]) >= partitions else json.dumps(sorted(types[name])))
        for name in sorted(types)
    ]


# --- reminders and rows --------------------------------------------------------------------------------------------


def reminders(connection: sqlite3.Connection, types: Types, actor: ActorId) -> list[Reminder]:
    rows = READS["reminders"].read(connection, {"type": types.get(actor.type), "id": actor.id})
    return [Reminder(actor, name, at, data) for name, at, data in rows]


def row(connection: sqlite3.Connection, types: Types, actor: ActorId) -> InstanceRow | None:
    rows = READS["row"].read(connection, {"type": types.get(actor.type), "id": actor.id})
    return _instance(actor.type, rows[0]) if rows else None


def query(
    connection: sqlite3.Connection, types: Types, where: InstanceFilter, cursor: str | None, limit: int
) -> Page[InstanceRow]:
    after = cursors.decode(cursor, int, str) if cursor is not None else (LEAST + 1, "")
    parameters = {
        "type": types.get(where.type),
        "name": where.name,
        "prefix": where.id_prefix,
        "from": LEAST if where.created_from is None else where.created_from,
        "to": MOST if where.created_to is None else where.created_to,
        "created": -after[0],
        "id": after[1],
        "limit": limit + 1,
    }
    found: list[InstanceRow] = []
    with consistent(connection):
        for status in sorted(set(where.statuses)) or _statuses(connection, parameters["type"]):
            rows = READS["query"].read(connection, {**parameters, "status": status})
            found += [_instance(where.type, row) for row in rows]
    found.sort(key=cursors.row_place)
    return cursors.page(found[: limit + 1], limit, cursors.row_place)


def count(connection: sqlite3.Connection, types: Types, type: str, limit: int) -> dict[str, int]:
    """How many rows there are of each status, up to a limit."""
    kind = types.get(type)
    with consistent(connection):
        return {
            status: READS["count"].read(connection, {"type": kind, "status": status, "limit": limit})[0][0]
            for status in _statuses(connection, kind)
        }


def _statuses(connection: sqlite3.Connection, kind: object) -> Iterator[str]:
    """The statuses that there are: a look-up each, however many rows each has. The empty one is none."""
    status = ""
    while rows := READS["next_status"].read(connection, {"type": kind, "status": status}):
        status = rows[0][0]
        yield status


def _instance(type: str, values: tuple[Any, ...]) -> InstanceRow:
    id, *rest = values
    return InstanceRow(ActorId(type, id), *rest)


# --- leases --------------------------------------------------------------------------------------------------------


def lease(connection: sqlite3.Connection, name: str) -> tuple[int, bytes | None]:
    """A lease's stored term and value; term 0 for one that nobody had yet."""
    found: tuple[int, bytes | None] | None = connection.execute(READS["lease"].text, (name,)).fetchone()
    return found or (0, None)


# --- looking at the file -------------------------------------------------------------------------------------------

#: Free bytes on the disk below which a store is about to stop.
LITTLE_ROOM = 256 * 1024 * 1024
#: Bytes of a file above which it is not read through: that would take minutes, and hold up checkpoints.
CHECKED = 1024 * 1024 * 1024


def diagnose(connection: sqlite3.Connection, types: Types) -> list[Finding]:
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    if synchronous >= 2:
        found = [Finding("ok", "durability", "synchronous=full: what is acknowledged survives a power cut")]
    else:
        said = "synchronous=normal: the last commits before a power cut may be lost"
        found = [Finding("warning", "durability", said, "leave out ?synchronous=normal unless that is meant")]
    free = shutil.disk_usage(Path(path).parent).free
    size = sum(file.stat().st_size for file in (Path(path), Path(f"{path}-wal")) if file.exists())
    said = f"{size / 1e6:.0f} MB used, {free / 1e6:.0f} MB free on its disk"
    if free < LITTLE_ROOM:
        advice = "make room: a full disk stops every workflow, although it loses none"
        found.append(Finding("warning", "disk", said, advice))
    else:
        found.append(Finding("ok", "disk", said))
    found.append(_pages(connection, size))
    return found


def _pages(connection: sqlite3.Connection, size: int) -> Finding:
    """What SQLite finds when it looks at every page of the file."""
    if size > CHECKED:
        return Finding(
            "ok", "file", "too large to be read through; PRAGMA quick_check does, while no node runs"
        )
    try:
        wrong = [text for (text,) in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        wrong = [str(error)]
    if wrong == ["ok"]:
        return Finding("ok", "file", "every page was read, and is as it should be")
    advice = (
        "stop the nodes, keep the file, and restore a backup; 'perdure export' saves what can still be read"
    )
    return Finding("error", "file", "; ".join(" ".join(text.split()) for text in wrong), advice)
