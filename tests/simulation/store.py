"""The simulated store: one memory store behind a wire that delays, refuses, loses answers and applies writes late."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from perdure.errors import StoreError, StoreUnavailable
from perdure.statestore.contract import (
    ActorId,
    Commit,
    CommitResult,
    Committed,
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
from perdure.statestore.memory import LeaseRecord, MemoryState, MemoryStore
from tests.simulation.loop import SimLoop
from tests.simulation.process import EPOCH, Process

T = TypeVar("T")

#: A value with these bytes in it is one that the store can never write.
POISON = b"poison"
#: Seconds without renewal after which a lease is free.
LEASE_SECONDS = 2.0


class Observer(Protocol):
    """Who looks on at every write, in the order in which the store makes them."""

    def committed(self, process: Process, commit: Commit) -> None: ...
    def taken(self, process: Process, held: TypePartition, fence: Fence, result: Taken | Refused) -> None: ...
    def fenced(self, process: Process, commit: Commit) -> None: ...
    def acknowledged(self, process: Process, commits: Sequence[Commit]) -> None: ...


class SimServer:
    """The store itself, and its state of health. Shared by all processes."""

    def __init__(self, loop: SimLoop, seed: int, partitions: int, observer: Observer) -> None:
        self.loop = loop
        self.memory = MemoryStore(partitions=partitions, now=lambda: EPOCH + int(loop.now * 1e6))
        self.observer = observer
        self.rng = random.Random(f"{seed}-store")
        #: Chance that a request fails: before it is done, after it, or is done late.
        self.failing = 0.0
        #: Until then it refuses everything.
        self.down_until = 0.0
        self.latency = 0.002
        self.leases: dict[str, SimLease] = {}
        #: One more each time it lost what it had acknowledged; and those who are to be told.
        self.lineage = 0
        self.stores: list[SimStore] = []
        #: What is on its way, to be lost when the store crashes.
        self._on_the_way: dict[asyncio.Future[Any], None] = {}

    @property
    def known(self) -> bool:
        """Whether everybody who lives knows what it has lost."""
        return all(store._lineage == self.lineage for store in self.stores if not store._process.dead)

    def ask(self, process: Process, apply: Callable[[], T], *, ordered: bool = False) -> asyncio.Future[T]:
        """One request. It reaches the store even if its process dies now. An ordered one is done at once or never."""
        loop, rng = self.loop, self.rng
        future: asyncio.Future[T] = loop.create_future()
        if process.dead:
            return future  # it has ended in the midst of what it did
        delay = self.latency * (0.5 + rng.random())
        if loop.now + delay < self.down_until:
            loop.call_later(delay, _fail, future, "refused", context=loop.world)
            return future
        if self.failing and rng.random() < self.failing:
            self._mishap(future, apply, delay, ordered)
            return future
        self._on_the_way[future] = None
        loop.call_later(delay, self._apply, future, apply, context=loop.world)
        return future

    def _mishap(
        self, future: asyncio.Future[Any], apply: Callable[[], Any], delay: float, ordered: bool
    ) -> None:
        loop, rng = self.loop, self.rng
        kind = rng.randrange(2 if ordered else 3)
        if kind >= 1:
            # Done, but no answer comes; or done long after the caller gave up.
            late = delay if kind == 1 else delay + rng.random() * 2.0
            loop.call_later(late, _silently, apply, context=loop.world)
        patience = delay + rng.choice((0.0, 0.01, 0.3))
        loop.call_later(patience, _fail, future, "lost", context=loop.world)

    def _apply(self, future: asyncio.Future[Any], apply: Callable[[], Any]) -> None:
        if self._on_the_way.pop(future, future) is not None:
            return  # it crashed meanwhile
        try:
            result = apply()
        except StoreError as error:
            _settle(future, error)
            return
        loop = self.loop
        self._on_the_way[future] = None
        delay = self.latency * 0.5 * self.rng.random()
        loop.call_later(delay, self._answer, future, result, context=loop.world)

    def _answer(self, future: asyncio.Future[Any], result: Any) -> None:
        if self._on_the_way.pop(future, future) is None and not future.done():
            future.set_result(result)

    def crash(self, seconds: float) -> None:
        """Requests on their way are lost, some of them done; nothing acknowledged is."""
        self.down_until = self.loop.now + seconds
        lost, self._on_the_way = self._on_the_way, {}
        for future in lost:
            delay = self.rng.random() * 0.1
            self.loop.call_later(delay, _fail, future, "connection lost", context=self.loop.world)

    def roll_back(self, state: MemoryState, seconds: float) -> None:
        """A replica that lags takes over, after so many seconds: what is on its way is lost, and so is whatever was
        acknowledged since `state`. Each process is told before its next answer, or when it looks."""
        self.crash(seconds)
        self.memory.restore(state)
        for name, record in list(self.memory.leases.items()):
            self.memory.leases[name] = LeaseRecord(record.term, record.value)
        self.leases.clear()
        self.lineage += 1
        for store in self.stores:
            store.look_soon(seconds + self.rng.random())


class SimStore:
    """Implements `StateStore` for one process, over the shared server. Also `RollbackAware`."""

    def __init__(self, server: SimServer, process: Process) -> None:
        self._server = server
        self._process = process
        self._memory = server.memory
        self._lineage = server.lineage
        self._callbacks: list[Callable[[str], None]] = []
        server.stores.append(self)

    def on_rollback(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def look_soon(self, delay: float) -> None:
        self._process.call_later(delay, self._look)

    def _look(self) -> None:
        if self._lineage != self._server.lineage:
            self._lineage = self._server.lineage
            for callback in self._callbacks:
                callback("another server leads, which lagged")

    async def _answer(self, apply: Callable[[], T]) -> T:
        """What the server answers; whoever has to know that it lost writes knows it before that."""
        try:
            result = await self._server.ask(self._process, apply)
        except StoreUnavailable:
            raise
        except StoreError:
            self._look()
            raise
        self._look()
        return result

    @property
    def shared(self) -> bool:
        return True

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._answer(lambda: now(call()))

    async def load(self, actor: ActorId) -> Snapshot | None:
        return await self._ask(lambda: self._memory.load(actor))

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = 1000
    ) -> Page[tuple[str, bytes]]:
        return await self._ask(lambda: self._memory.keys(actor, prefix, start, limit))

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        results = await self._answer(lambda: self._commit(batch))
        written = [c for c, result in zip(batch, results, strict=True) if type(result) is Committed]
        self._server.observer.acknowledged(self._process, written)
        return results

    def _commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        for commit in batch:
            if any(POISON in value for value in commit.put.values()):
                raise StoreError("a value cannot be written")
        actors, results = self._memory.actors, []
        for commit in batch:
            record = actors.get(commit.actor)
            before = record.version if record is not None else None
            result = now(self._memory.commit([commit]))[0]
            results.append(result)
            record = actors.get(commit.actor)
            if type(result) is Fenced:
                self._server.observer.fenced(self._process, commit)
            if type(result) is Committed and before != (record.version if record is not None else None):
                self._server.observer.committed(self._process, commit)
        return results

    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        return await self._answer(lambda: self._take(held, fence))

    def _take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        results = now(self._memory.take(held, fence))
        for one, result in zip(held, results, strict=True):
            self._server.observer.taken(self._process, one, fence, result)
        return results

    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        await self._ask(lambda: self._memory.release(held, fence))

    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        return await self._ask(lambda: self._memory.owing(held, cursor, limit))

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        # Small pages, so that commits come in between.
        return await self._ask(lambda: self._memory.due(held, until, cursor, min(limit, 3)))

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        return await self._ask(lambda: self._memory.reminders(actor))

    async def row(self, actor: ActorId) -> InstanceRow | None:
        return await self._ask(lambda: self._memory.row(actor))

    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        return await self._ask(lambda: self._memory.query(where, cursor, limit))

    async def types(self) -> Sequence[str]:
        return await self._ask(self._memory.types)

    def lease(self, name: str) -> SimLease:
        return SimLease(self._server, self._process, name)

    async def settings(self) -> Settings:
        return await self._ask(self._memory.settings)

    async def health(self) -> None:
        await self._ask(self._memory.health)

    async def close(self) -> None:
        pass


class SimLease:
    """A lease that its holder renews, and that is free when its holder has not done so for a while."""

    def __init__(self, server: SimServer, process: Process, name: str) -> None:
        self._server = server
        self._process = process
        self._name = name
        self._lease = server.memory.lease(name)
        self._renewed = 0.0
        #: What it wrote last under its term.
        self._written: bytes | None = None
        process.call_later(LEASE_SECONDS / 4, self._renew)

    def _renew(self) -> None:
        if self._server.loop.now >= self._server.down_until:
            self._renewed = self._server.loop.now
        self._process.call_later(LEASE_SECONDS / 4, self._renew)

    async def acquire(self) -> int | None:
        return await self._server.ask(self._process, self._acquire)

    def _acquire(self) -> int | None:
        server = self._server
        holder = server.leases.get(self._name)
        if holder is not None and holder is not self:
            if server.loop.now - holder._renewed < LEASE_SECONDS:
                return None
            now(holder._lease.release())
        term = now(self._lease.acquire())
        if term is not None:
            server.leases[self._name] = self
            self._renewed = server.loop.now
            self._written = None
        return term

    async def read(self) -> bytes | None:
        return await self._server.ask(self._process, lambda: now(self._lease.read()))

    async def write(self, value: bytes) -> None:
        # By the contract, a write without an answer is not made after a later one.
        await self._server.ask(self._process, lambda: now(self._lease.write(value)), ordered=True)
        self._written = value

    async def renew(self) -> None:
        await self._server.ask(self._process, self._prove)

    def _prove(self) -> None:
        now(self._lease.renew())
        if self._written is not None and now(self._lease.read()) != self._written:
            raise StoreError("the store has lost what was written under this term")

    async def release(self) -> None:
        await self._server.ask(self._process, self._release)

    def _release(self) -> None:
        now(self._lease.release())
        if self._server.leases.get(self._name) is self:
            del self._server.leases[self._name]


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("a memory store's method waited")


def _fail(future: asyncio.Future[Any], reason: str) -> None:
    _settle(future, StoreUnavailable(reason))


def _settle(future: asyncio.Future[Any], error: StoreError) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever asked may be dead: nobody will look at it then.
        future.exception()


def _silently(apply: Callable[[], Any]) -> None:
    with contextlib.suppress(StoreError):
        apply()
