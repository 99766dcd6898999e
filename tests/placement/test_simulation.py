"""Many nodes, three replicas and a lease on virtual time, with a network that loses, delays and reorders.

Seeded: a seed repeats its run.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import Any

import pytest

from perdure.clock import Cancellable
from perdure.errors import StoreError, StoreUnavailable, Unavailable
from perdure.placement.client import PlacementClient
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.messages import Message, decode, encode
from perdure.placement.session import Receiver, Session
from perdure.placement.table import Table, diff
from perdure.placement.table import decode as decode_table
from perdure.statestore.contract import Fence, TypePartition

PARTITIONS = 64
TYPES = ("Cart", "Order")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time goes on at once to the next timer."""

    def __init__(self) -> None:
        self.virtual = 1000.0
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        return self.virtual


class _VirtualSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing left to happen"
        self._loop.virtual += timeout
        return []


class Process:
    """The clock of one process, which can be paused and killed with everything it still means to do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.paused = False
        self.dead = False

    def now(self) -> int:
        return int(self._loop.time() * 1e6)

    def monotonic(self) -> float:
        return self._loop.time()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Cancellable:
        return self._loop.call_soon(self._run, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Cancellable:
        return self._loop.call_later(delay, self._run, callback, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))
        return task

    def token(self, size: int = 16) -> bytes:
        return self._rng.randbytes(size)

    def _run(self, callback: Callable[..., object], *args: Any) -> None:
        if self.paused:
            self._held.append((callback, args))
        elif not self.dead:
            callback(*args)

    def resume(self) -> None:
        self.paused = False
        held, self._held = self._held, []
        for callback, args in held:
            self._loop.call_soon(self._run, callback, *args)

    def kill(self) -> None:
        self.dead = True
        for task in self._tasks:
            task.cancel()


class Store:
    """A lease, on a server that may be away and whose answers may be lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.term = 0
        self.holder: SimLease | None = None
        self.renewed = 0.0
        self.value: bytes | None = None
        self.failing = 0.0
        #: A short one passes on while its last holder still believes in it.
        self.time_to_live = rng.choice([0.6, 2.0])


class SimLease:
    def __init__(self, store: Store, process: Process) -> None:
        self.store, self.process = store, process
        self.term = 0
        self.cut = False
        process.call_later(0.5, self._renew)

    def _renew(self) -> None:
        if self.store.holder is self and not self.cut:
            self.store.renewed = self.store.loop.time()
        self.process.call_later(0.5, self._renew)

    async def _ask(self) -> None:
        await asyncio.sleep(self.store.rng.uniform(0.001, 0.02))
        while self.process.paused:  # noqa: ASYNC110 - a paused process gets no answer
            await asyncio.sleep(0.05)
        if self.cut or self.store.rng.random() < self.store.failing:
            raise StoreUnavailable

    async def acquire(self) -> int | None:
        await self._ask()
        store, now = self.store, self.store.loop.time()
        if store.holder is not None and now - store.renewed < store.time_to_live:
            return None
        store.holder, store.renewed = self, now
        store.term = self.term = store.term + 1
        return self.term

    async def read(self) -> bytes | None:
        await self._ask()
        return self.store.value

    async def write(self, value: bytes) -> None:
        await self._ask()
        if self.store.term != self.term:
            raise StoreError("a higher term")
        self.store.value = value
        if self.store.rng.random() < self.store.failing:
            raise StoreUnavailable("lost answer")

    async def renew(self) -> None:
        await self._ask()
        if self.store.term != self.term:
            raise StoreError("a higher term")

    async def release(self) -> None:
        if self.store.holder is self:
            self.store.holder = None


