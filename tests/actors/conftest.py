"""Nodes for tests of actors: the real host, router, committer and memory store, on a clock that tests move."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from perdure.actors.actor import Actor
from perdure.actors.calls import RouterCaller
from perdure.actors.host import ActorHost
from perdure.actors.proxy import ActorProxy
from perdure.actors.router import Router
from perdure.actors.user_type import UserActorType
from perdure.placement.hashing import partition_of
from perdure.statestore.committer import Committer
from perdure.statestore.contract import ActorId, Commit, CommitResult, Fence, Taken, TypePartition
from perdure.statestore.memory import MemoryStore
from tests.actors.peers_use import Cluster

A = TypeVar("A", bound=Actor)

PARTITIONS = 4
START = 1_700_000_000_000_000


class TestStore(MemoryStore):
    """A memory store that can be told to fail: `on_commit` is called with each batch before it is written."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__(partitions=PARTITIONS, now=lambda: START)
        self.on_commit: Callable[[Sequence[Commit]], None] = lambda batch: None
        self.commits = 0

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        self.on_commit(batch)
        self.commits += len(batch)
        return await super().commit(batch)


class Alarm:
    def __init__(self, clock: TestClock, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self._clock = clock

    def cancel(self) -> None:
        self.callback = None

    def ring(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None and not self._clock.dead:
            callback(*self.args)


class TestClock:
    """Time stands still until `advance`. `kill` ends everything that was to happen on it, as a crash does."""

    __test__ = False

    def __init__(self, time: float = 0.0) -> None:
        self.time = time
        self.dead = False
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._count = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def now(self) -> int:
        return START + round(self.time * 1e6)

    def monotonic(self) -> float:
        return self.time

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Alarm:
        alarm = Alarm(self, callback, args)
        asyncio.get_running_loop().call_soon(alarm.ring)
        return alarm

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Alarm:
        alarm = Alarm(self, callback, args)
        self._count += 1
        heapq.heappush(self._alarms, (self.time + max(delay, 0.0), self._count, alarm))
        return alarm

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def sleep(self, delay: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call_later(delay, lambda: future.done() or future.set_result(None))
        await future

    def token(self, size: int = 16) -> bytes:
        import os

        return os.urandom(size)

    async def advance(self, seconds: float, settle: Callable[[], Coroutine[Any, Any, None]]) -> None:
        end = self.time + seconds
        while self._alarms and self._alarms[0][0] <= end:
            at, _, alarm = heapq.heappop(self._alarms)
            self.time = max(self.time, at)
            alarm.ring()
            await settle()
        self.time = end

    async def kill(self) -> None:
        self.dead = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Cut:
    """A store that never answers."""

    def __getattr__(self, name: str) -> Any:
        async def never(*args: Any) -> None:
            await asyncio.Event().wait()

        return never


class Everywhere:
    """A locator for which one node owns all there is."""

    def owner(self, actor_type: str, partition: int) -> str | None:
        return "here"


class Rig:
    """One node with everything that actors need, owning all partitions of its types."""

    def __init__(
        self,
        store: TestStore,
        classes: Sequence[type[Actor]],
        time: float = 0.0,
        reentrant: Sequence[type[Actor]] = (),
        **options: Any,
    ) -> None:
        self.store = store
        self.clock = TestClock(time)
        self.committer = Committer(store, self.clock)
        self.is_fresh = True
        self.host = ActorHost(
            clock=self.clock,
            store=store,
            committer=self.committer,
            partitions=PARTITIONS,
            fresh=lambda: self.is_fresh,
        )
        self.router = Router(node="here", clock=self.clock, host=self.host, locator=Everywhere())
        self.caller = RouterCaller(self.router, self.clock)
        self.types = [
            UserActorType(cls, self.caller, reentrant=cls in reentrant, **options) for cls in classes
        ]
        for one in self.types:
            self.host.register(one)

    async def start(self) -> Rig:
        self.host.start()
        await self.own()
        return self

    async def own(self) -> None:
        """Takes everything under a fence above the stored one, as after a new table."""
        held = [TypePartition(t.name, p) for t in self.types for p in range(PARTITIONS)]
        newest = max((fence for fence, _ in self.store.fences.values()), default=Fence(1, 0))
        fence = Fence(newest.term, newest.epoch + 1)
        for key, taken in zip(held, await self.store.take(held, fence), strict=True):
            assert isinstance(taken, Taken)
            self.host.own(key, fence, crashed=not taken.released)
        self.host.reminders.owned()
        await self.spin()

    def lose(self) -> None:
        """The node loses all its partitions."""
        from perdure.errors import Moved

        self.host.disown(list(self.host.owned), Moved())

    def actor(self, cls: type[A], actor_id: str, **options: Any) -> A:
        return ActorProxy.of(self.caller, cls, actor_id, **options)

    def activation(self, cls: type[Actor], actor_id: str) -> Any:
        return self.host.activations.get(ActorId(cls.actor_type, actor_id))

    def evict(self, cls: type[Actor], actor_id: str) -> bool:
        return self.host.evict(self.activation(cls, actor_id))

    async def stored(self, cls: type[Actor], actor_id: str) -> dict[str, bytes]:
        snapshot = await self.store.load(ActorId(cls.actor_type, actor_id))
        return dict(snapshot.values) if snapshot else {}

    async def reminders(self, cls: type[Actor], actor_id: str) -> list[str]:
        return [one.name for one in await self.store.reminders(ActorId(cls.actor_type, actor_id))]

    async def settle(self) -> None:
        """Returns when nothing goes on without time passing."""
        quiet = 0
        for _ in range(20_000):
            await asyncio.sleep(0)
            quiet = 0 if self.host.busy or self.committer.pending else quiet + 1
            if quiet == 6:
                return
        raise AssertionError("something goes on without end, or waits for time to pass")

    async def spin(self, times: int = 20) -> None:
        """Lets everything go as far as it can, also where a turn waits for the test."""
        for _ in range(times):
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"it never came to this: {condition}")

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds, self.spin)
        await self.settle()

    def cut(self) -> None:
        """Nothing of this node reaches the store any more."""
        self.host.store = self.committer._store = Cut()

    async def crash(self) -> None:
        """Nothing of this node happens any more; the store has what it has."""
        self.router.close()
        self.cut()
        self.clock.dead = True
        # A coroutine that is cancelled before its first step is one that nobody awaited.
        await self.spin(5)
        await self.clock.kill()

    async def stop(self) -> None:
        self.router.close()
        self.host.close()
        await self.spin()
        await self.crash()

    @staticmethod
    def partition(actor_id: str) -> int:
        return partition_of(actor_id, PARTITIONS)


Start = Callable[..., Coroutine[Any, Any, Rig]]


@pytest.fixture
def store() -> TestStore:
    return TestStore()


@pytest.fixture
async def start(store: TestStore) -> AsyncIterator[Start]:
    """Starts a node with these actor classes on the test's store, or on another one."""
    rigs: list[Rig] = []

    async def start_rig(*classes: type[Actor], on: TestStore | None = None, **options: Any) -> Rig:
        rig = Rig(on or store, classes, time=rigs[-1].clock.time if rigs else 0.0, **options)
        rigs.append(rig)
        return await rig.start()

    yield start_rig
    for rig in rigs:
        await rig.stop()


@pytest.fixture
def new_store() -> type[TestStore]:
    return TestStore


@pytest.fixture
def rig_class() -> type[Rig]:
    return Rig


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    yield cluster
    for node in cluster.nodes:
        await node.stop()
