"""RedisStore: the contract over Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from perdure.errors import (
    ConfigurationError,
    CorruptState,
    PerdureError,
    StoreError,
    StoreFormat,
    StoreUnavailable,
)
from perdure.statestore import cursors
from perdure.statestore.contract import (
    DEFAULT_PARTITIONS,
    FORMAT_VERSION,
    SNAPSHOT_LIMIT,
    ActorId,
    Commit,
    CommitResult,
    Fence,
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
from perdure.statestore.keys import split
from perdure.statestore.partitions import partition_of
from perdure.statestore.redis import commits, errors, order, scripts
from perdure.statestore.redis.layout import PRIVATE, VERSION, Layout, Names
from perdure.statestore.redis.lease import RedisLease
from perdure.statestore.redis.link import Error, Reply, packed
from perdure.statestore.redis.merge import Piece, Place, merged
from perdure.statestore.redis.server import Road

Call = tuple[int, bytes]

#: The last time that can be stored.
LAST = 2**63 - 1
#: Commands that are sent together at most, where one request makes many.
TOGETHER = 512


class Servers(Protocol):
    """Which server has which slot, and the way there."""

    started: bool

    async def start(self) -> None:
        """Called once, before anything else, on the event loop."""

    async def run(self, road: Road, calls: Iterable[Call], *, durable: bool = False) -> list[Reply]:
        """The answers to commands, each given with its slot. See `Server.run`."""

    def slots(self) -> Sequence[tuple[int, int]]:
        """From which slot to which each server has."""

    async def close(self) -> None: ...


class RedisStore:
    """Nothing is connected until the first call. `ConfigurationError` from any method means that the server is not set
    up for a store, or has one that is set up otherwise."""

    def __init__(
        self,
        servers: Callable[[Callable[[str], None]], Servers],
        *,
        namespace: str = "default",
        partitions: int | None = None,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`servers` is given whom to tell when a server may have lost what was acknowledged."""
        self._servers = servers(self._rolled_back)
        self._layout = Layout(namespace)
        self._wanted = partitions
        self._partitions = 0
        self._settings: Settings | None = None
        self._preparing: asyncio.Lock | None = None
        self._rollbacks: list[Callable[[str], None]] = []
        #: Those that the server is known to have.
        self._types: set[str] = set()
        #: The leases that were taken through this store.
        self._leases: set[RedisLease] = set()
        self._closed = False
        self.now = now

    @property
    def shared(self) -> bool:
        return True

    def on_rollback(self, callback: Callable[[str], None]) -> None:
        """`RollbackAware`."""
        self._rollbacks.append(callback)

    def _rolled_back(self, reason: str) -> None:
        self._types.clear()
        for callback in self._rollbacks:
            callback(reason)

    # --- one actor ---------------------------------------------------------------------------------------------------

    async def load(self, actor: ActorId) -> Snapshot | None:
        names, id = await self._names(actor)
        call = scripts.LOAD.call((names.actor + id, names.sorted + id, names.owing), id, SNAPSHOT_LIMIT)
        reply = await self._one(Road.READS, names.slot, call)
        if reply is None:
            return None
        values = _values(reply[1])
        version = values.pop(VERSION, None)
        if version is None:
            raise CorruptState(f"{actor} has no version")
        return Snapshot(version, _keys(values), bool(reply[0]), len(reply) == 2 or bool(reply[2]))

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = SNAPSHOT_LIMIT
    ) -> Page[tuple[str, bytes]]:
        names, id = await self._names(actor)
        bounds: list[bytes] = []
        for low, high in order.ranges(prefix, start):
            bounds += (b"[" + low, b"(" + high)
        call = scripts.KEYS.call((names.actor + id, names.sorted + id), limit + 1, *bounds)
        partial, flat = await self._one(Road.READS, names.slot, call)
        found = list(_keys(_values(flat)).items())
        if not partial:
            least = split(start or "")
            found = [
                (key, value)
                for key, value in found
                if key.startswith(prefix) and (start is None or split(key) >= least)
            ]
        return Page(found[:limit], found[limit][0] if len(found) > limit else None)

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        names, id = await self._names(actor)
        flat = await self._one(Road.READS, names.slot, packed(b"HGETALL", names.reminders + id))
        found = [_reminder(actor, name.decode(), value) for name, value in _values(flat).items()]
        return sorted(found, key=lambda one: one.name)

    async def row(self, actor: ActorId) -> InstanceRow | None:
        names, id = await self._names(actor)
        value = await self._one(Road.READS, names.slot, packed(b"HGET", names.rows, id))
        return None if value is None else _row(actor, value)

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        if self._settings is None or self._closed:
            await self._prepare()
        results: list[CommitResult | None] = []
        # Packed while they are sent: the server works on the first ones meanwhile.
        replies = iter(await self._servers.run(Road.WRITES, self._packed(batch, results), durable=True))
        return [commits.result(next(replies)) if result is None else result for result in results]

    def _packed(self, batch: Sequence[Commit], results: list[CommitResult | None]) -> Iterator[Call]:
        layout, partitions = self._layout, self._partitions
        for commit in batch:
            try:
                if commit.partition != partition_of(commit.actor.id, partitions):
                    raise commits.Refused(f"{commit.actor} is not in partition {commit.partition}")
                call = commits.pack(layout, commit)
            except (commits.Refused, UnicodeError) as error:
                results.append(Rejected(str(error)))
            else:
                results.append(None)
                yield call

    # --- partitions --------------------------------------------------------------------------------------------------

    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        await self._note_types({type for type, _ in held} - self._types)
        replies = await self._fences(scripts.TAKE, held, (fence[0], fence[1]))
        return [
            Taken(bool(detail)) if taken else Refused(commits.fence_of(detail)) for taken, detail in replies
        ]

    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        await self._fences(scripts.RELEASE, held, (commits.fence_text(fence),))

    async def types(self) -> Sequence[str]:
        await self._prepare()
        command = packed(b"SMEMBERS", self._layout.own("types"))
        return sorted(name.decode() for name in await self._one(Road.READS, self._layout.own_slot, command))

    async def _note_types(self, types: set[str]) -> None:
        """Before a partition of them is taken, so that none is taken and not known."""
        if types:
            await self._prepare()
            command = packed(b"SADD", self._layout.own("types"), *sorted(types))
            await self._one(Road.WRITES, self._layout.own_slot, command, durable=True)
            self._types |= types

    async def _fences(
        self, script: scripts.Script, held: Sequence[TypePartition], args: tuple[str | int, ...]
    ) -> list[Reply]:
        await self._prepare()
        calls: list[Call] = []
        for type, partition in held:
            names = self._layout.names(type, partition)
            calls.append((names.slot, script.call((names.fence,), *args)))
        return await self._many(Road.WRITES, calls, durable=True)

    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        after = cursors.decode(cursor, str, int, str) if cursor is not None else None
        await self._prepare()
        parts = sorted({TypePartition(*one) for one in held})
        if after is not None:
            parts = [one for one in parts if tuple(one) >= after[:2]]
        sizes = await self._many(
            Road.READS, [(n.slot, packed(b"ZCARD", n.owing)) for n in map(self._of, parts)]
        )
        calls, asked, room = [], [], limit + 1
        for part, size in zip(parts, sizes, strict=True):
            if size and room > 0:
                begun = after is not None and tuple(part) == after[:2]
                low = b"(" + str(after[2]).encode() if begun and after is not None else b"-"
                names = self._of(part)
                calls.append(
                    (
                        names.slot,
                        packed(b"ZRANGEBYLEX", names.owing, low, b"+", b"LIMIT", 0, room),
                    )
                )
                asked.append(part)
                # How many of the first part are behind the cursor is not known: those after it may be needed.
                room -= 0 if begun else size
        found: list[tuple[str, int, str]] = []
        for part, ids in zip(asked, await self._many(Road.READS, calls), strict=True):
            found += [(part.type, part.partition, id.decode()) for id in ids]
        page = cursors.page(found[: limit + 1], limit, tuple)
        return Page([ActorId(type, id) for type, _, id in page.items], page.cursor)

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        after: Place = (b"", "", b"")
        if cursor is not None:
            at, type, id, name = cursors.decode(cursor, int, str, str, str)
            after = (_time_place(at), type, order.escaped(id) + order.END + name.encode())
        await self._prepare()
        high = b"(" + _time_place(until + 1) if until < LAST else b"+"

        async def fetch(
            asked: Sequence[tuple[TypePartition, Place]], chunk: int
        ) -> list[Piece[TypePartition]]:
            calls = [
                (
                    names.slot,
                    packed(b"ZRANGEBYLEX", names.due, _due_low(part, place), high, b"LIMIT", 0, chunk),
                )
                for (part, place), names in zip(asked, [self._of(part) for part, _ in asked], strict=True)
            ]
            pieces = []
            for (part, _), members in zip(asked, await self._many(Road.READS, calls), strict=True):
                places = [(member[:8], part.type, member[8:]) for member in members]
                until_place = places[-1] if len(members) == chunk else None
                pieces.append(Piece([(place, part) for place in places], until_place))
            return pieces

        parts = list({TypePartition(*one): None for one in held})
        found, rest = await merged(parts, after, limit, fetch)
        calls, asked = [], []
        for place, part in found:
            names = self._of(part)
            id, _, name = place[2].partition(order.END)
            actor = ActorId(part.type, order.unescaped(id))
            key = names.reminders + actor.id.encode()
            calls.append((names.slot, packed(b"HGET", key, name)))
            asked.append((actor, name.decode(), place[0]))
        items = [
            _reminder(actor, name, value)
            for (actor, name, time_place), value in zip(
                asked, await self._many(Road.READS, calls), strict=True
            )
            # Otherwise it was moved or deleted just now: it will be found at its new place.
            if value is not None and value[:8] == time_place
        ]
        if rest is None:
            return Page(items)
        id, _, name = rest[2].partition(order.END)
        return Page(
            items,
            cursors.encode((order.place_time(rest[0]), rest[1], order.unescaped(id), name.decode())),
        )

    # --- lists -------------------------------------------------------------------------------------------------------

    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        after: Place = (b"",)
        if cursor is not None:
            minus_created, id = cursors.decode(cursor, int, str)
            after = (_newest_place(-minus_created) + id.encode(),)
        await self._prepare()
        low = _newest_place(where.created_to - 1) if where.created_to is not None else b""
        high = (
            _newest_place(where.created_from) + order.TOP if where.created_from is not None else order.TOP * 9
        )
        scanning = where.name is not None or bool(where.id_prefix)

        async def fetch(asked: Sequence[tuple[_Part, Place]], chunk: int) -> list[Piece[_Part]]:
            calls: list[Call] = []
            for part, place in asked:
                begin = (
                    b"(" + part.head + place[0] if place[0] >= low and place[0] else b"[" + part.head + low
                )
                end = b"(" + part.head + high
                names = part.names
                calls.append((names.slot, (
                    scripts.SCAN.call(
                        (names.instances, names.rows), begin, end, chunk, len(part.head) + 8, where.id_prefix, where.name or "",
                    )
                    if scanning
                    else packed(b"ZRANGEBYLEX", names.instances, begin, end, b"LIMIT", 0, chunk)
                )))  # fmt: skip
            pieces = []
            for (part, _), members in zip(asked, await self._many(Road.READS, calls), strict=True):
                size = len(part.head)
                # A scan says itself how far it came.
                last = members.pop(0) if scanning else members[-1] if len(members) == chunk else b""
                pieces.append(
                    Piece([((member[size:],), part) for member in members], (last[size:],) if last else None)
                )
            return pieces

        heads = [status.encode() + b"\0" for status in sorted(set(where.statuses))] or [b"\0"]
        parts = [
            _Part(self._layout.names(where.type, partition), head)
            for partition in range(self._partitions)
            for head in heads
        ]
        found, rest = await merged(parts, after, limit, fetch)
        calls = [(part.names.slot, packed(b"HGET", part.names.rows, place[0][8:])) for place, part in found]
        items: list[InstanceRow] = []
        for (place, _), value in zip(found, await self._many(Road.READS, calls), strict=True):
            if value is None:
                continue
            row = _row(ActorId(where.type, place[0][8:].decode()), value)
            # It may have changed since the index was read.
            if not (where.statuses and row.status not in where.statuses) and where.name in (None, row.name):
                items.append(row)
        if rest is None:
            return Page(items)
        return Page(items, cursors.encode((-order.place_newest(rest[0][:8]), rest[0][8:].decode())))

    async def count(self, type: str, limit: int) -> Mapping[str, int]:
        """`Counting`."""
        await self._prepare()
        calls = []
        for partition in range(self._partitions):
            names = self._layout.names(type, partition)
            calls.append((names.slot, scripts.COUNT.call((names.instances,))))
        found: dict[str, int] = {}
        for flat in await self._many(Road.READS, calls):
            for status, size in zip(flat[::2], flat[1::2], strict=True):
                name = status.decode()
                found[name] = min(limit, found.get(name, 0) + size)
        return found

    # --- the store ---------------------------------------------------------------------------------------------------

    def lease(self, name: str) -> RedisLease:
        return RedisLease(self, name)

    def holds(self, lease: RedisLease, held: bool) -> None:
        """For leases: whether one has to be given back when the store is closed."""
        (self._leases.add if held else self._leases.discard)(lease)

    async def ask_lease(self, name: str, args: tuple[str | bytes | int, ...], *, durable: bool) -> Reply:
        """For leases: what lease.lua says."""
        await self._prepare()
        keys = (self._layout.own(f"lease:{name}"), self._layout.own(f"held:{name}"))
        return await self._one(
            Road.LEASES, self._layout.own_slot, scripts.LEASE.call(keys, *args), durable=durable
        )

    async def lease_value(self, name: str) -> bytes | None:
        """For leases: the value of one."""
        await self._prepare()
        command = packed(b"HGET", self._layout.own(f"lease:{name}"), b"value")
        value: bytes | None = await self._one(Road.LEASES, self._layout.own_slot, command)
        return value

    async def settings(self) -> Settings:
        await self._prepare()
        assert self._settings is not None
        return self._settings

    async def health(self) -> None:
        await self._prepare()
        # A write to each server: one that is full, or has become a replica, still answers a PING.
        wanted = [first for first, _ in self._servers.slots()]
        calls: list[Call] = []
        for first, last in self._servers.slots():
            for partition in range(self._partitions):
                slot, key = self._layout.partition_key(partition, "health")
                if first <= slot <= last:
                    calls.append((slot, packed(b"SET", key, b"1", b"PX", 60_000)))
                    break
        assert len(calls) <= len(wanted)
        await self._many(Road.WRITES, calls, durable=True)

    async def close(self) -> None:
        if self._closed:
            return
        # Who comes next is not to wait until they lapse.
        for lease in list(self._leases):
            with contextlib.suppress(PerdureError):
                await lease.release()
        self._closed = True
        await self._servers.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._settings is not None:
            return
        if self._preparing is None:
            self._preparing = asyncio.Lock()
        async with self._preparing:
            if self._settings is None:
                await self._servers.start()
                await self._probe()
                self._settings = await self._fixed()
                self._partitions = self._settings.partitions
                self._servers.started = True

    async def _probe(self) -> None:
        """`ConfigurationError` if the user may not do what a store does."""
        keys = tuple(self._layout.own(f"probe:{kind}") for kind in ("hash", "set", "string"))
        (reply,) = await self._servers.run(
            Road.LEASES, ((self._layout.own_slot, scripts.PROBE.call(keys)),), durable=False
        )
        if errors.forbidden(reply):
            raise ConfigurationError(f"Redis: this user may not do what a store does: {reply}")
        if isinstance(reply, Error):
            raise errors.mapped(str(reply))

    async def _fixed(self) -> Settings:
        call = scripts.SETTINGS.call(
            (self._layout.own("settings"),), self._wanted or DEFAULT_PARTITIONS, FORMAT_VERSION
        )
        partitions, version = map(
            int, await self._one(Road.LEASES, self._layout.own_slot, call, durable=True)
        )
        if version > FORMAT_VERSION:
            raise StoreFormat(
                f"the store has format {version}; this release knows formats up to {FORMAT_VERSION}"
            )
        if self._wanted not in (None, partitions):
            raise ConfigurationError(
                f"the store has {partitions} partitions, not {self._wanted}; that is fixed when it is first used"
            )
        return Settings(partitions, version)

    async def _names(self, actor: ActorId) -> tuple[Names, bytes]:
        await self._prepare()
        try:
            id = actor.id.encode()
        except UnicodeError:
            raise StoreError(f"{actor.id!r} is no text") from None
        return self._layout.names(actor.type, partition_of(actor.id, self._partitions)), id

    def _of(self, held: TypePartition) -> Names:
        return self._layout.names(*held)

    async def _one(self, road: Road, slot: int, call: bytes, *, durable: bool = False) -> Reply:
        (reply,) = await self._servers.run(road, ((slot, call),), durable=durable)
        if isinstance(reply, Error):
            raise errors.mapped(str(reply))
        return reply

    async def _many(self, road: Road, calls: Sequence[Call], *, durable: bool = False) -> list[Reply]:
        """The answers to many commands; the first error among them is raised."""
        replies: list[Reply] = []
        for at in range(0, len(calls), TOGETHER):
            replies += await self._servers.run(road, calls[at : at + TOGETHER], durable=durable)
        if Error in map(type, replies):
            raise errors.mapped(str(next(reply for reply in replies if isinstance(reply, Error))))
        return replies


