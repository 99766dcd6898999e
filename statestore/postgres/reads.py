"""Reads: the statements that only read, and what their rows become. Each is one statement, so of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from perdure.errors import CorruptState
from perdure.statestore.contract import SNAPSHOT_LIMIT, ActorId, InstanceRow, Snapshot
from perdure.statestore.keys import KeyParts, join, split

#: The keys that `LOAD` reads at most of one actor; with metadata and customStatus, a whole snapshot.
SHORT = 998
LEAST, MOST = -(2**63), 2**63 - 1
#: A text above all others: what begins so is no text that anybody writes.
GREATEST = "\U0010ffff" * 16

Row = Sequence[Any]

# $1, $2: types and ids. Those that exist, each with up to 999 of its keys.
LOAD = f"""
SELECT u.ord, a.version, a.metadata, a.custom_status,
    EXISTS (SELECT 1 FROM perdure.owing o WHERE o.type = a.type AND o.partition = a.partition AND o.num = a.num) AS owes,
    k.numbered, k.name, k.seq, k.value
FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY u(type, id, ord)
JOIN perdure.actors a ON a.type = u.type AND a.id = u.id
CROSS JOIN LATERAL (
    SELECT array_agg(s.numbered) AS numbered, array_agg(s.name) AS name, array_agg(s.seq) AS seq,
        array_agg(s.value) AS value
    FROM (
        SELECT k.numbered, k.name, k.seq, k.value FROM perdure.keys k WHERE k.keyset = a.keyset
        ORDER BY k.numbered, k.name, k.seq LIMIT {SHORT + 1}
    ) s
) k
"""

# $1, $2: type and id; $3: the greatest text. One actor with many keys: the row without `numbered` is its head, the others
# are all keys that a snapshot may show: 1,001 plain ones, 1,001 of `history-`, all of `inbox-` and `outbox-`, 1,001 of
# other families.
LOAD_LONG = f"""
WITH a AS MATERIALIZED (SELECT * FROM perdure.actors WHERE type = $1 AND id = $2)
SELECT NULL::smallint AS numbered, NULL AS name, CASE WHEN EXISTS (
        SELECT 1 FROM perdure.owing o WHERE o.type = a.type AND o.partition = a.partition AND o.num = a.num
    ) THEN 1 ELSE 0 END::bigint AS seq, a.version AS value, a.metadata, a.custom_status
FROM a
UNION ALL
SELECT k.*, NULL, NULL FROM a CROSS JOIN LATERAL (
    SELECT numbered, name, seq, value FROM perdure.keys WHERE keyset = a.keyset AND numbered = 0
    ORDER BY numbered, name, seq LIMIT {SNAPSHOT_LIMIT + 1}
) k
UNION ALL
SELECT k.*, NULL, NULL FROM a CROSS JOIN LATERAL (
    SELECT numbered, name, seq, value FROM perdure.keys WHERE keyset = a.keyset AND numbered = 1 AND name = 'history-'
    ORDER BY numbered, name, seq LIMIT {SNAPSHOT_LIMIT + 1}
) k
UNION ALL
SELECT k.numbered, k.name, k.seq, k.value, NULL, NULL
FROM a CROSS JOIN (VALUES ('inbox-'), ('outbox-')) w(name) JOIN perdure.keys k ON k.keyset = a.keyset
WHERE k.numbered = 1 AND k.name = w.name
UNION ALL
SELECT k.*, NULL, NULL FROM a CROSS JOIN (
    VALUES ('', 'history-'), ('history-' || chr(1), 'inbox-'), ('inbox-' || chr(1), 'outbox-'), ('outbox-' || chr(1), $3)
) r(low, high) CROSS JOIN LATERAL (
    SELECT numbered, name, seq, value FROM perdure.keys WHERE keyset = a.keyset AND numbered = 1
        AND name >= r.low AND name < r.high
    ORDER BY numbered, name, seq LIMIT {SNAPSHOT_LIMIT + 1}
) k
"""

# $1, $2: type and id; $3, $4, $5: the first key, taken apart; $6, $7: from which name on and before which other names
# begin with the prefix; $8, $9: a family and how its numbers begin, where the prefix ends within these; $10: how many.
KEYS = """
WITH a AS MATERIALIZED (SELECT keyset, metadata, custom_status FROM perdure.actors WHERE type = $1 AND id = $2)
SELECT * FROM (
    SELECT 0::smallint AS numbered, h.name COLLATE "C" AS name, 0::bigint AS seq, h.value FROM a CROSS JOIN LATERAL (
        VALUES ('metadata', a.metadata), ('customStatus', a.custom_status)
    ) h(name, value)
    WHERE h.value IS NOT NULL AND (0::smallint, h.name COLLATE "C", 0) >= ($3::smallint, $4::text, $5::bigint)
        AND h.name COLLATE "C" >= $6::text AND h.name COLLATE "C" < $7::text
    UNION ALL
    (SELECT k.numbered, k.name, k.seq, k.value FROM a JOIN perdure.keys k ON k.keyset = a.keyset
    WHERE k.numbered = 0 AND (k.numbered, k.name, k.seq) >= ($3, $4, $5) AND k.name >= $6 AND k.name < $7
    ORDER BY k.numbered, k.name, k.seq LIMIT $10)
    UNION ALL
    (SELECT k.numbered, k.name, k.seq, k.value FROM a JOIN perdure.keys k ON k.keyset = a.keyset
    WHERE k.numbered = 1 AND k.name = $8::text AND (k.numbered, k.name, k.seq) >= ($3, $4, $5)
        AND starts_with(lpad(k.seq::text, greatest(6, length(k.seq::text)), '0'), $9)
    ORDER BY k.numbered, k.name, k.seq LIMIT $10)
    UNION ALL
    (SELECT k.numbered, k.name, k.seq, k.value FROM a JOIN perdure.keys k ON k.keyset = a.keyset
    WHERE k.numbered = 1 AND (k.numbered, k.name, k.seq) >= ($3, $4, $5) AND k.name >= $6 AND k.name < $7
    ORDER BY k.numbered, k.name, k.seq LIMIT $10)
) k ORDER BY numbered, name, seq LIMIT $10
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


