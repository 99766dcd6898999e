"""RedisStore: the contract over Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial, wraps
from itertools import chain
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from perdure.errors import (
    ConfigurationError,
    CorruptState,
    PerdureError,
    StoreError,
    StoreFormat,
    StoreUnavailable,
)
from perdure.logs import fields
from perdure.statestore.contract import (
    COMMITTED,
    DEFAULT_PARTITIONS,
    FORMAT_VERSION,
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
    Rejected,
    Reminder,
    Settings,
    Snapshot,
    Taken,
    TypePartition,
)
from perdure.statestore.keys import split
from perdure.statestore.partitions import partition_of
from perdure.statestore.redis import commits, errors, order, records, scripts
from perdure.statestore.redis.acknowledged import Mark
from perdure.statestore.redis.layout import VERSION, Layout, Names
from perdure.statestore.redis.lease import RedisLease
from perdure.statestore.redis.link import Error, Reply, packed
from perdure.statestore.redis.lists import Call, Lists
from perdure.statestore.redis.server import Road

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("perdure.statestore.redis")

#: Seconds for which a store that is closed tries to give its leases back.
GIVE_BACK_SECONDS = 2.0
#: Commits that one call of the script does at most: nobody else is served meanwhile.
TOGETHER_COMMITS = 128
#: As many are in the first one of a large batch, so that the server begins while the others are packed. Not all of
#: them: where each script is followed by a write to the disk, fewer are better.
FIRST_COMMITS = 16
#: Commands that are sent together at most, where one request makes many.
TOGETHER = 512


class Servers(Protocol):
    """Which server has which slot, and the way there."""

    started: bool
    #: Whether one call may touch any slots.
    together: bool

    async def start(self) -> None:
        """Called once, before anything else, on the event loop."""

    async def run(self, road: Road, calls: Iterable[Call], *, durable: bool = False) -> list[Reply]:
        """The answers to commands, each given with its slot. See `Server.run`."""

    def slots(self) -> Sequence[tuple[int, int]]:
        """From which slot to which each server has."""

    async def diagnose(self) -> list[Finding]:
        """What is to be said of the servers."""

    def unanswered(self, marks: Sequence[Mark]) -> None:
        """Whether these writes are done is not known."""

    def acknowledged(self, marks: Sequence[Mark]) -> None:
        """These writes are done."""

    async def close(self) -> None: ...


def _of_text(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """`StoreError` for what is asked of with text that is none: lone surrogates, which nothing stored has."""

    @wraps(method)
    async def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except UnicodeEncodeError as error:
            raise StoreError(f"{error.object!r} is no text") from None

    return asked


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
        self._closing: asyncio.Task[None] | None = None
        self.now = now

    @property
    def shared(self) -> bool:
        return True

    def on_rollback(self, callback: Callable[[str], None]) -> None:
        """`RollbackAware`."""
        self._rollbacks.append(callback)

    def _rolled_back(self, reason: str) -> None:
        # What was fixed at first use may be lost as well.
        if self._settings is not None:
            self._wanted, self._settings = self._settings.partitions, None
        self._types.clear()
        logger.error("the store may have lost what it acknowledged", extra=fields(reason=reason))
        for callback in self._rollbacks:
            try:
                callback(reason)
            except Exception:
                logger.exception("rollback callback failed")

    # --- one actor ---------------------------------------------------------------------------------------------------

    @_of_text
    async def load(self, actor: ActorId) -> Snapshot | None:
        names, id = await self._names(actor)
        call = scripts.LOAD.call((names.actor + id, names.sorted + id, names.owing), id, SNAPSHOT_LIMIT)
        reply = await self._one(Road.READS, names.slot, call)
        if reply is None:
            return None
        with records.reading(actor):
            hash = records.pairs(reply[1])
            version = hash.get(VERSION)
            if not version:
                raise CorruptState(f"{actor} cannot be read: it has no version")
            return Snapshot(version, records.keys(hash), bool(reply[0]), len(reply) == 2 or bool(reply[2]))

    @_of_text
    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = SNAPSHOT_LIMIT
    ) -> Page[tuple[str, bytes]]:
        names, id = await self._names(actor)
        bounds: list[bytes] = []
        for low, high in order.ranges(prefix, start):
            bounds += (b"[" + low, b"(" + high)
        call = scripts.KEYS.call((names.actor + id, names.sorted + id), limit + 1, *bounds)
        partial, flat = await self._one(Road.READS, names.slot, call)
        with records.reading(actor):
            found = list(records.keys(records.pairs(flat)).items())
        if not partial:
            least = split(start or "")
            found = [
                (key, value)
                for key, value in found
                if key.startswith(prefix) and (start is None or split(key) >= least)
            ]
        return Page(found[:limit], found[limit][0] if len(found) > limit else None)

    @_of_text
    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        names, id = await self._names(actor)
        flat = await self._one(Road.READS, names.slot, packed(b"HGETALL", names.reminders + id))
        with records.reading(f"a reminder of {actor}"):
            hash = records.pairs(flat)
            found = [records.reminder(actor, name.decode(), value) for name, value in hash.items()]
        return sorted(found, key=lambda one: one.name)

    @_of_text
    async def row(self, actor: ActorId) -> InstanceRow | None:
        names, id = await self._names(actor)
        value = await self._one(Road.READS, names.slot, packed(b"HGET", names.rows, id))
        return None if value is None else records.row(actor, value)

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        if self._settings is None or self._closed:
            await self._prepare()
        results: list[CommitResult | None] = [None] * len(batch)
        sent: list[list[int]] = []
        marks: list[Mark] = []
        servers = self._servers
        try:
            # Packed while they are sent: the server works on the first ones meanwhile.
            calls = self._calls(batch, results, sent, marks)
            replies = await servers.run(Road.WRITES, calls, durable=True)
            found = [commits.results(reply, len(ats)) for reply, ats in zip(replies, sent, strict=True)]
        except BaseException:
            servers.unanswered(marks)
            raise
        for ats, some in zip(sent, found, strict=True):
            for at, result in zip(ats, some, strict=True):
                results[at] = result
        done = [
            mark
            for mark, result in zip(marks, chain.from_iterable(found), strict=True)
            if result is COMMITTED
        ]
        if done:
            servers.acknowledged(done)
        return cast(list[CommitResult], results)

    def _calls(
        self,
        batch: Sequence[Commit],
        results: list[CommitResult | None],
        sent: list[list[int]],
        marks: list[Mark],
    ) -> Iterator[Call]:
        """The calls for a batch. Of each, `sent` has where its commits are in the batch, and `marks` their marks;
        `results` has what is known of those that cannot be stored."""
        layout, partitions = self._layout, self._partitions
        together = self._servers.together
        most = (FIRST_COMMITS if len(batch) > 2 * FIRST_COMMITS else TOGETHER_COMMITS) if together else 1
        some: list[commits.Ready] = []
        ats: list[int] = []
        for at, commit in enumerate(batch):
            try:
                if commit.partition != partition_of(commit.actor.id, partitions):
                    raise commits.Refused(f"{commit.actor} is not in partition {commit.partition}")
                some.append(commits.ready(layout, commit))
            except (commits.Refused, UnicodeError) as error:
                results[at] = Rejected(str(error))
                continue
            ats.append(at)
            if len(some) == most:
                yield from self._call(some, ats, results, sent, marks)
                some, ats = [], []
                most = TOGETHER_COMMITS if together else 1
        if some:
            yield from self._call(some, ats, results, sent, marks)

    def _call(
        self,
        some: list[commits.Ready],
        ats: list[int],
        results: list[CommitResult | None],
        sent: list[list[int]],
        marks: list[Mark],
    ) -> Iterator[Call]:
        try:
            data = commits.call(some)
        except commits.Refused as error:
            if len(some) == 1:
                results[ats[0]] = Rejected(str(error))
                return
            # Only who is at fault is to hear of it.
            for one, at in zip(some, ats, strict=True):
                yield from self._call([one], [at], results, sent, marks)
            return
        sent.append(ats)
        marks += [one.mark for one in some]
        yield some[0].mark.slot, data

    # --- partitions --------------------------------------------------------------------------------------------------

    @_of_text
    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        await self._note_types({type for type, _ in held} - self._types)
        text = records.fence_text(fence)
        marks, replies = await self._fences(scripts.TAKE, held, text.encode(), (fence[0], fence[1]))
        self._servers.acknowledged([mark for mark, (taken, _) in zip(marks, replies, strict=True) if taken])
        return [Taken(bool(detail)) if taken else Refused(records.fence(detail)) for taken, detail in replies]

    @_of_text
    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        marks, _ = await self._fences(scripts.RELEASE, held, None, (records.fence_text(fence),))
        self._servers.acknowledged(marks)

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
            self._servers.acknowledged([Mark(self._layout.own_slot, b"", b"", None)])
            self._types |= types

    async def _fences(
        self,
        script: scripts.Script,
        held: Sequence[TypePartition],
        written: bytes | None,
        args: tuple[str | int, ...],
    ) -> tuple[list[Mark], list[Reply]]:
        await self._prepare()
        calls: list[Call] = []
        marks: list[Mark] = []
        for type, partition in held:
            names = self._layout.names(type, partition)
            calls.append((names.slot, script.call((names.fence,), *args)))
            marks.append(Mark(names.slot, names.fence, b"fence", written))
        return marks, await self._many(Road.WRITES, calls, durable=True)

    @_of_text
    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        return await (await self._pages()).owing(held, cursor, limit)

    @_of_text
    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        return await (await self._pages()).due(held, until, cursor, limit)

    # --- lists -------------------------------------------------------------------------------------------------------

    @_of_text
    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        return await (await self._pages()).query(where, cursor, limit)

    @_of_text
    async def count(self, type: str, limit: int) -> Mapping[str, int]:
        """`Counting`."""
        return await (await self._pages()).count(type, limit)

    async def _pages(self) -> Lists:
        await self._prepare()
        return Lists(self._layout, self._partitions, partial(self._many, Road.READS))

    # --- the store ---------------------------------------------------------------------------------------------------

    def lease(self, name: str) -> RedisLease:
        return RedisLease(self, name)

    def holds(self, lease: RedisLease, held: bool) -> None:
        """For leases: whether one has to be given back when the store is closed."""
        (self._leases.add if held else self._leases.discard)(lease)

    async def ask_lease(self, name: str, args: tuple[str | bytes | int, ...], *, durable: bool) -> Reply:
        """For leases: what lease.lua says."""
        await self._prepare()
        keys = (self._layout.own(f"lease:{name}"),)
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
        calls: list[Call] = []
        for first, last in self._servers.slots():
            for partition in range(self._partitions):
                slot, key = self._layout.partition_key(partition, "health")
                if first <= slot <= last:
                    calls.append((slot, packed(b"SET", key, b"1", b"PX", 60_000)))
                    break
        await self._many(Road.WRITES, calls, durable=True)

    async def diagnose(self) -> Sequence[Finding]:
        """`Diagnosable`."""
        await self._prepare()
        return await self._servers.diagnose()

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(), name="redis close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # Who comes next is not to wait until they lapse.
        with contextlib.suppress(PerdureError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                for lease in list(self._leases):
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
                try:
                    await self._probe()
                    self._settings = await self._fixed()
                except ConfigurationError as error:
                    if self._servers.started:
                        # It was right once: whoever commits must not take it for a fault of the commit.
                        raise StoreUnavailable(str(error)) from error
                    raise
                self._partitions = self._settings.partitions
                self._servers.started = True

    async def _probe(self) -> None:
        """`ConfigurationError` if the user may not do what a store does."""
        kinds = ("hash", "set", "string")
        own = tuple(self._layout.own(f"probe:{kind}") for kind in kinds)
        ours = tuple(self._layout.partition_key(0, f"probe:{kind}") for kind in kinds)
        calls = [
            (self._layout.own_slot, scripts.PROBE.call(own)),
            (ours[0][0], scripts.PROBE.call(tuple(key for _, key in ours))),
        ]
        for reply in await self._servers.run(Road.LEASES, calls):
            if errors.forbidden(reply):
                called = scripts.PROBE.called(str(reply))
                raise ConfigurationError(f"Redis: this user may not do what a store does ({called}): {reply}")
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
        partition = partition_of(actor.id, self._partitions)
        return self._layout.names(actor.type, partition), actor.id.encode()

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
