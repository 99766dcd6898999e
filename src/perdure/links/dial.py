"""Opens links."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
from typing import cast

from perdure.addresses import split_address
from perdure.clock import Clock
from perdure.errors import ConfigurationError, LinkRefused, Unavailable
from perdure.links.link import Link, LinkOptions, PeerIdentity, Receiver
from perdure.links.wire import Wire
from perdure.security import Security, apps_of

#: Seconds to connect, to agree on keys, and to be let in.
TIMEOUT = 3.0
#: Bytes of an answer's head at most.
_HEAD_LIMIT = 16 * 1024
#: What the two sides prove to each other that they speak WebSocket with.
_WEBSOCKET_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def connect(
    address: str,
    path: str,
    receiver: Receiver,
    *,
    security: Security,
    clock: Clock,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - what is behind it is one event for the caller
    overtaking: bool = False,
    options: LinkOptions | None = None,
) -> Link:
    """A link to whoever serves `path` at host:port. `overtaking`: what this end sends in frames of up to 64 KB does
    not wait for larger ones sent before it. `Unavailable`, with the reason, when there is none in time;
    `LinkRefused` when the two do not trust each other."""
    try:
        host, port = split_address(address, "the address")
    except ConfigurationError as error:
        raise Unavailable(error.message) from None
    loop = asyncio.get_running_loop()
    try:
        upgrade = _Upgrade(loop.create_future(), address, path, security)
    except UnicodeError as error:
        raise Unavailable(f"{address!a} cannot be reached: {error}") from error
    try:
        async with asyncio.timeout(timeout):
            context = security.client_context()
            await loop.create_connection(
                lambda: upgrade, host, port, ssl=context, server_hostname=host if context else None
            )
            await upgrade.done
    except TimeoutError:
        upgrade.abort()
        raise Unavailable(f"{address} gave no answer within {timeout:g} s") from None
    except ssl.SSLError as error:
        upgrade.abort()
        raise LinkRefused(f"{address} cannot be trusted, or does not trust this end: {error}") from error
    except (OSError, UnicodeError) as error:
        upgrade.abort()
        raise Unavailable(f"{address} cannot be reached: {error}") from error
    except BaseException:
        upgrade.abort()
        raise
    transport, tail = upgrade.transport, upgrade.tail
    assert transport is not None
    peer = PeerIdentity(address, apps_of(transport.get_extra_info("peercert")))
    wire = Wire(
        peer,
        dialled=True,
        overtaking=overtaking,
        clock=clock,
        options=options or LinkOptions(),
        lost=lambda _: None,
    )
    wire.begin(transport, receiver)
    if tail:
        # Not from within this call: whoever dials does not know the link yet.
        clock.call_soon(wire.data_received, tail)
    return wire


class _Upgrade(asyncio.Protocol):
    """Asks for a WebSocket, and waits for the answer."""

    def __init__(self, done: asyncio.Future[None], address: str, path: str, security: Security) -> None:
        self.done = done
        self.transport: asyncio.Transport | None = None
        #: What came behind the answer.
        self.tail = b""
        self._address = address
        self._head = b""
        self._key = base64.b64encode(os.urandom(16))
        headers = {
            "Host": address,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": self._key.decode(),
            **security.headers(),
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self._request = "\r\n".join(lines).encode("ascii")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is not one by its class.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            self.tail += data
            return
        self._head += data
        head, found, tail = self._head.partition(b"\r\n\r\n")
        if found:
            self.tail = tail
            self._answered(head)
        elif len(self._head) > _HEAD_LIMIT:
            self._fail("does not speak HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("it closed the connection"))

    def _answered(self, head: bytes) -> None:
        status, *lines = head.decode("latin-1").split("\r\n")
        code = status.split(" ")[1:2]
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        proof = base64.b64encode(hashlib.sha1(self._key + _WEBSOCKET_KEY).digest()).decode()
        if code == ["401"]:
            self._fail("does not accept this node's cluster token", LinkRefused)
        elif code != ["101"]:
            self._fail(f"gives no link: it answers {status[:80]!r}")
        elif headers.get("sec-websocket-accept") != proof:
            self._fail("does not speak WebSocket")
        else:
            self.done.set_result(None)

    def _fail(self, reason: str, error: type[Unavailable] = Unavailable) -> None:
        self.done.set_exception(error(f"{self._address} {reason}"))

    def abort(self) -> None:
        if self.done.done() and not self.done.cancelled():
            self.done.exception()
        if self.transport is not None:
            self.transport.abort()
