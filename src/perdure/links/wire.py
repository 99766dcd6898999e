"""One end of a link on a socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import cast

from perdure.clock import Cancellable, Clock
from perdure.errors import InvalidInput
from perdure.links import websocket
from perdure.links.link import LinkOptions, PeerIdentity, Receiver
from perdure.links.records import MESSAGE_LIMIT, Inbox, Outbox
from perdure.logs import fields

log = logging.getLogger("perdure.links")

#: Bytes that wait in the transport, at most about: what is urgent waits behind these only.
TRANSPORT_LIMIT = 128 * 1024
#: Bytes that one link writes in one iteration of the loop, at most about, so that others have their turn.
ROUND = 256 * 1024
#: Bytes of a message below which copying it costs less than handing over two pieces.
JOINED = 16 * 1024
#: How often, within the time of silence, each end looks whether the other lives and shows that it does itself.
LOOKS = 4

_NORMAL = (1000).to_bytes(2)


class Wire(asyncio.Protocol):
    """Implements `perdure.links.Link` on a transport over which the WebSocket handshake is done."""

    def __init__(
        self,
        peer: PeerIdentity,
        *,
        dialled: bool,
        overtaking: bool,
        clock: Clock,
        options: LinkOptions,
        lost: Callable[[BaseException | None], object],
    ) -> None:
        """`dialled`: whether this end did. `lost` is called at the very end, with the transport's exception."""
        self._peer = peer
        self._dialled = dialled
        self._clock = clock
        self._options = options
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._parser = websocket.Parser(masked=not dialled, limit=MESSAGE_LIMIT)
        self._inbox = Inbox(limit=options.max_frame)
        self._outbox = Outbox(overtaking=overtaking)
        self._unsent: list[bytes] = []
        #: Accepts frames; False from `close` on, or when the link is lost.
        self._open = True
        #: The close frame has been written: nothing may follow it.
        self._said_bye = False
        self._paused = False
        self._scheduled = False
        self._heard = True
        self._spoke = True
        #: Looks in a row at which nothing had come, and, while it closes, at which nothing had gone.
        self._quiet = 0
        self._stuck = 0
        self._left = 0
        self._timer: Cancellable | None = None

    def begin(self, transport: asyncio.Transport, receiver: Receiver) -> None:
        """Takes over the transport."""
        self._transport = transport
        self._receiver = receiver
        transport.set_write_buffer_limits(high=TRANSPORT_LIMIT)
        _tune(transport.get_extra_info("socket"))
        transport.set_protocol(self)
        self._arm()
        self._schedule()

    # --- Link --------------------------------------------------------------------------------------------------------

    @property
    def peer(self) -> PeerIdentity:
        return self._peer

    @property
    def buffered(self) -> int:
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._outbox.size + waiting

    def send(self, frame: bytes) -> None:
        if not self._open:
            return
        if len(frame) > self._options.max_frame:
            self._fail("link.frame_too_large", size=len(frame), limit=self._options.max_frame)
            return
        self._outbox.add(frame)
        if self._outbox.size > self._options.max_buffered:
            self._fail("link.overflowed", buffered=self._outbox.size)
        elif not self._scheduled and not self._paused:
            self._schedule()

    def flush(self) -> None:
        if self._scheduled and not self._paused:
            self._write()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._schedule()

    def unsent(self) -> Sequence[bytes]:
        return self._unsent

    def abort(self) -> None:
        """Closes the link at once, whatever was sent."""
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, event: str, **values: object) -> None:
        log.warning(event, extra=fields(peer=self._peer.address, **values))
        self.abort()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled and self._transport is not None:
            self._scheduled = True
            self._clock.call_soon(self._write)

    def _write(self) -> None:
        if not self._scheduled:
            # Somebody could not wait for it.
            return
        self._scheduled = False
        transport = self._transport
        if transport is None or self._said_bye or transport.is_closing():
            return
        outbox, written = self._outbox, 0
        while outbox and not self._paused:
            if written > ROUND:
                self._schedule()
                return
            head, body = websocket.encode_parts(websocket.BINARY, outbox.next(), mask=self._dialled)
            written += len(body)
            if len(body) < JOINED:
                transport.write(head + body)
            else:
                transport.writelines((head, body))
        if written:
            self._spoke = True
        if not outbox and not self._open:
            self._say_bye(_NORMAL)

    def _say_bye(self, reason: bytes) -> None:
        transport = self._transport
        if transport is not None and not self._said_bye:
            self._said_bye = True
            transport.write(websocket.encode(websocket.CLOSE, reason, mask=self._dialled))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._outbox or not self._open:
            self._schedule()

    # --- reading -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        receiver = self._receiver
        try:
            for opcode, payload in self._parser.feed(data):
                if opcode == websocket.BINARY:
                    for frame in self._inbox.read(payload):
                        if self._open and receiver is not None:
                            receiver.received(frame)
                elif opcode == websocket.CLOSE:
                    self._bye()
                    return
                elif opcode == websocket.PING:
                    self._pong(payload)
        except InvalidInput as error:
            self._fail("link.garbage", reason=error.message)
        except Exception:
            # A fault of the receiver: the frame is lost, so the link must be too.
            log.exception("link.receiver_failed", extra=fields(peer=self._peer.address))
            self.abort()

    def _pong(self, payload: websocket.Buffer) -> None:
        transport = self._transport
        # Whoever floods with pings and does not read the answers gets none.
        if transport is not None and not self._said_bye and not self._paused:
            self._spoke = True
            transport.write(websocket.encode(websocket.PONG, bytes(payload), mask=self._dialled))

    def _bye(self) -> None:
        """The other end closes, and reads nothing any more."""
        self._open = False
        self._say_bye(_NORMAL)
        if self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._open = False
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._unsent = self._outbox.unsent()
        self._outbox.clear()
        receiver, self._receiver = self._receiver, None
        try:
            if receiver is not None:
                receiver.closed()
        except Exception:
            log.exception("link.receiver_failed", extra=fields(peer=self._peer.address))
        finally:
            self._lost(exc)

    # --- life --------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._timer = self._clock.call_later(self._options.silence / LOOKS, self._look)

    def _look(self) -> None:
        """Looks are counted, not seconds: a process that was stopped itself has not looked, and reads first."""
        transport = self._transport
        if transport is None:
            return
        self._quiet = 0 if self._heard else self._quiet + 1
        self._heard = False
        if not self._open:
            left = self.buffered
            self._stuck = 0 if left < self._left else self._stuck + 1
            self._left = left
        if self._quiet >= LOOKS:
            self._fail("link.silent", seconds=self._options.silence)
            return
        if self._stuck > LOOKS:
            # It lives, but takes nothing of what was sent before the close, or does not close in its turn.
            self.abort()
            return
        if not self._spoke and not self._said_bye and not self._paused:
            transport.write(websocket.encode(websocket.PING, b"", mask=self._dialled))
        self._spoke = False
        self._arm()


def _tune(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # uvloop gives a stand-in that has what is needed here.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit = cast("int | None", getattr(socket, "TCP_NOTSENT_LOWAT", None))
    if limit is not None:
        # Else megabytes of a large frame would stand in the system's buffer before a small one.
        sock.setsockopt(socket.IPPROTO_TCP, limit, TRANSPORT_LIMIT)
