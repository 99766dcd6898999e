"""Placement over real sockets: replicas of the service and their clients, and nodes that are candidates themselves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.clock import LoopClock
from perdure.errors import ConfigurationError
from perdure.links import LinkServer
from perdure.placement.candidate import ClusterPlacement
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.network import PATH, accept_links
from perdure.placement.options import PlacementOptions
from perdure.placement.table import Table, decode, diff
from perdure.security import Security
from tests.links.certificates import Authority
from tests.placement.leases import LeaseServer, TimedLease
from tests.waiting import eventually

PARTITIONS = 64
#: A loaded machine must not look like a dead node.
OPTIONS = PlacementOptions(silence=10.0, takeover_grace=20.0)


class Replica:
    """One process of the service, alone."""

    def __init__(self, leases: LeaseServer, security: Security) -> None:
        self.clock = LoopClock()
        self.server = LinkServer("127.0.0.1", 0, security=security, clock=self.clock)
        self.lease = leases.lease()
        self.leader: PlacementLeader

    async def start(self) -> None:
        await self.server.start()
        self.leader = PlacementLeader(
            self.lease, self.clock, PARTITIONS, address=self.server.address, options=OPTIONS
        )
        self.server.accept(PATH, accept_links(self.leader))
        self.task = self.clock.spawn(self.leader.run())

    async def kill(self) -> None:
        self.lease.cut = True
        self.task.cancel()
        await self.server.stop()
        await asyncio.gather(self.task, return_exceptions=True)

    async def stop(self) -> None:
        self.leader.stop()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.server.stop()


class Node:
    """A node of a cluster, as far as placement goes."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.clock = LoopClock()
        self.lease: TimedLease = cluster.leases.lease()
        self.server = LinkServer("127.0.0.1", 0, security=cluster.security, clock=self.clock)
        self.placement: ClusterPlacement
        self.seen: list[tuple[Table | None, Table]] = []

    async def start(self, *, app: str = "shop", address: str = "", security: Security | None = None) -> None:
        await self.server.start()
        member = Member(self.name, address or self.server.address, app, "default", ("Cart",))
        self.placement = await ClusterPlacement.start(
            self.lease,
            member,
            self.clock,
            PARTITIONS,
            server=self.server,
            security=security or self.cluster.security,
            addresses=[replica.server.address for replica in self.cluster.replicas],
            options=OPTIONS,
        )
        self.placement.client.on_table(lambda old, new: self.seen.append((old, new)))

    @property
    def table(self) -> Table:
        table = self.placement.client.table
        assert table is not None
        return table

    @property
    def leads(self) -> bool:
        leader = self.placement.leader
        return leader is not None and leader.leading

    async def kill(self) -> None:
        """As by SIGKILL: nothing is said to anybody, but the system closes the sockets."""
        self.lease.cut = True
        leader, task = self.placement.leader, self.placement._task
        if leader is not None and task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.placement.client.stop()
        await self.server.stop()

    async def stop(self) -> None:
        if hasattr(self, "placement"):
            await self.placement.leave()
            await self.placement.stop()
        await self.server.stop()


class Cluster:
    def __init__(self) -> None:
        self.leases = LeaseServer()
        self.security = Security()
        self.replicas: list[Replica] = []
        self.nodes: dict[str, Node] = {}

    async def serve(self, count: int) -> None:
        """With a separate service, of so many replicas."""
        self.replicas = [Replica(self.leases, self.security) for _ in range(count)]
        for replica in self.replicas:
            await replica.start()
        await eventually(lambda: any(replica.leader.leading for replica in self.replicas))

    async def add(self, *names: str) -> None:
        nodes = [Node(self, name) for name in names]
        self.nodes.update(zip(names, nodes, strict=True))
        async with asyncio.timeout(30):
            await asyncio.gather(*(node.start() for node in nodes))

    def settled(self) -> bool:
        """All nodes have one table, with all of them and nobody else, and know that it is the newest."""
        tables = [node.placement.client.table for node in self.nodes.values()]
        return all(
            table is not None and table == tables[0] and table.members.keys() == self.nodes.keys()
            for table in tables
        ) and all(node.placement.client.fresh() for node in self.nodes.values())

    async def settle(self) -> Table:
        await eventually(self.settled, seconds=30)
        return next(iter(self.nodes.values())).table

    def leading(self) -> Node:
        (leading,) = [node for node in self.nodes.values() if node.leads]
        return leading

    async def take_out(self, name: str) -> Node:
        return self.nodes.pop(name)

    async def close(self) -> None:
        for node in self.nodes.values():
            with contextlib.suppress(AttributeError):
                await node.placement.stop()
            await node.server.stop()
        for replica in self.replicas:
            await replica.stop()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    yield cluster
    await cluster.close()


# --- a separate service ---------------------------------------------------------------------------------------------


