"""Placement in one process: up in one step, several nodes, and the leader's shell around lease and store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from perdure.clock import LoopClock
from perdure.errors import StoreError, StoreHeld, StoreUnavailable, Unavailable
from perdure.placement.client import PlacementClient
from perdure.placement.embedded import EmbeddedPlacement
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.messages import (
    Bye,
    Heartbeat,
    Hello,
    Message,
    Pulse,
    Redirect,
    Renew,
    TableUpdate,
    decode,
    encode,
)
from perdure.placement.options import PlacementOptions
from perdure.placement.session import local_link
from perdure.placement.table import assign
from perdure.placement.table import decode as decode_table
from perdure.statestore.contract import Fence, TypePartition
from tests.waiting import eventually

PARTITIONS = 32


class MemoryLease:
    def __init__(self) -> None:
        self.term = 0
        self.held = False
        self.value: bytes | None = None
        self.writes = 0
        self.errors: list[StoreError] = []

    async def acquire(self) -> int | None:
        if self.held:
            return None
        self.held = True
        self.term += 1
        return self.term

    async def read(self) -> bytes | None:
        return self.value

    async def write(self, value: bytes) -> None:
        self.writes += 1
        if self.errors:
            raise self.errors.pop(0)
        self.value = value

    async def release(self) -> None:
        self.held = False


def member(node: str) -> Member:
    return Member(node, "", "shop", "default", ("Cart", "Order"))


async def until_in(client: PlacementClient, nodes: set[str]) -> None:
    reached = asyncio.Event()
    end = client.on_table(lambda old, new: reached.set() if set(new.members) == nodes else None)
    if client.table is None or set(client.table.members) != nodes:
        await asyncio.wait_for(reached.wait(), 30)
    end()


@pytest.fixture
def lease() -> MemoryLease:
    return MemoryLease()


@pytest.fixture
async def placement(lease: MemoryLease) -> AsyncIterator[EmbeddedPlacement]:
    placement = await EmbeddedPlacement.start(lease, member("a"), LoopClock(), PARTITIONS)
    yield placement
    await placement.stop()


async def test_one_step_brings_a_stored_table_with_this_node(
    lease: MemoryLease, placement: EmbeddedPlacement
) -> None:
    client = placement.client
    assert client.in_table
    assert client.fresh()
    assert client.table is not None
    assert client.table.name == (1, 1)
    assert lease.writes == 1
    assert lease.value is not None
    assert decode_table(lease.value) == client.table


async def test_a_restart_waits_for_nobody_and_takes_everything_anew(lease: MemoryLease) -> None:
    began = time.perf_counter()
    for number in range(10):
        placement = await EmbeddedPlacement.start(lease, member(f"a-{number}"), LoopClock(), PARTITIONS)
        table = placement.client.table
        assert table is not None
        assert set(table.members) == {f"a-{number}"}
        assert set(table.fences["Cart"]) == {table.name}
        await placement.stop()
    assert time.perf_counter() - began < 10.0, "a start must cost milliseconds"


async def test_a_held_store_is_told(lease: MemoryLease, placement: EmbeddedPlacement) -> None:
    with pytest.raises(StoreHeld):
        await EmbeddedPlacement.start(lease, member("b"), LoopClock(), PARTITIONS)
    assert lease.held


async def test_nodes_of_one_process_share_the_leader(placement: EmbeddedPlacement) -> None:
    second = await placement.join(member("b"), LoopClock())
    await until_in(placement.client, {"a", "b"})
    assert second.table == placement.client.table
    assert second.fresh()
    await placement.leave()
    await until_in(second, {"b"})


async def test_a_node_on_a_link_of_its_own_lives_by_its_heartbeats(placement: EmbeddedPlacement) -> None:
    second = await placement.join(member("b"), LoopClock(), link=local_link)
    await eventually(second.fresh)
    second.stop()
    assert not second.fresh()
    await until_in(placement.client, {"a"})


async def test_a_node_set_aside_is_out_and_comes_back(placement: EmbeddedPlacement) -> None:
    seen: list[bool] = []
    second = await placement.join(member("b"), LoopClock())
    second.on_table(lambda old, new: seen.append("b" in new.members))
    placement.leader.set_aside("b")
    await until_in(placement.client, {"a"})
    await until_in(placement.client, {"a", "b"})
    await eventually(lambda: len(seen) == 2)
    assert seen == [False, True]


async def test_a_store_without_answer_gets_the_same_table_again(
    lease: MemoryLease, placement: EmbeddedPlacement
) -> None:
    lease.errors = [StoreUnavailable(), StoreUnavailable()]
    second = await placement.join(member("b"), LoopClock())
    assert second.table is not None
    assert second.table.epoch == 2
    assert lease.writes == 4


async def test_a_refused_write_ends_the_leadership(lease: MemoryLease, placement: EmbeddedPlacement) -> None:
    lease.errors = [StoreError("a higher term")]
    with pytest.raises(StoreError, match="a higher term"):
        await placement.join(member("b"), LoopClock())
    assert not placement.leader.leading
    assert not placement.client.fresh()
    assert placement.client.in_table, "it goes on with the table it has"


async def test_a_store_that_refuses_the_first_table_fails_the_start(lease: MemoryLease) -> None:
    lease.errors = [StoreError("disk full")]
    with pytest.raises(StoreError, match="disk full"):
        await EmbeddedPlacement.start(lease, member("a"), LoopClock(), PARTITIONS)
    assert not lease.held


async def test_who_leaves_as_the_leader_is_not_waited_for_by_the_next(lease: MemoryLease) -> None:
    for node in ("a", "b"):
        placement = await EmbeddedPlacement.start(
            lease, member(node), LoopClock(), PARTITIONS, exclusive=False
        )
        assert placement.client.table is not None
        assert set(placement.client.table.members) == {node}
        await placement.leave()
        await placement.stop()
        assert lease.value is not None
        assert decode_table(lease.value).members == {}


async def test_waiting_to_join_ends_with_the_client(lease: MemoryLease) -> None:
    lease.held = True
    leader = PlacementLeader(lease, LoopClock(), PARTITIONS)
    client = PlacementClient(member("a"), LoopClock(), local_link(LoopClock(), leader.accept))
    client.start()
    waiting = asyncio.ensure_future(client.joined())
    await asyncio.sleep(0)
    client.stop()
    with pytest.raises(Unavailable):
        await waiting


async def test_a_standby_follows_and_gives_the_members_their_time(lease: MemoryLease) -> None:
    """Two replicas on one lease: the second leads when the first stops, and its table moves nothing."""
    clock = LoopClock()
    options = PlacementOptions(acquire=0.01)
    replicas = {
        name: PlacementLeader(lease, clock, PARTITIONS, address=name, options=options) for name in "xy"
    }
    runs = [clock.spawn(replica.run()) for replica in replicas.values()]

    async def connect(address, receiver):  # type: ignore[no-untyped-def]
        return await local_link(clock, replicas[address or "y"].accept)(address, receiver)

    client = PlacementClient(member("a"), clock, connect, options=options)
    client.start()
    before = await asyncio.wait_for(client.joined(), 30)
    assert before.leader == "x", "the standby redirects to the leader"
    followed = asyncio.Event()
    client.on_table(lambda old, new: followed.set() if new.leader == "y" else None)
    replicas["x"].stop()
    await asyncio.wait_for(followed.wait(), 30)
    after = client.table
    assert after is not None
    assert after.term == before.term + 1
    assert after.same_placement(before)
    client.stop()
    replicas["y"].stop()
    await asyncio.gather(*runs)


async def test_an_unreadable_table_does_not_keep_placement_down(lease: MemoryLease) -> None:
    lease.value = b"\xc1"
    placement = await EmbeddedPlacement.start(lease, member("a"), LoopClock(), PARTITIONS)
    assert placement.client.in_table
    await placement.stop()


def test_every_message_goes_over_a_wire() -> None:
    table = assign([member("a"), member("b")], None, 3, 4, PARTITIONS)
    messages: list[Message] = [
        Hello(member("a")),
        Heartbeat("a", 1.5, Fence(3, 4)),
        Renew("a", (TypePartition("Cart", 3),)),
        Bye("a"),
        TableUpdate(table),
        Pulse(Fence(3, 4), 1.5),
        Redirect("host:1"),
    ]
    for message in messages:
        assert decode(encode(message)) == message
