"""Many nodes, replicas of placement, and a store on virtual time, with a network that loses, delays and reorders.

Seeded: a seed repeats its run. What runs is the real code from the session's frames upwards.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import Any

from perdure.clock import Cancellable
from perdure.errors import InvalidInput, StoreError, StoreUnavailable, Unavailable
from perdure.links import Accept, PeerIdentity
from perdure.links import Receiver as FrameReceiver
from perdure.placement.candidate import candidate
from perdure.placement.client import PlacementClient
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.network import _Known, _NodeEnd, accept_links
from perdure.placement.options import PlacementOptions
from perdure.placement.session import Connect, Receiver, Session
from perdure.placement.table import Table, diff
from perdure.placement.table import decode as decode_table
from perdure.statestore.contract import Fence, TypePartition

PARTITIONS = 64
TYPES = ("Cart", "Order")
OPTIONS = PlacementOptions()


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

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.name = name
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

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

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
    """A lease, on a server that may be away, whose answers may be lost, and that may lose what was written."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.term = 0
        self.holder: SimLease | None = None
        self.renewed = 0.0
        #: Every value that it ever had, with a number, and which of them it has.
        self.values: list[bytes] = []
        self.newest = 0
        self._led: tuple[bytes | None, str] = (None, "")
        #: After which table, and until which, everything is lost.
        self.lost: list[tuple[Fence, Fence]] = []
        self.failing = 0.0
        #: One that expires stands for 2 s. The other kind may be lost at once while its holder still believes in it.
        self.expires = rng.random() < 0.6

    @property
    def value(self) -> bytes | None:
        return self.values[self.newest - 1] if self.newest else None

    def leader(self) -> str:
        if self._led[0] is not self.value:
            self._led = self.value, decode_table(self.value).leader if self.value else ""
        return self._led[1]

    def put(self, value: bytes) -> int:
        del self.values[self.newest :]
        self.values.append(value)
        self.newest += 1
        return self.newest

    def roll_back(self) -> None:
        """It loses the last few values, and all that was written after them."""
        had = self._name()
        self.newest = max(0, self.newest - self.rng.randint(1, 3))
        self.lost.append((self._name(), had))

    def _name(self) -> Fence:
        return decode_table(self.value).name if self.value else Fence(0, 0)

    def has_lost(self, fence: Fence) -> bool:
        return any(after < fence <= until for after, until in self.lost)

    def lose_holder(self) -> None:
        """As when the connection that has the lease is ended at the store's end only."""
        if not self.expires:
            self.holder = None


class SimLease:
    def __init__(self, store: Store, process: Process) -> None:
        self.store, self.process = store, process
        self.term = 0
        self.cut = False
        self.wrote = 0

    @property
    def life(self) -> float:
        return 2.0 if self.store.expires else 0.0

    async def _ask(self) -> None:
        await asyncio.sleep(self.store.rng.uniform(0.001, 0.02))
        while self.process.paused:  # noqa: ASYNC110 - a paused process gets no answer
            await asyncio.sleep(0.05)
        if self.process.dead or self.cut or self.store.rng.random() < self.store.failing:
            raise StoreUnavailable

    async def acquire(self) -> int | None:
        await self._ask()
        store, now = self.store, self.store.loop.time()
        if store.holder not in (None, self) and now - store.renewed < 2.0:
            return None
        store.holder, store.renewed = self, now
        store.term = self.term = store.term + 1
        self.wrote = 0
        return self.term

    async def read(self) -> bytes | None:
        await self._ask()
        return self.store.value

    async def write(self, value: bytes) -> None:
        await self._ask()
        self._prove()
        self.wrote = self.store.put(value)
        if self.store.rng.random() < self.store.failing:
            raise StoreUnavailable("lost answer")

    async def renew(self) -> None:
        await self._ask()
        self._prove()
        if self.store.rng.random() < self.store.failing:
            raise StoreUnavailable("lost answer")

    def _prove(self) -> None:
        store = self.store
        if store.term != self.term or store.holder not in (None, self):
            raise StoreError("a higher term")
        if store.newest < self.wrote:
            raise StoreError("the store has lost what was written")
        if store.holder is None:
            raise StoreError("the lease is lost")
        store.renewed = store.loop.time()

    async def release(self) -> None:
        await self._ask()
        if self.store.holder is self:
            self.store.holder = None


