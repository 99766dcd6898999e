"""Placement's sessions over a network: messages as frames of a link, and tables as what differs from the last one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from perdure import links
from perdure.clock import Clock
from perdure.errors import CorruptState, InvalidInput, Unavailable
from perdure.logs import fields
from perdure.placement import change, messages
from perdure.placement.leader import PlacementLeader
from perdure.placement.messages import Bye, Heartbeat, Hello, Message, Renew, TableUpdate
from perdure.placement.session import Connect, Receiver, Session
from perdure.placement.table import Table
from perdure.security import Security
from perdure.statestore.contract import Fence

_log = logging.getLogger("perdure.placement")

#: Where a server of links takes those to placement.
PATH = "/placement"

#: Bytes that wait on a link to a node above which it is closed: that node does not keep up.
_BEHIND = 8 * 1024 * 1024
#: Tables that a service remembers, to send what differs from them.
_REMEMBERED = 4

#: Frames that are no message begin with one of these bytes; no message does.
#: From a node, before anything else: the name of the table that it has, as a msgpack array.
_HAVE = b"\x00"
#: To a node: what leads from the table that it has to the next.
_CHANGE = b"\x01"

_encode = msgspec.msgpack.encode
_read_have = msgspec.msgpack.Decoder(tuple[int, int]).decode


class TableFrames:
    """Tables as frames, each made once for all links of a service."""

    def __init__(self, leader: PlacementLeader) -> None:
        self._leader = leader
        self._recent: dict[Fence, Table] = {}
        self._newest = Fence(0, 0)
        #: By the name of the table that a node has; None: any other.
        self._frames: dict[Fence | None, bytes] = {}

    def frame(self, table: Table, has: Fence) -> bytes:
        """What brings the table to a node that has the one of this name."""
        if table.name != self._newest:
            self._newest = table.name
            self._frames.clear()
            found = self._leader.found
            for one in (found, table):
                if one is not None:
                    self._recent[one.name] = one
            for name in sorted(self._recent)[:-_REMEMBERED]:
                del self._recent[name]
        base = self._recent.get(has) if has != table.name else None
        key = base.name if base is not None else None
        frame = self._frames.get(key)
        if frame is None:
            if base is None:
                frame = messages.encode(TableUpdate(table))
            else:
                frame = _CHANGE + change.encode(base, table)
            self._frames[key] = frame
        return frame


class _ServiceEnd:
    """The service's end of one link. `receiver` is what the leader made of it."""

    receiver: Receiver

    def __init__(self, link: links.Link, tables: TableFrames) -> None:
        self._link = link
        self._tables = tables
        #: The name of the table that the node has, or will have when all that was sent has arrived.
        self._has = Fence(0, 0)

    def send(self, message: Message) -> None:
        if self._link.buffered > _BEHIND:
            _log.warning(
                "placement link too slow",
                extra=fields(peer=self._link.peer.address, buffered=self._link.buffered),
            )
            self._link.close()
        elif isinstance(message, TableUpdate):
            self._link.send(self._tables.frame(message.table, self._has))
            self._has = message.table.name
        else:
            self._link.send(messages.encode(message))

    def close(self) -> None:
        self._link.close()

    def received(self, frame: bytes) -> None:
        if frame.startswith(_HAVE):
            self._has = _have(frame)
            return
        message = messages.decode(frame)
        if not isinstance(message, Hello | Heartbeat | Renew | Bye):
            raise InvalidInput(f"no node says {type(message).__name__}")
        self.receiver.received(message)

    def closed(self) -> None:
        self.receiver.closed()


def _have(frame: bytes) -> Fence:
    try:
        return Fence(*_read_have(frame[1:]))
    except msgspec.DecodeError as error:
        raise InvalidInput(f"no name of a table: {error}") from error


def accept_links(leader: PlacementLeader) -> links.Accept:
    """What to give to `LinkServer.accept` for PATH, so that nodes reach this replica."""
    tables = TableFrames(leader)

    def accept(link: links.Link) -> links.Receiver:
        end = _ServiceEnd(link, tables)
        end.receiver = leader.accept(end, apps=link.peer.apps)
        return end

    return accept


class _Known:
    """The newest table that came over any of a node's links."""

    table: Table | None = None


class _NodeEnd:
    """A node's end of one link."""

    _link: links.Link

    def __init__(self, receiver: Receiver, known: _Known) -> None:
        self._receiver = receiver
        self._known = known

    def begin(self, link: links.Link) -> None:
        self._link = link
        table = self._known.table
        if table is not None:
            link.send(_HAVE + _encode(table.name))

    def send(self, message: Message) -> None:
        self._link.send(messages.encode(message))

    def close(self) -> None:
        self._link.close()

    def received(self, frame: bytes) -> None:
        message = self._changed(frame) if frame.startswith(_CHANGE) else messages.decode(frame)
        if isinstance(message, TableUpdate):
            self._known.table = message.table
        self._receiver.received(message)

    def _changed(self, frame: bytes) -> TableUpdate:
        base, self._known.table = self._known.table, None
        try:
            if base is None:
                raise CorruptState("a change came, but no table before it")
            return TableUpdate(change.decode(frame[1:]).applied(base))
        except CorruptState as error:
            # The link is closed; over the next one comes the whole table.
            raise InvalidInput(error.message) from error

    def closed(self) -> None:
        self._receiver.closed()


def connector(addresses: Sequence[str], security: Security, clock: Clock) -> Connect:
    """Opens links to placement for one node: to the address that it was told, or to the next of these."""
    known = _Known()
    turn = clock.token(1)[0]

    async def connect(address: str, receiver: Receiver) -> Session:
        nonlocal turn
        if not address:
            if not addresses:
                raise Unavailable("nobody is known to lead placement")
            address = addresses[turn % len(addresses)]
            turn += 1
        end = _NodeEnd(receiver, known)
        end.begin(await links.connect(address, PATH, end, security=security, clock=clock))
        return end

    return connect