async def test_three_nodes_and_two_replicas_of_which_one_leads_and_one_redirects(cluster: Cluster) -> None:
    await cluster.serve(2)
    await cluster.add("a", "b", "c")
    table = await cluster.settle()
    assert set(table.owners["Cart"]) == {"a", "b", "c"}
    (leading,) = [replica for replica in cluster.replicas if replica.leader.leading]
    assert table.leader == leading.server.address
    # Whichever replica a node asks, it is led to the one that leads.
    assert all(node.placement.leader is None for node in cluster.nodes.values())


async def test_a_killed_leader_of_the_service_is_followed_and_nothing_moves(cluster: Cluster) -> None:
    await cluster.serve(2)
    await cluster.add("a", "b", "c")
    before = await cluster.settle()
    (leading,) = [replica for replica in cluster.replicas if replica.leader.leading]
    for node in cluster.nodes.values():
        node.seen.clear()
    await leading.kill()
    assert all(node.placement.client.in_table for node in cluster.nodes.values())
    await eventually(lambda: all(node.table.term > before.term for node in cluster.nodes.values()))
    after = await cluster.settle()
    assert after.same_placement(before)
    assert after.leader != before.leader
    for node in cluster.nodes.values():
        assert all(old is not None and not diff(old, new) for old, new in node.seen), "no dip on the way"


async def test_a_node_that_is_killed_is_out_and_one_that_leaves_is_at_once(cluster: Cluster) -> None:
    await cluster.serve(1)
    await cluster.add("a", "b", "c")
    before = await cluster.settle()
    await (await cluster.take_out("a")).kill()
    after = await cluster.settle()
    assert {move.before for move in diff(before, after)} == {"a"}
    await (await cluster.take_out("b")).stop()
    last = await cluster.settle()
    assert set(last.owners["Cart"]) == {"c"}


async def test_a_refused_node_fails_to_start_with_the_reason(cluster: Cluster) -> None:
    await cluster.serve(1)
    await cluster.add("a")
    twin = Node(cluster, "twin")
    with pytest.raises(ConfigurationError, match=r"its address .* is that of node a"):
        await asyncio.wait_for(twin.start(address=cluster.nodes["a"].server.address), 30)
    await twin.server.stop()
    stranger = Node(cluster, "a")
    with pytest.raises(ConfigurationError, match="node a is of app default/shop"):
        await asyncio.wait_for(stranger.start(app="other"), 30)
    await stranger.server.stop()
    assert set((await cluster.settle()).members) == {"a"}


# --- who is let in ----------------------------------------------------------------------------------------------------


