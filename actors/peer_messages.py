"""What two nodes say to each other: the frames of a peer link.

A frame is a msgpack array of items, each an array that begins with the number of its kind. Unknown further elements
of an item are ignored, missing ones have their defaults, so that items can grow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.errors import InvalidInput

#: The version of what is said here. Nodes of different versions do not talk.
VERSION = 1

#: Bits of `Request.flags`.
REPEATABLE, REDELIVERED = 1, 2
#: What an item that cannot be written raises.
UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError, NotImplementedError, msgspec.MsgspecError)
#: What bytes raise that are not what they should be. `InvalidInput` is among them.
UNREADABLE = (ValueError, RecursionError, msgspec.MsgspecError)


class Hello(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=0):
    """The first frame of whoever dialled: who that is, and which incarnation is meant."""

    version: int
    node: str
    to: str


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=1):
    """The answer: requests may come."""

    version: int
    node: str


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=2):
    """The other answer: nothing that was sent here was or will be looked at."""

    reason: str


class Request(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=3, gc=False):
    """A message. `body` is on its way out what is to be encoded in its place. `number` is the sender's, for the answer, on this link; `left`: the seconds in which somebody still
    waits for it; `identity`, `chain`, `key` and `tickets` as in `perdure.actors.messages.Message`."""

    number: int
    type: str
    id: str
    method: str
    body: msgspec.Raw
    flags: int = REPEATABLE
    left: float | None = None
    identity: tuple[str, int, int] | None = None
    chain: tuple[tuple[str, str], ...] = ()
    key: str | None = None
    tickets: tuple[str, ...] = ()


class Value(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=4, gc=False):
    """The answer to a request: a scalar."""

    number: int
    value: Any


class Structure(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=5, gc=False):
    """The answer to a request: a struct that both ends know by this name; without a name, a plain value."""

    number: int
    name: str
    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=6, gc=False):
    """The answer to a request: an error. `names`: its class and that class's bases, nearest first; none: it is not
    one of Perdure's. `fields`: what it carries."""

    number: int
    names: tuple[str, ...]
    message: str
    fields: dict[str, Any]


class Bye(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=7):
    """The last item of whoever ends the conversation: requests with higher numbers than `last` were not taken."""

    last: int


Reply = Value | Structure | Failure
Item = Hello | Welcome | Refusal | Request | Reply | Bye

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Item]] = msgspec.msgpack.Decoder(list[Item])

#: The head of a msgpack array whose length has 32 bits.
_ARRAY = b"\xdd"
_HEAD = 5


class Frame:
    """A frame in the making."""

    __slots__ = ("_buffer", "count")

    def __init__(self) -> None:
        self._buffer = bytearray(_HEAD)
        self.count = 0

    @property
    def size(self) -> int:
        return len(self._buffer)

    def add(self, item: Item) -> int:
        """Appends an item; returns its size. Raises one of `UNWRITABLE` when it cannot be written, and is then as it
        was."""
        buffer = self._buffer
        start = len(buffer)
        try:
            _encoder.encode_into(item, buffer, start)
        except BaseException:
            del buffer[start:]
            raise
        self.count += 1
        return len(buffer) - start

    def take(self) -> bytes:
        """The frame; this one is empty afterwards."""
        buffer = self._buffer
        buffer[:_HEAD] = _ARRAY + self.count.to_bytes(4)
        self._buffer, self.count = bytearray(_HEAD), 0
        return bytes(buffer)

    def cut(self, size: int) -> bytes:
        """Takes the last item, of this size, out again: as a frame of its own."""
        if self.count == 1:
            return self.take()
        start = len(self._buffer) - size
        frame = _ARRAY + (1).to_bytes(4) + self._buffer[start:]
        del self._buffer[start:]
        self.count -= 1
        return bytes(frame)


def encode(item: Item) -> bytes:
    """A frame with one item."""
    frame = Frame()
    frame.add(item)
    return frame.take()


def decode(frame: bytes) -> list[Item]:
    """`InvalidInput` when it is no frame."""
    try:
        return _decoder.decode(frame)
    except UNREADABLE as error:
        raise InvalidInput(f"not a frame of a peer: {error}") from error


def numbers(frames: Iterable[bytes]) -> set[int]:
    """The numbers of the requests in frames of this node's own."""
    return {item.number for frame in frames for item in decode(frame) if type(item) is Request}
