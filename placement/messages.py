"""What nodes and the placement service say to each other."""

from __future__ import annotations

import msgspec

from perdure.errors import CorruptState, InvalidInput
from perdure.placement.member import Member
from perdure.placement.shares import Shares, Usage
from perdure.placement.table import Table
from perdure.placement.table import decode as decode_table
from perdure.placement.table import encode as encode_table
from perdure.statestore.contract import Fence, TypePartition

#: The number of this set of messages.
PROTOCOL = 1

# --- node to service ------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag=True):
    """I take part; also: what I host has changed. Repeated until a table has me."""

    member: Member
    protocol: int = PROTOCOL
    #: The newest table that the node applied; (0, 0) for none. A leader that knows only older ones learns by it that
    #: the store lost some.
    applied: Fence = Fence(0, 0)


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """I live."""

    node: str
    #: The node's own monotonic time, for the answer.
    at: float
    #: The newest table it applied; (0, 0) for none.
    applied: Fence
    #: The newest shares that it goes by; (0, 0) for none.
    shares: Fence = Fence(0, 0)
    #: Of its limited activities, by name.
    usage: dict[str, Usage] = {}


class Renew(msgspec.Struct, frozen=True, tag=True):
    """The store lost writes or fences of these partitions, which I own: let me take them again under a new epoch."""

    node: str
    held: tuple[TypePartition, ...]


class Bye(msgspec.Struct, frozen=True, tag=True):
    """I have stopped all work, and leave."""

    node: str
    #: Limited activities that do not end, by name.
    running: dict[str, int] = {}


# --- service to node ------------------------------------------------------------------------------------------------


class TableUpdate(msgspec.Struct, frozen=True):
    """The newest table."""

    table: Table


class Pulse(msgspec.Struct, frozen=True, tag=True):
    """Placement's word: when your heartbeat came, this was the newest table.

    It carries the time at which the node *sent* that heartbeat: a word that lay in a buffer while its node stood
    still must not look fresh when it is read at last.
    """

    newest: Fence
    at: float
    #: What the node may run of limited activities from now on; None: nothing is said of them.
    shares: Shares | None = None


class Redirect(msgspec.Struct, frozen=True, tag=True):
    """I do not lead; this address does. Empty: none is known, try again."""

    address: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """You cannot take part as you are: a mistake of whoever set you up. Hello again, once that is mended."""

    reason: str


FromNode = Hello | Heartbeat | Renew | Bye
ToNode = TableUpdate | Pulse | Redirect | Refused
Message = FromNode | ToNode


class _TableFrame(msgspec.Struct, frozen=True, tag="TableUpdate"):
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_Frame = Hello | Heartbeat | Renew | Bye | _TableFrame | Pulse | Redirect | Refused
_decoder: msgspec.msgpack.Decoder[_Frame] = msgspec.msgpack.Decoder(_Frame)


def encode(message: Message) -> bytes:
    """One message as bytes. Who sends one table to many nodes encodes it once."""
    if isinstance(message, TableUpdate):
        return _encoder.encode(_TableFrame(encode_table(message.table)))
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """The message of these bytes. `InvalidInput` when they are none."""
    try:
        message = _decoder.decode(data)
        return TableUpdate(decode_table(message.data)) if isinstance(message, _TableFrame) else message
    except (msgspec.DecodeError, CorruptState) as error:
        raise InvalidInput(f"The placement message cannot be read: {error}") from error
