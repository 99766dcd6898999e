"""Reads: the statements that only read, and what their rows become. Each is one statement, so of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from perdure.errors import CorruptState
from perdure.statestore.contract import SNAPSHOT_LIMIT, ActorId, InstanceRow, Snapshot
from perdure.statestore.postgres.places import after, family, key, place

#: The keys that `LOAD` reads at most of one actor; with metadata and customStatus, a whole snapshot.
SHORT = 998
LEAST, MOST = -(2**63), 2**63 - 1

Row = Sequence[Any]

# $1, $2: types and ids. Those that exist, each with up to 999 of its keys.
LOAD = f"""
SELECT g.n, a.version, a.metadata, a.custom_status, a.owes, k.place, k.value
FROM generate_series(1, cardinality($1::bigint[])) g(n)
CROSS JOIN LATERAL (
    SELECT a.keyset, a.version, a.metadata, a.custom_status, EXISTS (
        SELECT 1 FROM perdure.owing o WHERE o.type = a.type AND o.partition = a.partition AND o.num = a.num
    ) AS owes
    FROM perdure.actors a WHERE a.type = ($1::bigint[])[g.n] AND a.id = ($2::text[])[g.n] OFFSET 0
) a
CROSS JOIN LATERAL (
    SELECT array_agg(s.place) AS place, array_agg(s.value) AS value
    FROM (SELECT k.place, k.value FROM perdure.keys k WHERE k.keyset = a.keyset ORDER BY k.place LIMIT {SHORT + 1}) s
) k
"""

# $1, $2: type and id; $3, $4: places from and before which; $5: how many of each range. One actor with many keys: the row
# without a place is its head, the others are its keys in these ranges.
LOAD_LONG = """
WITH a AS MATERIALIZED (SELECT * FROM perdure.actors WHERE type = $1 AND id = $2)
SELECT NULL::bytea AS place, a.version AS value, a.metadata, a.custom_status, EXISTS (
    SELECT 1 FROM perdure.owing o WHERE o.type = a.type AND o.partition = a.partition AND o.num = a.num
) AS owes
FROM a
UNION ALL
SELECT k.place, k.value, NULL, NULL, NULL
FROM a CROSS JOIN generate_series(1, cardinality($3::bytea[])) g(n) CROSS JOIN LATERAL (
    SELECT k.place, k.value FROM perdure.keys k
    WHERE k.keyset = a.keyset AND k.place >= ($3::bytea[])[g.n] AND k.place < ($4::bytea[])[g.n]
    ORDER BY k.place LIMIT ($5::bigint[])[g.n]
) k
"""

# $1, $2: type and id; $3, $4: places from and before which, in order; $5: how many of each range, and of all.
KEYS = """
WITH a AS MATERIALIZED (SELECT keyset, metadata, custom_status FROM perdure.actors WHERE type = $1 AND id = $2)
SELECT k.place, k.value FROM a CROSS JOIN generate_series(1, cardinality($3::bytea[])) g(n) CROSS JOIN LATERAL (
    (SELECT k.place, k.value FROM perdure.keys k
    WHERE k.keyset = a.keyset AND k.place >= ($3::bytea[])[g.n] AND k.place < ($4::bytea[])[g.n]
    ORDER BY k.place LIMIT $5)
    UNION ALL
    SELECT h.place, h.value FROM (
        VALUES ('\\x00'::bytea || 'metadata'::bytea, a.metadata), ('\\x00'::bytea || 'customStatus'::bytea, a.custom_status)
    ) h(place, value)
    WHERE h.value IS NOT NULL AND h.place >= ($3::bytea[])[g.n] AND h.place < ($4::bytea[])[g.n]
) k ORDER BY k.place LIMIT $5
"""

# $1: type; $2: partitions, ordered; $3, $4: after which partition and number; $5: how many.
OWING = """
SELECT p.partition, o.num, o.id FROM unnest($2::integer[]) WITH ORDINALITY p(partition, ord) CROSS JOIN LATERAL (
    SELECT o.num, o.id FROM perdure.owing o
    WHERE o.type = $1 AND o.partition = p.partition AND o.num > CASE p.partition WHEN $3 THEN $4::bigint ELSE -1 END
    ORDER BY o.num LIMIT $5
) o ORDER BY p.ord, o.num LIMIT $5
"""

# $1: type; $2: until when; $3, $4, $5: after which time, id and name; $6: a bit for each partition, NULL: all; $7: how
# many.
DUE = """
SELECT r.due, r.id, r.name, r.data FROM perdure.reminders r
WHERE r.type = $1 AND r.due <= $2 AND (r.due, r.id, r.name) > ($3::bigint, $4::text, $5::text)
    AND CASE WHEN $6::bytea IS NULL THEN true WHEN r.partition < 8 * length($6) THEN get_bit($6, r.partition) = 1 END