class Network:
    """Links between nodes and replicas. Messages go as bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.loss = 0.0
        self.delay = 0.005
        self.cut: set[tuple[str, str]] = set()
        self.replicas: dict[str, tuple[PlacementLeader, Process]] = {}
        self.ends: list[End] = []

    def connect(self, node: str, process: Process) -> Callable[[str, Receiver], Awaitable[Session]]:
        async def connect(address: str, receiver: Receiver) -> Session:
            await asyncio.sleep(self.rng.uniform(0.001, 0.01))
            address = address or self.rng.choice(sorted(self.replicas))
            replica, server = self.replicas[address]
            if server.dead or process.dead or (node, address) in self.cut:
                raise Unavailable
            near, far = End(self, node, address, process), End(self, node, address, server)
            near.other, far.other = far, near
            near.receiver, far.receiver = receiver, replica.accept(far)
            self.ends += [near, far]
            return near

        return connect

    def drop_links(self, chance: float) -> None:
        self.ends = [end for end in self.ends if end.open]
        for end in self.ends:
            if self.rng.random() < chance:
                end.close()


class End:
    other: End
    receiver: Receiver

    def __init__(self, network: Network, node: str, replica: str, process: Process) -> None:
        self.network, self.pair, self.process = network, (node, replica), process
        self.open = True

    def send(self, message: Message) -> None:
        network = self.network
        if self.open and network.rng.random() >= network.loss and self.pair not in network.cut:
            delay = network.rng.uniform(0.0005, network.delay)
            self.other.process.call_later(delay, self.other.arrive, encode(message))

    def arrive(self, data: bytes) -> None:
        if self.open:
            self.receiver.received(decode(data))

    def close(self) -> None:
        if self.open:
            self._close()
            # A link that is cut looks sound from its other end, until that hears nothing for too long.
            if self.pair not in self.network.cut:
                self.other.process.call_later(self.network.rng.uniform(0.001, 0.05), self.other._close)

    def _close(self) -> None:
        if self.open:
            self.open = False
            self.process.call_soon(self.receiver.closed)


class Node:
    def __init__(self, world: World, name: str) -> None:
        self.process = Process(world.loop, world.rng)
        self.name = name
        #: What it let go when another asked, and the other's fence.
        self.released: dict[TypePartition, Fence] = {}
        member = Member(name, f"{name}:1", "shop", "default", TYPES)
        self.client = PlacementClient(
            member, self.process, world.network.connect(name, self.process), locate=self._locate
        )
        self.world = world
        self.client.on_table(self._applied)
        self.client.start()

    async def _locate(self) -> str:
        value = self.world.store.value
        address = decode_table(value).leader if value else ""
        # An address that leads nowhere is not asked for ever.
        return address if self.world.rng.random() < 0.7 else ""

    def _applied(self, old: Table | None, new: Table) -> None:
        self.world.applied(self, old, new)


class World:
    """Runs the processes, and checks after every applied table and every 10 ms what must always hold."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.store = Store(loop, self.rng)
        self.network = Network(loop, self.rng)
        self.nodes: dict[str, Node] = {}
        self.names = count()
        self.tables: dict[Fence, Table] = {}
        #: By when a partition may have been taken under a fence, as its new owner sees it.
        self.taken: dict[TypePartition, dict[Fence, float]] = {}
        self.leases: list[SimLease] = []
        for number in range(3):
            process = Process(loop, self.rng)
            lease = SimLease(self.store, process)
            leader = PlacementLeader(lease, process, PARTITIONS, address=f"p{number}")
            self.network.replicas[f"p{number}"] = leader, process
            self.leases.append(lease)
            process.spawn(leader.run())

    def add(self) -> Node:
        name = f"n{next(self.names)}"
        node = self.nodes[name] = Node(self, name)
        return node

    def remove(self, *, cleanly: bool) -> None:
        name = self.rng.choice(sorted(self.nodes))
        node = self.nodes.pop(name)
        if cleanly:
            node.client.leave()
        else:
            node.process.kill()
            self.network.ends = [end for end in self.network.ends if end.open]
            for end in self.network.ends:
                if end.process is node.process:
                    end.close()

    def applied(self, node: Node, old: Table | None, new: Table) -> None:
        assert old is None or new.name > old.name
        assert self.tables.setdefault(new.name, new) == new, "one name, two tables"
        for actor_type, row in new.owners.items():
            hosts = [each for each in new.members.values() if actor_type in each.actor_types]
            loads = Counter(row)
            assert max(loads.values()) <= -(-PARTITIONS // len(hosts))
            assert set(row) <= set(new.members)
        for move in diff(old, new):
            if move.after == node.name and move.fence is not None:
                at = self.loop.time() + self.ask(new, move.held, move.fence)
                self.taken.setdefault(move.held, {}).setdefault(move.fence, at)

    def ask(self, table: Table, held: TypePartition, fence: Fence) -> float:
        """After how long the new owner takes a partition: at once if there is nobody to ask, when the former owner
        has let go, or after 1 s without an answer."""
        former = table.former(*held)
        if former is None:
            return 0.0
        assert former in table.members
        node = self.nodes.get(former)
        if node is None or node.process.paused or self.rng.random() < 0.3:
            return 1.0
        node.released[held] = max(fence, node.released.get(held, fence))
        return 0.0

    def check(self) -> None:
        """No node that would answer reads from memory has lost what it would read."""
        now = self.loop.time()
        for node in self.nodes.values():
            table = node.client.table
            if node.process.paused or table is None or not node.client.fresh():
                continue
            for held, fence in table.held(node.name).items():
                if fence < node.released.get(held, fence):
                    continue
                for taken, at in self.taken.get(held, {}).items():
                    assert taken <= fence or at >= now, f"{node.name} trusts {held} {fence}, taken as {taken}"

    async def run(self, seconds: float) -> None:
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            await asyncio.sleep(0.01)
            self.check()

    # --- faults -----------------------------------------------------------------------------------------------------

    def disturb(self) -> None:
        rng = self.rng
        replicas = sorted(self.network.replicas)
        match rng.randrange(9):
            case 0:
                self.network.drop_links(rng.choice([0.1, 0.5, 1.0]))
            case 1:
                self.network.loss = rng.choice([0.0, 0.1, 0.3])
            case 2:
                self.network.delay = rng.choice([0.005, 0.05, 0.3])
            case 3:
                self.add()
            case 4 if len(self.nodes) > 3:
                self.remove(cleanly=rng.random() < 0.5)
            case 5:
                pairs = [(node, replica) for node in self.nodes for replica in replicas]
                self.network.cut = set(rng.sample(pairs, len(pairs) // 4))
            case 6:
                lease = rng.choice(self.leases)
                lease.cut = not lease.cut
            case 7:
                self.store.failing = rng.choice([0.0, 0.3])
            case 8:
                processes = [node.process for node in self.nodes.values()]
                process = rng.choice([*processes, *(each for _, each in self.network.replicas.values())])
                if not process.paused:
                    process.paused = True
                    self.loop.call_later(rng.uniform(0.1, 8.0), process.resume)

    def heal(self) -> None:
        self.network.loss, self.network.delay = 0.0, 0.005
        self.network.cut.clear()
        self.store.failing = 0.0
        for lease in self.leases:
            lease.cut = False

    def check_converged(self) -> None:
        leaders = [leader for leader, _ in self.network.replicas.values() if leader.leading]
        assert len(leaders) == 1
        table = leaders[0].table
        assert table is not None
        assert set(table.members) == set(self.nodes)
        for node in self.nodes.values():
            assert node.client.table == table
            assert node.client.in_table
            assert node.client.fresh()

    async def end(self) -> None:
        for node in self.nodes.values():
            node.client.stop()
        for leader, _ in self.network.replicas.values():
            leader.stop()
        await asyncio.sleep(5)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def simulate(seed: int, scenario: Callable[[World], Awaitable[None]]) -> World:
    loop = VirtualLoop()
    try:
        world = World(seed, loop)

        async def main() -> None:
            await scenario(world)
            await world.end()

        loop.run_until_complete(main())
        return world
    finally:
        loop.close()


async def faults(world: World) -> None:
    for _ in range(world.rng.randint(3, 10)):
        world.add()
    await world.run(3)
    for _ in range(25):
        world.disturb()
        await world.run(world.rng.uniform(0.05, 2.5))
    world.heal()
    await world.run(25)
    world.check_converged()


@pytest.mark.parametrize("seed", range(12))
def test_faults_never_mislead_a_node_and_all_converge(seed: int) -> None:
    simulate(seed, faults)


def test_a_seed_repeats_its_run() -> None:
    first, second = (simulate(7, faults) for _ in range(2))
    assert list(first.tables.items()) == list(second.tables.items())
    assert first.loop.time() == second.loop.time()


def test_a_leader_that_dies_is_followed_by_one_that_moves_nothing() -> None:
    async def scenario(world: World) -> None:
        for _ in range(8):
            world.add()
        await world.run(5)
        world.check_converged()
        before = next(iter(world.nodes.values())).client.table
        assert before is not None
        address = before.leader
        world.network.replicas[address][1].kill()
        world.network.drop_links(1.0)
        await world.run(10)
        del world.network.replicas[address]
        world.check_converged()
        after = next(iter(world.nodes.values())).client.table
        assert after is not None
        assert after.term > before.term
        assert after.same_placement(before)

    simulate(1, scenario)