class _Part:
    """One partition's rows of one status, or all."""

    __slots__ = ("head", "names")

    def __init__(self, names: Names, head: bytes) -> None:
        self.names = names
        self.head = head


def _values(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    it = iter(flat)
    return dict(zip(it, it, strict=True))


def _keys(values: dict[bytes, bytes]) -> dict[str, bytes]:
    """The actor's keys among a hash's fields, in the contract's order."""
    found = {field.decode(): value for field, value in values.items() if not field.startswith(PRIVATE)}
    return {key: found[key] for key in sorted(found, key=split)}


def _reminder(actor: ActorId, name: str, value: bytes) -> Reminder:
    return Reminder(actor, name, order.place_time(value[:8]), value[8:])


def _row(actor: ActorId, value: bytes) -> InstanceRow:
    try:
        return commits.decode_row(actor, value)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the index row of {actor} cannot be read: {error}") from error


def _time_place(time: int) -> bytes:
    """The place of any time, also of one that cannot be stored."""
    return order.time_place(max(-LAST - 1, min(LAST, time)))


def _newest_place(time: int) -> bytes:
    return order.newest_place(max(-LAST - 1, min(LAST, time)))


def _due_low(part: TypePartition, after: Place) -> bytes:
    """From where on one partition's reminders come after a place in the order of all."""
    time_place: bytes = after[0]
    type, rest = after[1:]
    if not time_place:
        return b"-"
    if part.type == type:
        return b"(" + time_place + bytes(rest)
    # Equal times are ordered by type: those of a lower type are over, those of a higher one are all still to come.
    return b"[" + time_place if part.type > type else b"(" + time_place + order.TOP