ORDER BY r.due, r.id, r.name LIMIT $7
"""

# $1, $2: type and id.
REMINDERS = """
SELECT r.name, r.due, r.data FROM perdure.actors a JOIN perdure.reminders r ON r.num = a.num
WHERE a.type = $1 AND a.id = $2 ORDER BY r.name
"""

# $1, $2: type and id.
ROW = """
SELECT i.id, i.name, i.status, i.created, i.updated, i.details
FROM perdure.actors a JOIN perdure.instances i ON i.num = a.num WHERE a.type = $1 AND a.id = $2
"""

# $1: type; $2: statuses, NULL: all that there are, a look-up each; $3, $4: created from, before; $5, $6: after which
# time and id; $7: name or NULL; $8: how ids begin; $9: how many.
QUERY = """
WITH RECURSIVE every(status) AS (
    (SELECT i.status FROM perdure.instances i WHERE $2::text[] IS NULL AND i.type = $1 ORDER BY i.status LIMIT 1)
    UNION ALL
    SELECT (SELECT i.status FROM perdure.instances i WHERE i.type = $1 AND i.status > e.status ORDER BY i.status LIMIT 1)
    FROM every e WHERE e.status IS NOT NULL
), wanted(status) AS (
    SELECT status FROM every WHERE status IS NOT NULL UNION ALL SELECT unnest($2)
)
SELECT q.* FROM wanted w CROSS JOIN LATERAL (
    SELECT i.id, i.name, i.status, i.created, i.updated, i.details FROM perdure.instances i
    WHERE i.type = $1 AND i.status = w.status AND i.created >= $3 AND i.created < $4
        AND i.created <= $5 AND (i.created < $5 OR i.id > $6)
        AND ($7::text IS NULL OR i.name = $7) AND starts_with(i.id, $8)
    ORDER BY i.created DESC, i.id LIMIT $9
) q ORDER BY q.created DESC, q.id LIMIT $9
"""

TYPES = "SELECT name FROM perdure.types ORDER BY name"
LEASE = "SELECT value FROM perdure.leases WHERE name = $1"


#: The ranges of `LOAD_LONG`, and how many keys of each a snapshot may need.
_RANGES = [
    (b"\0", b"\1", SNAPSHOT_LIMIT + 1),
    (family("history-"), after(family("history-")), SNAPSHOT_LIMIT + 1),
    (family("inbox-"), after(family("inbox-")), None),
    (family("outbox-"), after(family("outbox-")), None),
    (b"\1", family("history-"), SNAPSHOT_LIMIT + 1),
    (after(family("history-")), family("inbox-"), SNAPSHOT_LIMIT + 1),
    (after(family("inbox-")), family("outbox-"), SNAPSHOT_LIMIT + 1),
    (after(family("outbox-")), b"\2", SNAPSHOT_LIMIT + 1),
]
LONG_RANGES = tuple(list(column) for column in zip(*_RANGES, strict=True))


def snapshot(row: Row) -> Snapshot | None:
    """What a row of `LOAD` shows; None if the actor has more keys than it holds."""
    _, version, metadata, custom_status, owes, places, values = row
    shown: dict[str, bytes] = {}
    if custom_status is not None:
        shown[_CUSTOM_STATUS] = custom_status
    if metadata is not None:
        shown[_METADATA] = metadata
    if places is not None:
        if len(places) > SHORT:
            return None
        head = len(shown)
        shown.update(zip(map(key, places), values, strict=True))
        if head and places[0][0] == 0:
            # Only then do other plain keys stand beside those of the head.
            shown = {one: shown[one] for one in sorted(shown, key=place)}
    return Snapshot(version, shown, owes, True)


def long_snapshot(rows: Sequence[Row]) -> Snapshot | None:
    """What the rows of `LOAD_LONG` show."""
    heads = [row for row in rows if row[0] is None]
    if not heads:
        return None
    _, version, metadata, custom_status, owes = heads[0]
    history, waiting = family("history-"), (family("inbox-"), family("outbox-"))
    # Each with its place, in order.
    histories: list[tuple[bytes, bytes]] = []
    waits: list[tuple[bytes, bytes]] = []
    others = [
        (place(name), value)
        for name, value in ((_METADATA, metadata), (_CUSTOM_STATUS, custom_status))
        if value is not None
    ]
    for at, value, *_ in rows:
        if at is not None:
            kind = histories if at.startswith(history) else waits if at.startswith(waiting) else others
            kind.append((at, value))
    histories.sort()
    others.sort()
    complete = len(others) <= SNAPSHOT_LIMIT and len(histories) <= SNAPSHOT_LIMIT
    shown = sorted(others[:SNAPSHOT_LIMIT] + histories[:SNAPSHOT_LIMIT] + waits)
    return Snapshot(version, {key(at): value for at, value in shown}, owes, complete)


def key_ranges(prefix: str, start: str | None) -> list[tuple[bytes, bytes]]:
    """From which places, and before which, the keys with this prefix lie; in order. Where the prefix ends within the
    number of a family, all of the family."""
    text = prefix.encode()
    begin, end = (b"\0", b"\1") if not text else (b"\0" + text, after(b"\0" + text))
    ranges = [(begin, end)]
    name, hyphen, digits = prefix.rpartition("-")
    if hyphen and digits and digits.isascii() and digits.isdigit():
        ranges.append((family(name + hyphen), after(family(name + hyphen))))
    escaped = b"\1" + text.replace(b"\0", b"\0\xff")
    ranges.append((escaped, after(escaped)))
    least = place(start) if start is not None else b""
    return [(max(low, least), high) for low, high in ranges if high > least]


def instance(type: str, row: Row) -> InstanceRow:
    id, *rest = row
    return InstanceRow(ActorId(type, id), *rest)


def bits(partitions: Iterable[int]) -> bytes:
    """A bit for each of these partitions, as PostgreSQL's `get_bit` counts them."""
    held = set(partitions)
    result = bytearray(max(held, default=0) // 8 + 1)
    for partition in held:
        result[partition // 8] |= 1 << partition % 8
    return bytes(result)


def corrupt(actor: ActorId, error: Exception) -> CorruptState:
    return CorruptState(f"{actor} cannot be read: {error}")


_METADATA = "metadata"
_CUSTOM_STATUS = "customStatus"
