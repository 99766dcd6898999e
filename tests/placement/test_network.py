"""Sessions as frames: tables as changes, garbage, slow readers."""

from __future__ import annotations

import msgspec
import pytest

from perdure.clock import LoopClock
from perdure.errors import InvalidInput, Unavailable
from perdure.links import PeerIdentity
from perdure.placement import messages
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.messages import Bye, Heartbeat, Hello, Message, Pulse, TableUpdate
from perdure.placement.network import TableFrames, _Known, _NodeEnd, _ServiceEnd, connector
from perdure.placement.table import Table, assign, encode
from perdure.security import Security
from perdure.statestore.contract import Fence
from tests.placement.leases import LeaseServer

PARTITIONS = 64


class Wire:
    """One end of a link; what is sent waits in `sent`."""

    def __init__(self) -> None:
        self.peer = PeerIdentity("node")
        self.buffered = 0
        self.sent: list[bytes] = []
        self.open = True

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def close(self) -> None:
        self.open = False

    def unsent(self) -> list[bytes]:
        return []


class Heard:
    """A receiver that notes what comes."""

    def __init__(self) -> None:
        self.got: list[Message] = []

    def received(self, message: Message) -> None:
        self.got.append(message)

    def closed(self) -> None:
        pass

    @property
    def table(self) -> Table:
        found = [message.table for message in self.got if isinstance(message, TableUpdate)]
        return found[-1]


class Pair:
    """A service's and a node's end, with a link between them that goes on when told."""

    def __init__(self, tables: TableFrames, known: _Known | None = None) -> None:
        self.down, self.up = Wire(), Wire()
        self.service = _ServiceEnd(self.down, tables)
        self.leader = self.service.receiver = Heard()
        self.client = Heard()
        self.known = known or _Known()
        self.node = _NodeEnd(self.client, self.known)
        self.node.begin(self.up)

    def go_on(self) -> list[bytes]:
        """Delivers all; returns what went down."""
        for frame in self.up.sent:
            self.service.received(frame)
        down = list(self.down.sent)
        for frame in down:
            self.node.received(frame)
        self.up.sent.clear()
        self.down.sent.clear()
        return down


def members(count: int) -> list[Member]:
    return [Member(f"n{number:03}", f"h{number}:1", "shop", "default", ("Cart",)) for number in range(count)]


def path(*counts: int) -> list[Table]:
    tables: list[Table] = []
    for epoch, count in enumerate(counts, 1):
        tables.append(assign(members(count), tables[-1] if tables else None, 1, epoch, PARTITIONS))
    return tables


@pytest.fixture
async def tables() -> TableFrames:
    return TableFrames(PlacementLeader(LeaseServer().lease(), LoopClock(), PARTITIONS))


async def test_all_nodes_get_one_encoding_and_the_next_table_as_a_change(tables: TableFrames) -> None:
    first, second, third = path(40, 41, 40)
    pairs = [Pair(tables) for _ in range(3)]
    sizes = []
    for table in (first, second, third):
        for pair in pairs:
            pair.service.send(TableUpdate(table))
        frames = [pair.go_on() for pair in pairs]
        assert all(frame is frames[0][0] for (frame,) in frames)
        assert all(pair.client.table == table for pair in pairs)
        sizes.append(len(frames[0][0]))
    assert sizes[1] < sizes[0] / 5
    assert sizes[2] < sizes[0] / 5


async def test_who_comes_back_gets_what_it_missed_as_a_change(tables: TableFrames) -> None:
    first, second, third = path(40, 41, 42)
    other, pair = Pair(tables), Pair(tables)
    for end in (other, pair):
        end.service.send(TableUpdate(first))
        end.go_on()
    for table in (second, third):
        other.service.send(TableUpdate(table))
    back = Pair(tables, pair.known)
    back.go_on()
    back.service.send(TableUpdate(third))
    (frame,) = back.go_on()
    assert back.client.table == third
    assert len(frame) < len(messages.encode(TableUpdate(third))) / 3


async def test_a_new_leader_sends_the_members_of_the_last_one_little(tables: TableFrames) -> None:
    server = LeaseServer()
    first = PlacementLeader(server.lease(), LoopClock(), PARTITIONS)
    assert await first.acquire()
    (old,) = path(40)
    server.value = encode(old)
    assert server.holder is not None
    await server.holder.release()
    leader = PlacementLeader(server.lease(), LoopClock(), PARTITIONS)
    assert await leader.acquire()
    assert leader.found == old
    before = Pair(tables)
    before.service.send(TableUpdate(old))
    before.go_on()
    back = Pair(TableFrames(leader), before.known)
    back.go_on()
    new = msgspec.structs.replace(old, term=2, epoch=2)
    back.service.send(TableUpdate(new))
    (frame,) = back.go_on()
    assert back.client.table == new
    assert len(frame) < 150


async def test_a_table_sent_again_is_sent_whole(tables: TableFrames) -> None:
    """Whoever asks for it again may not have got it."""
    first, second = path(40, 41)
    pair = Pair(tables)
    for table in (first, second):
        pair.service.send(TableUpdate(table))
    pair.down.sent.clear()
    pair.service.send(TableUpdate(second))
    pair.go_on()
    assert pair.client.table == second


async def test_a_change_of_a_table_that_did_not_come_closes_the_link_and_then_comes_the_whole(
    tables: TableFrames,
) -> None:
    first, second, third = path(40, 41, 42)
    pair = Pair(tables)
    pair.service.send(TableUpdate(first))
    pair.go_on()
    pair.service.send(TableUpdate(second))
    pair.down.sent.clear()
    pair.service.send(TableUpdate(third))
    with pytest.raises(InvalidInput, match="begins at table"):
        pair.go_on()
    back = Pair(tables, pair.known)
    back.service.send(TableUpdate(third))
    back.go_on()
    assert back.client.table == third


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x00x", b"\x01", b"\x01\xc1", b"\xc1", b"{}", b"\x78\x01"])
async def test_garbage_is_told_to_the_link_at_both_ends(tables: TableFrames, frame: bytes) -> None:
    pair = Pair(tables)
    with pytest.raises(InvalidInput):
        pair.service.received(frame)
    with pytest.raises(InvalidInput):
        pair.node.received(frame)
    assert pair.leader.got == pair.client.got == []


async def test_no_node_speaks_as_placement(tables: TableFrames) -> None:
    pair = Pair(tables)
    for message in (Pulse(Fence(9, 9), 0.0), TableUpdate(path(3)[0])):
        with pytest.raises(InvalidInput, match="no node says"):
            pair.service.received(messages.encode(message))
    said: list[Message] = [Hello(members(1)[0]), Heartbeat("n000", 1.0, Fence(0, 0)), Bye("n000")]
    for message in said:
        pair.node.send(message)
    pair.go_on()
    assert pair.leader.got == said


async def test_who_does_not_keep_up_is_dropped(tables: TableFrames) -> None:
    pair = Pair(tables)
    pair.down.buffered = 9 * 1024 * 1024
    pair.service.send(Pulse(Fence(1, 1), 0.0))
    assert not pair.down.open
    assert pair.down.sent == []


async def test_nobody_to_connect_to() -> None:
    connect = connector((), Security(), LoopClock())
    with pytest.raises(Unavailable, match="nobody is known to lead"):
        await connect("", Heard())
