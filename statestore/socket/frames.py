"""Bytes to messages and back: each frame is its length, four bytes, and so many bytes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from perdure.errors import StoreError

#: The longest frame, in bytes. Longer ones are what a stranger sends.
LONGEST = 1 << 30
_HEAD = 4


class Frames:
    """Cuts a stream into frames."""

    __slots__ = ("_needed", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        #: So many bytes make the next frame whole: a long one is not looked at each time that a bit of it comes.
        self._needed = _HEAD

    def feed(self, data: bytes | bytearray) -> Sequence[memoryview]:
        """The frames that are whole with this. ValueError when one is too long to be true."""
        if self._rest:
            self._rest += data
            data = self._rest
        if len(data) < self._needed:
            if data is not self._rest:
                self._rest = bytearray(data)
            return ()
        view, at, end = memoryview(data), 0, len(data)
        found: list[memoryview] = []
        while True:
            if end - at < _HEAD:
                self._needed = _HEAD
                break
            size = int.from_bytes(view[at : at + _HEAD], "big")
            if size > LONGEST:
                raise ValueError(f"a frame of {size} bytes")
            if end - at < _HEAD + size:
                self._needed = _HEAD + size
                break
            found.append(view[at + _HEAD : at + _HEAD + size])
            at += _HEAD + size
        # A new one: the frames found are views of the old.
        self._rest = bytearray(view[at:])
        return found


class FrameProtocol(asyncio.Protocol, ABC):
    """One end of a socket. The first message of an iteration of the loop leaves at once, and all others of it together
    in the next: a lone request does not wait, and many cost one system call."""

    transport: asyncio.Transport | None = None

    def __init__(self) -> None:
        self._frames = Frames()
        self._out: list[bytes] = []
        self._gathering = False

    @abstractmethod
    def received(self, frame: memoryview) -> None:
        """One frame; valid only during the call. A ValueError closes the connection."""

    @abstractmethod
    def lost(self, reason: str) -> None:
        """The connection is gone. Called once."""

    def send(self, message: bytes) -> None:
        """Sends a frame; does nothing on a connection that is gone. `StoreError` when it is too long."""
        if len(message) > LONGEST:
            raise StoreError(f"{len(message)} bytes are more than fit in a message to a store ({LONGEST})")
        if self.transport is None:
            return
        head = len(message).to_bytes(_HEAD, "big")
        if self._gathering:
            self._out += (head, message)
        else:
            self._gathering = True
            self.transport.write(head + message)
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        """Closes after what was sent. Idempotent."""
        if self.transport is not None:
            self._flush()
            self.transport.close()

    def abort(self, reason: str = "the connection was cut") -> None:
        """Closes at once. Idempotent."""
        if self.transport is not None:
            self.transport.abort()
            self._end(reason)

    def _flush(self) -> None:
        self._gathering = False
        out, self._out = self._out, []
        if out and self.transport is not None:
            self.transport.write(b"".join(out))

    # --- asyncio -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none of asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                if self.transport is not None:
                    self.received(frame)
        except ValueError as error:
            self.abort(f"the other end sent what cannot be read: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error) if error else "the connection was closed")

    def _end(self, reason: str) -> None:
        if self.transport is not None:
            self.transport = None
            self.lost(reason)
