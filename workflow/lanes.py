"""Who may run now: one queue per name, first come first served, and names in turn where a node has no room for all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from perdure.placement.shares import Holder

T = TypeVar("T")

#: More than ever run at a time.
UNLIMITED = 1 << 60


class Pool(Generic[T]):
    """What several lanes share: so many run at a time, whichever lane they are of."""

    __slots__ = ("limit", "ready", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        #: Lanes that have something to run and may, but for the pool: each once.
        self.ready: deque[Lane[T]] = deque()


class Lane(Generic[T]):
    """One name."""

    __slots__ = ("limit", "name", "parked", "pool", "queue", "running", "shared", "taken")

    def __init__(self, name: str, pool: Pool[T], limit: int) -> None:
        self.name = name
        self.pool = pool
        #: How many run at a time on this node.
        self.limit = limit
        self.running = 0
        self.queue: deque[T] = deque()
        #: How many have left the queue: the difference of two such numbers is a place in it.
        self.taken = 0
        #: Whether it is in `pool.ready`.
        self.parked = False
        #: Whether the cluster limits it, too.
        self.shared = False


class Lanes(Generic[T]):
    """INVARIANT: a lane that has something queued and could run it, were there room in its pool, is in `ready`. So
    neither an arrival nor an end looks at more than one lane, however many wait."""

    def __init__(self, shares: Holder, monotonic: Callable[[], float]) -> None:
        self._shares = shares
        self._monotonic = monotonic
        self._lanes: dict[str, Lane[T]] = {}
        #: By name: what an arrival looks up.
        self.get = self._lanes.get

    def __iter__(self) -> Iterator[Lane[T]]:
        return iter(self._lanes.values())

    def add(self, name: str, pool: Pool[T], limit: int | None) -> Lane[T]:
        lane = self._lanes[name] = Lane(name, pool, UNLIMITED if limit is None else limit)
        lane.shared = name in self._shares.limits
        return lane

    def enter(self, lane: Lane[T], item: T) -> bool:
        """Whether it may run now: it counts as running. Otherwise it is queued."""
        pool = lane.pool
        if pool.running < pool.limit and not lane.queue and not pool.ready and self._open(lane):
            pool.running += 1
            lane.running += 1
            return True
        lane.queue.append(item)
        if not lane.parked:
            self._park(lane)
        return False

    def leave(self, lane: Lane[T]) -> None:
        """One that ran has ended. `next` tells who may run instead."""
        lane.running -= 1
        lane.pool.running -= 1
        if lane.queue and not lane.parked:
            self._park(lane)

    def next(self, pool: Pool[T]) -> tuple[Lane[T], T] | None:
        """Takes one that may run now from its queue: it counts as running. To be called until it gives None."""
        while pool.ready and pool.running < pool.limit:
            lane = pool.ready.popleft()
            lane.parked = False
            if not lane.queue or not self._open(lane):
                continue
            item = lane.queue.popleft()
            lane.taken += 1
            pool.running += 1
            lane.running += 1
            self._park(lane)
            return lane, item
        return None

    def withdraw(self, lane: Lane[T], item: T) -> None:
        """Takes one out of its queue that is not to run any more."""
        lane.queue.remove(item)

    def share_changed(self) -> None:
        """The cluster limits other lanes now, or lets more of them run: `next` may have some."""
        for lane in self._lanes.values():
            lane.shared = lane.name in self._shares.limits
            if not lane.parked:
                self._park(lane)

    def clear(self) -> Iterable[T]:
        """Empties all queues; what was in them."""
        found: list[T] = []
        for lane in self._lanes.values():
            found += lane.queue
            lane.queue.clear()
            lane.parked = False
            lane.pool.ready.clear()
        return found

    def counts(self) -> dict[str, tuple[int, int]]:
        """Of each lane that the cluster limits: how many run, and how many more would if that let them."""
        return {lane.name: (lane.running, self._waiting(lane)) for lane in self if lane.shared}

    def share(self, lane: Lane[T]) -> int | None:
        """How many the cluster lets run here now; None: it does not limit them."""
        return self._shares.amount(lane.name, self._monotonic()) if lane.shared else None

    def _waiting(self, lane: Lane[T]) -> int:
        # Where others fill the pool, room for one: whoever has none never gets its turn.
        room = max(1, lane.pool.limit - lane.pool.running)
        return max(0, min(len(lane.queue), lane.limit - lane.running, room))

    def _open(self, lane: Lane[T]) -> bool:
        if lane.running >= lane.limit:
            return False
        return not lane.shared or lane.running < self._shares.amount(lane.name, self._monotonic())

    def _park(self, lane: Lane[T]) -> None:
        if lane.queue and self._open(lane):
            lane.parked = True
            lane.pool.ready.append(lane)