async def test_certificates_say_for_which_app_a_node_may_speak(cluster: Cluster, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cluster.security = authority.issue("placement")
    await cluster.serve(2)
    node = Node(cluster, "a")
    cluster.nodes["a"] = node
    await node.start(security=authority.issue("shop", apps=["default/shop", "blue/shop"]))
    assert set((await cluster.settle()).members) == {"a"}
    thief = Node(cluster, "thief")
    with pytest.raises(ConfigurationError, match="its certificate is for default/bank"):
        await asyncio.wait_for(thief.start(security=authority.issue("bank", apps=["default/bank"])), 30)
    await thief.server.stop()
    assert set((await cluster.settle()).members) == {"a"}


@pytest.mark.parametrize("service", [True, False], ids=["service", "candidates"])
async def test_who_is_not_trusted_by_the_others_fails_to_start(
    cluster: Cluster, tmp_path: Path, service: bool
) -> None:
    authority = Authority(tmp_path)
    cluster.security = authority.issue("all")
    if service:
        await cluster.serve(1)
    await cluster.add("a", "b")
    stranger = Node(cluster, "stranger")
    # One that cannot reach the others could still lead by the lease, but that is held.
    with pytest.raises(ConfigurationError, match="cannot be trusted"):
        await asyncio.wait_for(stranger.start(security=Authority(tmp_path, "other").issue("stranger")), 30)
    await stranger.server.stop()
    assert set((await cluster.settle()).members) == {"a", "b"}


@pytest.mark.parametrize("service", [True, False], ids=["service", "candidates"])
@pytest.mark.parametrize("token", ["", "wrong"])
async def test_who_does_not_know_the_token_fails_to_start(
    cluster: Cluster, service: bool, token: str
) -> None:
    cluster.security = Security(token="secret")
    if service:
        await cluster.serve(1)
    await cluster.add("a", "b")
    stranger = Node(cluster, "stranger")
    with pytest.raises(ConfigurationError, match="cluster token"):
        await asyncio.wait_for(stranger.start(security=Security(token=token)), 30)
    await stranger.server.stop()
    assert set((await cluster.settle()).members) == {"a", "b"}


# --- nodes that are candidates ----------------------------------------------------------------------------------------


async def test_three_candidates_find_each_other_by_the_store(cluster: Cluster) -> None:
    await cluster.add("a", "b", "c")
    table = await cluster.settle()
    leading = cluster.leading()
    assert table.leader == leading.server.address
    assert set(table.owners["Cart"]) == {"a", "b", "c"}


async def test_candidates_that_are_led_leave_the_store_alone(cluster: Cluster) -> None:
    await cluster.add("a", "b", "c")
    await cluster.settle()
    before = (cluster.leases.acquires, cluster.leases.reads, cluster.leases.writes)
    renewed = cluster.leases.renewed
    stood_still, last = 0, time.monotonic()

    def two_seconds_later() -> bool:
        nonlocal stood_still, last
        now = time.monotonic()
        stood_still, last = stood_still + (now - last > 0.25), now
        return cluster.leases.renewed > renewed + 2.0

    await eventually(two_seconds_later)
    acquires, reads, writes = (cluster.leases.acquires, cluster.leases.reads, cluster.leases.writes)
    # Both ask once when the loop stood still for half a second.
    assert acquires - before[0] <= 2 * (1 + stood_still)
    assert (reads, writes) == before[1:]


async def test_a_killed_node_that_leads_is_out_and_the_others_keep_what_they_have(cluster: Cluster) -> None:
    await cluster.add("a", "b", "c")
    before = await cluster.settle()
    dead = await cluster.take_out(cluster.leading().name)
    killed = dead.clock.monotonic()
    await dead.kill()
    assert all(node.placement.client.in_table for node in cluster.nodes.values())
    after = await cluster.settle()
    took = dead.clock.monotonic() - killed
    print(f"out after {took:.2f} s")
    assert after.term > before.term
    assert after.leader == cluster.leading().server.address
    assert {move.before for move in diff(before, after)} == {dead.name}
    # Its lease ran out after 2 s; the grace for all others would be 20 s.
    assert took < 15


async def test_a_leader_that_stops_in_good_order_is_followed_at_once(cluster: Cluster) -> None:
    """The lease goes over although it would have stood for long, and nobody waits for the node that left."""
    cluster.leases.life = 60.0
    await cluster.add("a", "b", "c")
    before = await cluster.settle()
    gone = await cluster.take_out(cluster.leading().name)
    await gone.placement.leave()
    assert cluster.leases.value is not None
    stored_by_it = decode(cluster.leases.value)
    assert stored_by_it.term == before.term
    await gone.placement.stop()
    await gone.server.stop()
    assert gone.name not in stored_by_it.members
    await eventually(
        lambda: all(node.table.term > before.term for node in cluster.nodes.values()), seconds=20
    )
    after = await cluster.settle()
    assert {move.before for move in diff(before, after)} == {gone.name}


async def test_a_leader_cut_off_from_the_store_is_followed_while_its_node_goes_on(cluster: Cluster) -> None:
    await cluster.add("a", "b", "c")
    before = await cluster.settle()
    leading = cluster.leading()
    leading.lease.cut = True
    await eventually(
        lambda: any(node.leads for node in cluster.nodes.values() if node is not leading), seconds=30
    )
    # It hears of the new leader when it looks for one, as it gets no words any more.
    leading.lease.cut = False
    after = await cluster.settle()
    assert after.term > before.term
    assert not leading.leads


async def test_while_the_store_is_away_nobody_is_taken_for_dead(cluster: Cluster) -> None:
    await cluster.add("a", "b", "c")
    before = await cluster.settle()
    leading = cluster.leading()
    name = next(name for name in cluster.nodes if cluster.nodes[name] is not leading)
    cluster.leases.away = True
    await eventually(lambda: not leading.leads)
    await cluster.nodes[name].kill()
    await asyncio.sleep(1.5)
    leader = leading.placement.leader
    assert leader is not None
    assert leader.table == before, "the table that the store has is the one that is served"
    cluster.leases.away = False
    await cluster.take_out(name)
    after = await cluster.settle()
    assert {move.before for move in diff(before, after)} == {name}


async def test_one_node_alone_comes_back_after_a_kill(cluster: Cluster) -> None:
    await cluster.add("a")
    first = await cluster.settle()
    dead = await cluster.take_out("a")
    await dead.kill()
    await cluster.add("b")
    second = await cluster.settle()
    assert second.term > first.term
    assert set(second.owners["Cart"]) == {"b"}


async def test_a_lease_that_cannot_work_fails_the_start_and_later_is_only_logged(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.leases.error = ConfigurationError("no leases over this pooler")
    with pytest.raises(ConfigurationError, match="pooler"):
        await cluster.add("a")
    await (await cluster.take_out("a")).server.stop()
    cluster.leases.error = None
    await cluster.add("b", "c")
    before = await cluster.settle()
    leading = cluster.leading()
    cluster.leases.error = RuntimeError("a fault of the store")
    await eventually(lambda: "placement failed" in caplog.text)
    cluster.leases.error = None
    await eventually(lambda: all(node.table.term > before.term for node in cluster.nodes.values()))
    assert (await cluster.settle()).same_placement(before)
    assert leading.placement.client.in_table


async def test_a_node_of_another_apps_types_cannot_start_even_as_the_first(cluster: Cluster) -> None:
    node = Node(cluster, "a")
    await node.server.start()
    member = Member("a", node.server.address, "shop", "default", ("dapr.internal.default.bank.workflow",))
    with pytest.raises(ConfigurationError, match="may not host"):
        await ClusterPlacement.start(
            node.lease, member, node.clock, PARTITIONS, server=node.server, security=Security()
        )
    assert cluster.leases.holder is None
    await node.server.stop()
