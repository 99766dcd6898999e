"""How a link's frames lie in WebSocket messages: many small ones in one, a large one in pieces over many.

A message is a sequence of records. A record is a head of four bytes (its kind in the upper four bits, the length of
its body in the others) and its body: a whole frame, or the number of a stream (one byte) and a piece of the frame
that this stream carries.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

from perdure.errors import InvalidInput
from perdure.links.websocket import Buffer

#: Bytes of a frame above which it goes in pieces, and bytes of a piece.
PIECE = 64 * 1024
#: Large frames that are under way at a time.
STREAMS = 4
#: Bytes of one message's payload at most.
MESSAGE_LIMIT = 4 * PIECE

WHOLE, PART, LAST = 0, 1 << 28, 2 << 28
_KIND, _LENGTH = 0xF << 28, (1 << 28) - 1

_head = struct.Struct("!I").pack
_read_head = struct.Struct("!I").unpack_from
_stream_head = struct.Struct("!IB").pack


class Large:
    """A frame that goes in pieces."""

    __slots__ = ("at", "frame", "stream", "view")

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.view = memoryview(frame)
        #: How much of it has gone.
        self.at = 0
        self.stream = 0


class Outbox:
    """Frames that wait to be written. `overtaking`: small ones do not wait for large ones, and up to STREAMS large
    ones share the link; otherwise all arrive in the order in which they were sent."""

    __slots__ = ("_large", "_overtaking", "_queue", "size")

    def __init__(self, *, overtaking: bool) -> None:
        self._overtaking = overtaking
        #: In order; a large frame is in it only without overtaking.
        self._queue: deque[bytes | Large] = deque()
        self._large: deque[Large] = deque()
        #: Bytes of frames that wait.
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._queue or self._large)

    def add(self, frame: bytes) -> None:
        self.size += len(frame)
        if len(frame) <= PIECE:
            self._queue.append(frame)
        elif self._overtaking:
            self._large.append(Large(frame))
        else:
            self._queue.append(Large(frame))

    def next(self) -> list[bytes | memoryview]:
        """The payload of the next message, in parts: a PIECE of small frames and a piece of a large one, more or
        less."""
        parts: list[bytes | memoryview] = []
        size = 0
        queue = self._queue
        while queue and size < PIECE:
            frame = queue[0]
            if isinstance(frame, Large):
                if self._piece(frame, parts):
                    queue.popleft()
                break
            queue.popleft()
            parts.append(_head(len(frame)))
            parts.append(frame)
            size += 4 + len(frame)
            self.size -= len(frame)
        if self._large:
            self._share(parts)
        return parts

    def _share(self, parts: list[bytes | memoryview]) -> None:
        """One piece of one of the large frames that are under way, each in its turn."""
        large = self._large.popleft()
        if not large.at:
            large.stream = self._free_stream()
        if not self._piece(large, parts):
            # Behind the others that are under way, before those that have not begun.
            self._large.insert(min(STREAMS - 1, len(self._large)), large)

    def _free_stream(self) -> int:
        used = {large.stream for large in self._large if large.at}
        return next(stream for stream in range(STREAMS) if stream not in used)

    def _piece(self, large: Large, parts: list[bytes | memoryview]) -> bool:
        """Whether it was the last."""
        piece = large.view[large.at : large.at + PIECE]
        large.at += len(piece)
        self.size -= len(piece)
        last = large.at == len(large.frame)
        parts.append(_stream_head((LAST if last else PART) | (len(piece) + 1), large.stream))
        parts.append(piece)
        return last

    def unsent(self) -> list[bytes]:
        """The frames of which nothing has gone."""
        waiting = [*self._queue, *self._large]
        return [
            frame.frame if isinstance(frame, Large) else frame
            for frame in waiting
            if not (isinstance(frame, Large) and frame.at)
        ]

    def clear(self) -> None:
        self._queue.clear()
        self._large.clear()
        self.size = 0


class Inbox:
    """Puts frames together again."""

    __slots__ = ("_limit", "_streams")

    def __init__(self, *, limit: int) -> None:
        """`limit`: bytes of one frame."""
        self._limit = limit
        #: By stream: the pieces, and how long they are together.
        self._streams: dict[int, tuple[list[memoryview], int]] = {}

    def read(self, message: Buffer) -> Iterator[bytes]:
        """The frames that this message completes, in order. `InvalidInput` when it is no such message."""
        at, end = 0, len(message)
        while at < end:
            if end - at < 4:
                raise InvalidInput("a message ends within the head of a record")
            head = _read_head(message, at)[0]
            at += 4
            size = head & _LENGTH
            if end - at < size:
                raise InvalidInput(f"a record of {size} bytes is in a message that has {end - at} left")
            body = at
            at += size
            kind = head & _KIND
            if kind == WHOLE:
                yield bytes(message[body:at])
            elif kind in (PART, LAST) and size:
                frame = self._add(message[body], memoryview(message)[body + 1 : at], kind == LAST)
                if frame is not None:
                    yield frame
            else:
                raise InvalidInput(f"there is no kind of record with the head {head:#x}")

    def _add(self, stream: int, piece: memoryview, last: bool) -> bytes | None:
        if stream >= STREAMS:
            raise InvalidInput(f"there is no stream {stream}; their numbers are below {STREAMS}")
        pieces, size = self._streams.pop(stream, ([], 0))
        size += len(piece)
        if size > self._limit:
            raise InvalidInput(f"a frame is longer than {self._limit} bytes")
        pieces.append(piece)
        if last:
            return b"".join(pieces)
        self._streams[stream] = pieces, size
        return None
