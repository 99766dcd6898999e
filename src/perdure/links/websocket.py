"""The frames of RFC 6455, as far as links use them: whole binary messages, pings, pongs and closes."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator

from perdure.errors import InvalidInput

try:
    # Written in C: fifty times as fast. Not among aiohttp's public names.
    from aiohttp._websocket.helpers import websocket_mask
except ImportError:  # Another release of aiohttp.

    def websocket_mask(mask: bytes, data: bytearray) -> None:
        size = len(data)
        pad = (mask * (size // 4 + 1))[:size]
        data[:] = (int.from_bytes(data) ^ int.from_bytes(pad)).to_bytes(size)


Buffer = bytes | bytearray | memoryview

BINARY, CLOSE, PING, PONG = 2, 8, 9, 10

_CONTROL_LIMIT = 125
_pack_medium = struct.Struct("!BBH").pack
_pack_long = struct.Struct("!BBQ").pack
_length_medium = struct.Struct("!H").unpack_from
_length_long = struct.Struct("!Q").unpack_from


def encode(opcode: int, payload: bytes, *, mask: bool) -> bytes:
    """One frame; masked by whoever dialled, not masked by whoever answered."""
    return b"".join(encode_parts(opcode, (payload,), mask=mask))


def encode_parts(opcode: int, parts: Iterable[Buffer], *, mask: bool) -> tuple[bytes, bytearray]:
    """As `encode`, from the parts of a payload: the frame's head and its body, so that nothing large is copied
    twice."""
    payload = bytearray().join(parts)
    size = len(payload)
    first, bit = 0x80 | opcode, 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = _pack_medium(first, bit | 126, size)
    else:
        head = _pack_long(first, bit | 127, size)
    if mask:
        # Fresh for each frame, as the RFC wants it, for the sake of whatever stands between the two.
        key = random.getrandbits(32).to_bytes(4)
        websocket_mask(key, payload)
        head += key
    return head, payload


class Parser:
    """Bytes to frames. `InvalidInput` at the first byte that cannot be one; it is of no use afterwards."""

    __slots__ = ("_limit", "_masked", "_rest")

    def __init__(self, *, masked: bool, limit: int) -> None:
        """`masked`: whether the frames must be, as those of whoever dialled are. `limit`: bytes of one payload."""
        self._masked = masked
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, Buffer]]:
        """The (opcode, payload) of all frames that are complete now."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            opcode, size = first & 0x0F, second & 0x7F
            body = at + 2
            if first & 0xF0 != 0x80 or opcode not in (BINARY, CLOSE, PING, PONG):
                raise InvalidInput(f"a frame begins with {first:#04x}; links send whole binary messages only")
            if bool(second & 0x80) is not self._masked:
                raise InvalidInput(f"a frame is {'not ' if self._masked else ''}masked")
            if size > _CONTROL_LIMIT:
                if opcode != BINARY:
                    raise InvalidInput("a control frame is longer than 125 bytes")
                width = 2 if size == 126 else 8
                if end - body < width:
                    break
                size = (_length_medium if width == 2 else _length_long)(data, body)[0]
                body += width
            if size > self._limit:
                raise InvalidInput(f"a frame has {size} bytes; at most {self._limit} are allowed")
            if self._masked:
                body += 4
            if end - body < size:
                break
            at = body + size
            if self._masked:
                unmasked = bytearray(memoryview(data)[body:at])
                websocket_mask(data[body - 4 : body], unmasked)
                yield opcode, unmasked
            else:
                yield opcode, data[body:at]
        self._rest = data[at:]
