"""Lists: what is read over many partitions, page by page.

One value that cannot be read hides only itself: who else is due, or owes, must not wait for it. It is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from perdure.errors import CorruptState
from perdure.logs import fields
from perdure.statestore import cursors
from perdure.statestore.contract import ActorId, InstanceFilter, InstanceRow, Page, Reminder, TypePartition
from perdure.statestore.redis import records, scripts
from perdure.statestore.redis.layout import Layout, Names
from perdure.statestore.redis.link import Reply, packed
from perdure.statestore.redis.merge import Piece, Place, merged
from perdure.statestore.redis.order import (
    END,
    TOP,
    escaped,
    newest_place,
    place_newest,
    place_time,
    time_place,
    unescaped,
)
from perdure.statestore.redis.records import TIME

logger = logging.getLogger("perdure.statestore.redis")

#: The last time that can be stored.
LAST = 2**63 - 1

Call = tuple[int, bytes]


class Part(NamedTuple):
    """One partition of a type; in a query, its rows of one status or all."""

    type: str
    names: Names
    #: What stands before the time in a member of `instances`.
    head: bytes = b""


class Lists:
    def __init__(
        self, layout: Layout, partitions: int, ask: Callable[[Sequence[Call]], Awaitable[list[Reply]]]
    ) -> None:
        """`ask` gives the answers to many commands."""
        self._layout = layout
        self._partitions = partitions
        self._ask = ask

    # --- owing -------------------------------------------------------------------------------------------------------

    async def owing(self, held: Sequence[TypePartition], cursor: str | None, limit: int) -> Page[ActorId]:
        after = cursors.decode(cursor, str, int, str) if cursor is not None else ("", -1, "")
        parts = [one for one in sorted({TypePartition(*one) for one in held}) if one >= after[:2]]
        sizes = await self._ask([(n.slot, packed(b"ZCARD", n.owing)) for n in map(self._names, parts)])
        calls: list[Call] = []
        asked: list[TypePartition] = []
        room = limit + 1
        for part, size in zip(parts, sizes, strict=True):
            if size and room > 0:
                names, begun = self._names(part), part == after[:2]
                low = b"(" + after[2].encode() if begun else b"-"
                calls.append((names.slot, packed(b"ZRANGEBYLEX", names.owing, low, b"+", b"LIMIT", 0, room)))
                asked.append(part)
                # How many of the first part are behind the cursor is not known: those after it may be needed.
                room -= 0 if begun else size
        found: list[tuple[str, int, str]] = []
        for part, ids in zip(asked, await self._ask(calls), strict=True):
            for id in ids:
                try:
                    found.append((part.type, part.partition, id.decode()))
                except UnicodeDecodeError as error:
                    _skipped(error)
        page = cursors.page(found[: limit + 1], limit, tuple)
        return Page([ActorId(type, id) for type, _, id in page.items], page.cursor)

    # --- due ---------------------------------------------------------------------------------------------------------

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None, limit: int
    ) -> Page[Reminder]:
        after: Place | None = (b"", "", b"")
        if cursor is not None:
            time, type, id, name = cursors.decode(cursor, int, str, str, str)
            after = (_bounded(time, time_place), type, escaped(id) + END + name.encode())
        parts = [Part(one[0], self._names(one)) for one in dict.fromkeys(held)]
        items: list[Reminder] = []
        while after is not None and not items:
            found, after = await merged(parts, after, limit, _Due(self._ask, until))
            items = await self._reminders(found)
        if after is None:
            return Page(items)
        id, _, name = after[2].partition(END)
        return Page(items, cursors.encode((place_time(after[0]), after[1], unescaped(id), name.decode())))

    async def _reminders(self, found: Sequence[tuple[Place, Part]]) -> list[Reminder]:
        calls: list[Call] = []
        asked: list[tuple[ActorId, str, bytes]] = []
        for (time, type, rest), part in found:
            id, _, name = rest.partition(END)
            try:
                actor = ActorId(type, unescaped(id))
                asked.append((actor, name.decode(), time))
            except UnicodeDecodeError as error:
                _skipped(error)
                continue
            key = part.names.reminders + actor.id.encode()
            calls.append((part.names.slot, packed(b"HGET", key, name)))
        items: list[Reminder] = []
        for (actor, name, time), value in zip(asked, await self._ask(calls), strict=True):
            # Otherwise it was moved or deleted just now: it will be found at its new place.
            if value is not None and value[:TIME] == time:
                items.append(records.reminder(actor, name, value))
        return items

    # --- rows --------------------------------------------------------------------------------------------------------

    async def query(self, where: InstanceFilter, cursor: str | None, limit: int) -> Page[InstanceRow]:
        after: Place = (b"",)
        if cursor is not None:
            minus_created, id = cursors.decode(cursor, int, str)
            after = (_bounded(-minus_created, newest_place) + id.encode(),)
        heads = [status.encode() + b"\0" for status in sorted(set(where.statuses))] or [b"\0"]
        parts = [
            Part(where.type, self._layout.names(where.type, partition), head)
            for partition in range(self._partitions)
            for head in heads
        ]
        found, rest = await merged(parts, after, limit, _Rows(self._ask, where))
        # A row that changed its status meanwhile may be there twice.
        places = {place[0]: part.names for place, part in found}
        calls = [(names.slot, packed(b"HGET", names.rows, place[TIME:])) for place, names in places.items()]
        items: list[InstanceRow] = []
        for place, value in zip(places, await self._ask(calls), strict=True):
            # Otherwise it was changed or deleted just now.
            if value is not None and value[:TIME] == place[:TIME]:
                try:
                    row = records.row(ActorId(where.type, place[TIME:].decode()), value)
                except (CorruptState, UnicodeDecodeError) as error:
                    _skipped(error)
                    continue
                if (not where.statuses or row.status in where.statuses) and where.name in (None, row.name):
                    items.append(row)
        if rest is None:
            return Page(items)
        place = rest[0]
        return Page(items, cursors.encode((-place_newest(place[:TIME]), place[TIME:].decode())))

    async def count(self, type: str, limit: int) -> dict[str, int]:
        calls: list[Call] = []
        for partition in range(self._partitions):
            names = self._layout.names(type, partition)
            calls.append((names.slot, scripts.COUNT.call((names.instances,))))
        found: dict[str, int] = {}
        for flat in await self._ask(calls):
            for status, size in zip(flat[::2], flat[1::2], strict=True):
                name = status.decode()
                found[name] = min(limit, found.get(name, 0) + size)
        return found

    def _names(self, held: TypePartition) -> Names:
        return self._layout.names(*held)


class _Due:
    """Pieces of what is due in each partition, as (time, type, rest of the member)."""

    def __init__(self, ask: Callable[[Sequence[Call]], Awaitable[list[Reply]]], until: int) -> None:
        self._ask = ask
        self._high = b"(" + _bounded(until + 1, time_place) if until < LAST else b"+"

    async def __call__(self, asked: Sequence[tuple[Part, Place]], chunk: int) -> list[Piece[Part]]:
        high = self._high
        calls: list[Call] = []
        for (type, names, _), after in asked:
            low = _due_after(type, after)
            calls.append((names.slot, packed(b"ZRANGEBYLEX", names.due, low, high, b"LIMIT", 0, chunk)))
        pieces: list[Piece[Part]] = []
        for (part, _), members in zip(asked, await self._ask(calls), strict=True):
            places = [(member[:TIME], part.type, member[TIME:]) for member in members]
            pieces.append(
                Piece([(place, part) for place in places], places[-1] if len(members) == chunk else None)
            )
        return pieces


class _Rows:
    """Pieces of the rows of each partition and status, as (time and id,)."""

    def __init__(
        self, ask: Callable[[Sequence[Call]], Awaitable[list[Reply]]], where: InstanceFilter
    ) -> None:
        self._ask = ask
        self._where = where
        # Newest first: the latest that counts comes first.
        self._low = b"" if where.created_to is None else _bounded(where.created_to - 1, newest_place)
        self._high = (
            TOP * 9 if where.created_from is None else _bounded(where.created_from, newest_place) + TOP
        )
        #: Whether there is a condition that no index answers.
        self._scans = where.name is not None or bool(where.id_prefix)

    async def __call__(self, asked: Sequence[tuple[Part, Place]], chunk: int) -> list[Piece[Part]]:
        where = self._where
        calls: list[Call] = []
        for (_, names, head), (after,) in asked:
            low = b"(" + head + after if after and after >= self._low else b"[" + head + self._low
            high = b"(" + head + self._high
            if self._scans:
                # An empty name is that of no row.
                call = scripts.SCAN.call(
                    (names.instances, names.rows),
                    *(low, high, chunk, len(head) + TIME, where.id_prefix),
                    *(() if where.name is None else (where.name,)),
                )
            else:
                call = packed(b"ZRANGEBYLEX", names.instances, low, high, b"LIMIT", 0, chunk)
            calls.append((names.slot, call))
        pieces: list[Piece[Part]] = []
        for (part, _), members in zip(asked, await self._ask(calls), strict=True):
            size = len(part.head)
            # A scan says itself how far it came.
            last = members.pop(0) if self._scans else members[-1] if len(members) == chunk else b""
            entries = [((member[size:],), part) for member in members]
            pieces.append(Piece(entries, (last[size:],) if last else None))
        return pieces


def _due_after(type: str, after: Place) -> bytes:
    """From where on the reminders of one type come after a place in the order of all."""
    time, after_type, rest = after
    if not time:
        return b"-"
    if type == after_type:
        return b"(" + bytes(time) + bytes(rest)
    # Equal times are ordered by type: those of a lower type are over, those of a higher one are all still to come.
    return b"[" + bytes(time) if type > after_type else b"(" + bytes(time) + TOP


def _bounded(time: int, place: Callable[[int], bytes]) -> bytes:
    """The place of any time, also of one that cannot be stored."""
    return place(max(-LAST - 1, min(LAST, time)))


def _skipped(error: Exception) -> None:
    logger.error("a stored value cannot be read, and is left out of a list", extra=fields(reason=str(error)))
