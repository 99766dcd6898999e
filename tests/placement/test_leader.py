"""The leader's end of its links: who may say what."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.clock import LoopClock
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.messages import Bye, Heartbeat, Hello, Message, Pulse, Redirect, Refused, TableUpdate
from perdure.placement.session import Receiver
from perdure.statestore.contract import Fence, Lease
from perdure.statestore.memory import MemoryStore
from tests.waiting import eventually

PARTITIONS = 8


class Link:
    """The node's end: notes what the leader sends."""

    def __init__(self, leader: PlacementLeader, *apps: str) -> None:
        self.got: list[Message] = []
        self.open = True
        self.leader: Receiver = leader.accept(self, apps=frozenset(apps))

    def send(self, message: Message) -> None:
        self.got.append(message)

    def close(self) -> None:
        if self.open:
            self.open = False
            self.leader.closed()

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.leader.received(message)

    def refusal(self) -> str:
        (refused,) = [message for message in self.got if isinstance(message, Refused)]
        return refused.reason


def member(node: str, app: str = "shop") -> Member:
    return Member(node, f"{node}:1", app, "default", ("Cart",))


@pytest.fixture
def lease() -> Lease:
    return MemoryStore(shared=True).lease("placement")


@pytest.fixture
async def leader(lease: Lease) -> AsyncIterator[PlacementLeader]:
    clock = LoopClock()
    leader = PlacementLeader(lease, clock, PARTITIONS, address="p:1")
    running = clock.spawn(leader.run())
    await eventually(lambda: leader.table is not None)
    yield leader
    leader.stop()
    await running


async def test_who_is_refused_is_told_once_and_gets_nothing_else(leader: PlacementLeader) -> None:
    link = Link(leader, "default/other")
    link.say(Hello(member("a")), Heartbeat("a", 1.0, Fence(0, 0)), Bye("a"))
    assert "default/other" in link.refusal()
    assert link.got == [Refused(link.refusal())]
    assert link.open
    assert leader.table is not None
    assert not leader.table.members


async def test_who_was_refused_may_come_as_somebody_else(leader: PlacementLeader) -> None:
    link = Link(leader, "default/shop")
    link.say(Hello(member("a", "other")))
    assert link.refusal()
    link.say(Hello(member("a")))
    await eventually(lambda: leader.table is not None and "a" in leader.table.members)


@pytest.mark.parametrize(
    "message",
    [Heartbeat("b", 1.0, Fence(0, 0)), Bye("b"), Pulse(Fence(1, 1), 0.0)],
    ids=lambda m: type(m).__name__,
)
async def test_a_link_speaks_for_its_own_node_only(leader: PlacementLeader, message: Message) -> None:
    other = Link(leader)
    other.say(Hello(member("b")))
    await eventually(lambda: leader.table is not None and "b" in leader.table.members)
    for greeting in ([], [Hello(member("a"))]):
        link = Link(leader)
        link.say(*greeting, message)
        assert not link.open
    assert leader.table is not None
    assert "b" in leader.table.members
    assert other.open


async def test_one_link_is_one_node_and_a_node_stays_with_its_app(leader: PlacementLeader) -> None:
    link = Link(leader)
    link.say(Hello(member("a")), Hello(member("b")))
    assert "node a" in link.refusal()
    thief = Link(leader)
    thief.say(Hello(Member("a", "x:1", "thieves", "default", ("Cart",))))
    assert "default/shop" in thief.refusal()
    await eventually(lambda: leader.table is not None and "a" in leader.table.members)
    assert leader.table is not None
    assert leader.table.members["a"] == member("a")
    assert any(isinstance(message, TableUpdate) for message in link.got)
    assert not any(isinstance(message, TableUpdate) for message in thief.got)


async def test_a_standby_asks_the_store_once_for_many_that_come(
    lease: Lease, leader: PlacementLeader
) -> None:
    reads = 0

    class Counting:
        async def read(self) -> bytes | None:
            nonlocal reads
            reads += 1
            return await lease.read()

    standby = PlacementLeader(Counting(), LoopClock(), PARTITIONS, address="p:2")  # type: ignore[arg-type]
    links = [Link(standby) for _ in range(100)]
    for link in links:
        link.say(Hello(member("a")))
    await eventually(lambda: all(link.got for link in links))
    assert all(link.got == [Redirect("p:1")] for link in links)
    assert reads == 1