class Network:
    """Links between nodes and replicas of placement."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.loss = 0.0
        self.delay = 0.005
        #: From a process to another, by name: nothing passes that way.
        self.cut: set[tuple[str, str]] = set()
        self.replicas: dict[str, tuple[PlacementLeader, Process, Accept]] = {}
        self.ends: list[End] = []

    def serve(self, address: str, leader: PlacementLeader, process: Process) -> None:
        self.replicas[address] = leader, process, accept_links(leader)

    def passes(self, source: Process, target: Process) -> bool:
        return (source.name, target.name) not in self.cut

    def connector(self, process: Process, *, anywhere: bool) -> Connect:
        """`anywhere`: who is told no address tries some replica."""
        known = _Known()

        async def connect(address: str, receiver: Receiver) -> Session:
            await asyncio.sleep(self.rng.uniform(0.001, 0.01))
            if not address and anywhere:
                address = self.rng.choice(sorted(self.replicas))
            if address not in self.replicas:
                raise Unavailable
            _, server, accept = self.replicas[address]
            both = self.passes(process, server) and self.passes(server, process)
            if server.dead or process.dead or not both:
                raise Unavailable
            near, far = End(self, process, server), End(self, server, process)
            near.other, far.other = far, near
            node = _NodeEnd(receiver, known)
            near.receiver, far.receiver = node, accept(far)
            self.ends += [near, far]
            node.begin(near)
            return node

        return connect

    def drop_links(self, chance: float) -> None:
        self.ends = [end for end in self.ends if end.open]
        for end in self.ends:
            if self.rng.random() < chance:
                end.close()

    def died(self, process: Process) -> None:
        for end in self.ends:
            if end.process is process:
                end.close()
        self.ends = [end for end in self.ends if end.open]


class End:
    """One end of a link. Implements `perdure.links.Link`, but for what it loses and reorders."""

    other: End
    receiver: FrameReceiver
    buffered = 0

    def __init__(self, network: Network, process: Process, peer: Process) -> None:
        self.network, self.process = network, process
        self.peer = PeerIdentity(peer.name)
        self.open = True

    def _passes(self) -> bool:
        return self.network.passes(self.process, self.other.process)

    def send(self, frame: bytes) -> None:
        network = self.network
        if self.open and network.rng.random() >= network.loss and self._passes():
            delay = network.rng.uniform(0.0005, network.delay)
            self.other.process.call_later(delay, self.other._arrive, frame)

    def _arrive(self, frame: bytes) -> None:
        if self.open:
            try:
                self.receiver.received(frame)
            except InvalidInput:
                self.close()

    def close(self) -> None:
        if self.open:
            self._close()
            # A link that is cut looks sound from its other end, until that hears nothing for too long.
            if self._passes():
                self.other.process.call_later(self.network.rng.uniform(0.001, 0.05), self.other._close)

    def _close(self) -> None:
        if self.open:
            self.open = False
            self.process.call_soon(self.receiver.closed)

    def unsent(self) -> list[bytes]:
        return []


class Node:
    def __init__(self, world: World, name: str, address: str) -> None:
        self.world = world
        self.process = Process(name, world.loop, world.rng)
        self.name = name
        self.address = address
        #: What it let go when another asked, and the other's fence.
        self.released: dict[TypePartition, Fence] = {}
        self.leader: PlacementLeader | None = None
        member = Member(name, address, "shop", "default", TYPES)
        connect = world.network.connector(self.process, anywhere=not world.candidates)
        if world.candidates:
            lease = SimLease(world.store, self.process)
            self.client, self.leader = candidate(
                lease, member, self.process, world.partitions, connect, OPTIONS
            )
            # Of two with one address, whoever was there first has it.
            if address not in world.network.replicas or world.network.replicas[address][1].dead:
                world.network.serve(address, self.leader, self.process)
                world.leases[address] = lease
                self.process.spawn(self.leader.run())
        else:
            self.client = PlacementClient(member, self.process, connect, locate=self._locate, options=OPTIONS)
        self.client.on_table(lambda old, new: world.applied(self, old, new))
        self.client.start()

    async def _locate(self) -> str:
        address = self.world.store.leader()
        # An address that leads nowhere is not asked for ever.
        return address if self.world.rng.random() < 0.7 else ""


class World:
    """Runs the processes, and checks after every applied table and every 10 ms what must always hold."""

    def __init__(
        self,
        seed: int,
        loop: VirtualLoop,
        *,
        candidates: bool = False,
        partitions: int = PARTITIONS,
        many: bool = False,
    ) -> None:
        """`candidates`: nodes run placement themselves; else there are three replicas besides. `many`: so many nodes
        that only the leader's tables are looked at."""
        self.seed = seed
        self.partitions = partitions
        self.many = many
        self.loop = loop
        self.rng = random.Random(seed)
        self.candidates = candidates
        self.store = Store(loop, self.rng)
        self.network = Network(loop, self.rng)
        self.nodes: dict[str, Node] = {}
        self.names = count()
        self.tables: dict[Fence, Table] = {}
        #: By when a partition may have been taken under a fence, as its new owner sees it.
        self.taken: dict[TypePartition, dict[Fence, float]] = {}
        self.leases: dict[str, SimLease] = {}
        if not candidates:
            for number in range(3):
                address = f"p{number}"
                process = Process(address, loop, self.rng)
                lease = self.leases[address] = SimLease(self.store, process)
                leader = PlacementLeader(lease, process, partitions, address=address, options=OPTIONS)
                self.network.serve(address, leader, process)
                process.spawn(leader.run())

    # --- nodes ------------------------------------------------------------------------------------------------------

    def add(self, *, twin: Node | None = None) -> Node:
        """`twin`: whose address it announces by mistake."""
        name = f"n{next(self.names)}"
        node = self.nodes[name] = Node(self, name, twin.address if twin is not None else f"{name}:1")
        return node

    def kill(self, node: Node) -> None:
        del self.nodes[node.name]
        node.process.kill()
        self.network.died(node.process)
        holder = self.store.holder
        if holder is not None and holder.process is node.process:
            self.store.lose_holder()

    async def stop(self, node: Node) -> None:
        """In good order."""
        del self.nodes[node.name]
        node.client.leave()
        if node.leader is not None:
            await node.leader.without(node.name, OPTIONS.link_grace)
            node.leader.stop()
            await asyncio.sleep(0.5)
        node.process.kill()
        self.network.died(node.process)

    def leading(self) -> list[PlacementLeader]:
        return [
            leader
            for leader, process, _ in self.network.replicas.values()
            if leader.leading and not process.dead
        ]

    def leading_node(self) -> Node:
        (node,) = [node for node in self.nodes.values() if node.leader is not None and node.leader.leading]
        return node

    # --- what must hold ---------------------------------------------------------------------------------------------

    def applied(self, node: Node, old: Table | None, new: Table) -> None:
        assert old is None or new.name > old.name
        if self.many:
            self.tables.setdefault(new.name, new)
            return
        assert self.tables.setdefault(new.name, new) == new, "one name, two tables"
        for actor_type, row in new.owners.items():
            hosts = [each for each in new.members.values() if actor_type in each.actor_types]
            loads = Counter(row)
            assert max(loads.values()) <= -(-self.partitions // len(hosts))
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
                    assert self.store.has_lost(taken) or taken <= fence or at >= now, (
                        f"seed {self.seed}: {node.name} trusts {held} {fence}, taken as {taken}"
                    )

    async def run(self, seconds: float) -> None:
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            await asyncio.sleep(0.01)
            self.check()

    def check_converged(self) -> None:
        (leader,) = self.leading()
        table = leader.table
        assert table is not None
        addresses = [member.address for member in table.members.values()]
        assert sorted(addresses) == sorted({node.address for node in self.nodes.values()})
        assert table.members.keys() <= self.nodes.keys()
        for name, node in self.nodes.items():
            if name in table.members:
                assert node.client.table == table
                assert node.client.in_table
                assert node.client.fresh()
            else:
                assert not node.client.in_table, "one of two with the same address is refused"
                assert node.client._refusal

    # --- faults -----------------------------------------------------------------------------------------------------

    async def disturb(self) -> None:
        rng = self.rng
        processes = {node.name: node.process for node in self.nodes.values()}
        processes.update((process.name, process) for _, process, _ in self.network.replicas.values())
        living = {name: process for name, process in processes.items() if not process.dead}
        match rng.randrange(14):
            case 0:
                self.network.drop_links(rng.choice([0.1, 0.5, 1.0]))
            case 1:
                self.network.loss = rng.choice([0.0, 0.1, 0.3])
            case 2:
                self.network.delay = rng.choice([0.005, 0.05, 0.3])
            case 3:
                self.add()
            case 4 if len(self.nodes) > 3:
                await self.stop(self.rng.choice(list(self.nodes.values())))
            case 5 if len(self.nodes) > 3:
                self.kill(self.rng.choice(list(self.nodes.values())))
            case 6 | 7:
                ways = [(one, other) for one in living for other in living if one != other]
                self.network.cut = set(rng.sample(ways, len(ways) // 5))
            case 8:
                lease = rng.choice(list(self.leases.values()))
                lease.cut = not lease.cut
            case 9:
                self.store.failing = rng.choice([0.0, 0.3, 1.0])
            case 10:
                process = rng.choice(list(living.values()))
                if not process.paused:
                    process.paused = True
                    self.loop.call_later(rng.uniform(0.1, 8.0), process.resume)
            case 11:
                self.store.lose_holder()
            case 12:
                for leader in self.leading():
                    leader.set_aside(rng.choice(list(self.nodes)))
            case 13:
                self.fault_once()

    def fault_once(self) -> None:
        """What happens at most now and then."""
        if self.rng.random() < 0.5:
            self.store.roll_back()
        elif len({node.address for node in self.nodes.values()}) == len(self.nodes):
            self.add(twin=self.rng.choice(list(self.nodes.values())))

    def heal(self) -> None:
        self.network.loss, self.network.delay = 0.0, 0.005
        self.network.cut.clear()
        self.store.failing = 0.0
        for lease in self.leases.values():
            lease.cut = False

    async def end(self) -> None:
        for node in self.nodes.values():
            node.client.stop()
        for leader, _, _ in self.network.replicas.values():
            leader.stop()
        await asyncio.sleep(5)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def simulate(seed: int, scenario: Callable[[World], Awaitable[None]], **world_: Any) -> World:
    """`world_`: as `World` takes it."""
    loop = VirtualLoop()
    try:
        world = World(seed, loop, **world_)

        async def main() -> None:
            try:
                await scenario(world)
            finally:
                await world.end()

        loop.run_until_complete(main())
        return world
    finally:
        loop.close()