def snapshot(row: Row) -> Snapshot | None:
    """What a row of `LOAD` shows; None if the actor has more keys than it holds."""
    _, version, metadata, custom_status, owes, numbered, name, seq, value = row
    shown: dict[str, bytes] = {}
    if custom_status is not None:
        shown[_CUSTOM_STATUS] = custom_status
    if metadata is not None:
        shown[_METADATA] = metadata
    if name is not None:
        if len(name) > SHORT:
            return None
        head = len(shown)
        for one, family, number, content in zip(numbered, name, seq, value, strict=True):
            shown[f"{family}{number:06d}" if one else family] = content
        if head and not numbered[0]:
            # Only then do other plain keys stand beside those of the head.
            shown = {key: shown[key] for key in sorted(shown, key=split)}
    return Snapshot(version, shown, owes, True)


def long_snapshot(rows: Sequence[Row]) -> Snapshot | None:
    """What the rows of `LOAD_LONG` show."""
    if not rows:
        return None
    (head,) = (row for row in rows if row[0] is None)
    _, _, owes, version, metadata, custom_status = head
    history: list[tuple[KeyParts, bytes]] = []
    waiting: list[tuple[KeyParts, bytes]] = []
    others: list[tuple[KeyParts, bytes]] = []
    for name, value in ((_METADATA, metadata), (_CUSTOM_STATUS, custom_status)):
        if value is not None:
            others.append((KeyParts(0, name, 0), value))
    for numbered, name, seq, value, _, _ in rows:
        if numbered is None:
            continue
        kind = others
        if numbered and name == "history-":
            kind = history
        elif numbered and name in ("inbox-", "outbox-"):
            kind = waiting
        kind.append((KeyParts(int(numbered), name, seq), value))
    others.sort(key=_parts)
    history.sort(key=_parts)
    shown = others[:SNAPSHOT_LIMIT] + history[:SNAPSHOT_LIMIT] + waiting
    shown.sort(key=_parts)
    complete = len(others) <= SNAPSHOT_LIMIT and len(history) <= SNAPSHOT_LIMIT
    return Snapshot(version, {join(*parts): value for parts, value in shown}, owes == 1, complete)


def key_values(rows: Iterable[Row]) -> list[tuple[str, bytes]]:
    return [(join(numbered, name, seq), value) for numbered, name, seq, value in rows]


def instance(type: str, row: Row) -> InstanceRow:
    id, *rest = row
    return InstanceRow(ActorId(type, id), *rest)


def after_prefix(prefix: str) -> str:
    """The least text that comes after all that begin with `prefix`."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last == 0xD800:
            last = 0xE000  # Surrogates are no characters.
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(last)
        prefix = prefix[:-1]
    return GREATEST


def within_numbers(prefix: str) -> tuple[str | None, str | None]:
    """The family, and how its numbers begin, of a prefix that ends within a number."""
    family, hyphen, digits = prefix.rpartition("-")
    if hyphen and digits and digits.isascii() and digits.isdigit():
        return family + hyphen, digits
    return None, None


def bits(partitions: Iterable[int]) -> bytes:
    """A bit for each of these partitions, as PostgreSQL's `get_bit` counts them."""
    held = set(partitions)
    result = bytearray(max(held, default=0) // 8 + 1)
    for partition in held:
        result[partition // 8] |= 1 << partition % 8
    return bytes(result)


def corrupt(actor: ActorId, error: Exception) -> CorruptState:
    return CorruptState(f"{actor} cannot be read: {error}")


def _parts(item: tuple[KeyParts, bytes]) -> KeyParts:
    return item[0]


_METADATA = "metadata"
_CUSTOM_STATUS = "customStatus"
