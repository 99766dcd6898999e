"""Answers links."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, NamedTuple

from aiohttp import web

from perdure.addresses import bound, cannot_listen, join
from perdure.clock import Cancellable, Clock
from perdure.errors import ConfigurationError
from perdure.links.link import Accept, LinkOptions, PeerIdentity
from perdure.links.wire import Wire
from perdure.logs import fields
from perdure.security import Security, apps_of

log = logging.getLogger("perdure.links")

#: Seconds to agree on keys, and to ask for a link.
HANDSHAKE_TIMEOUT = 5.0
#: Seconds between two looks at the files of certificates: these are renewed while nodes run.
RENEW = 60.0
#: Hosts without the token that are remembered.
STRANGERS = 1000
#: Seconds in which links close in good order when the server stops.
STOP_TIMEOUT = 3.0


class _Path(NamedTuple):
    accept: Accept
    overtaking: bool


class LinkServer:
    """Listens on one port. Beside links it answers `GET /healthz` with 200, to whoever asks."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        security: Security,
        clock: Clock,
        options: LinkOptions | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._security = security
        self._clock = clock
        self._options = options or LinkOptions()
        self._paths: dict[str, _Path] = {}
        self._wires: set[Wire] = set()
        self._listeners: list[asyncio.Server] = []
        self._http: web.Server | None = None
        self._stopping = False
        self._renewal: Cancellable | None = None
        #: Hosts that did not know the token.
        self._strangers: set[str] = set()

    def accept(self, path: str, accept: Accept, *, overtaking: bool = False) -> None:
        """Who takes links to this path. `overtaking`: what this end sends in frames of up to 64 KB does not wait for
        larger ones sent before it."""
        self._paths[path] = _Path(accept, overtaking)

    async def start(self) -> None:
        """Listens; `ConfigurationError` when the port cannot be had, or the certificates cannot be used."""
        context = self._security.server_context()
        self._http = web.Server(
            self._answer, access_log=None, logger=log, keepalive_timeout=HANDSHAKE_TIMEOUT
        )
        try:
            sockets = bound(self._host, self._port)
        except (OSError, OverflowError) as error:
            raise cannot_listen(self._host, self._port, error) from error
        self._port = sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        for one in sockets:
            listener = await loop.create_server(
                self._http,
                sock=one,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT if context else None,
                backlog=1024,
            )
            self._listeners.append(listener)
        if context is not None:
            self._renewal = self._clock.call_later(RENEW, self._renew, context)

    def _renew(self, context: ssl.SSLContext) -> None:
        try:
            self._security.renew(context)
        except ConfigurationError as error:
            log.error("certificates.unusable", extra=fields(reason=error.message))
        self._renewal = self._clock.call_later(RENEW, self._renew, context)

    @property
    def address(self) -> str:
        """host:port as bound."""
        return join(self._host, self._port)

    async def stop(self) -> None:
        """Accepts no more, and closes every link after what was sent; what cannot be sent in time is dropped.
        Idempotent."""
        self._stopping = True
        if self._renewal is not None:
            self._renewal.cancel()
        while self._listeners:
            self._listeners.pop().close()
        for wire in list(self._wires):
            wire.close()
        deadline = self._clock.monotonic() + STOP_TIMEOUT
        while self._wires and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.005)
        for wire in list(self._wires):
            wire.abort()
        http, self._http = self._http, None
        if http is not None:
            await http.shutdown(timeout=1.0)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = self._paths.get(request.path)
        if request.path == "/healthz" and request.method in ("GET", "HEAD"):
            return web.Response(text="ok")
        if path is None:
            return web.Response(status=404, text="there is nothing at this path")
        if "Origin" in request.headers:
            # Only browsers say where a page comes from: a page must not reach what the person before it can.
            return web.Response(status=403, text="no links for browsers")
        if not self._security.admits(request.headers.get("Authorization")):
            self._refused(request.remote or "")
            return web.Response(status=401, text="the cluster token is missing or wrong")
        if self._stopping:
            return web.Response(status=503, text="the node is stopping")
        return await self._link(request, path)

    def _refused(self, host: str) -> None:
        """Logged once for each host: nodes try again and again."""
        level = logging.DEBUG if host in self._strangers else logging.WARNING
        if len(self._strangers) < STRANGERS:
            self._strangers.add(host)
        log.log(level, "link.refused", extra=fields(peer=host, reason="wrong cluster token"))

    async def _link(self, request: web.BaseRequest, path: _Path) -> web.StreamResponse:
        # Its parser is never used: the link takes over the transport before the loop can read again.
        response = web.WebSocketResponse(compress=False)
        try:
            await response.prepare(request)
        except ConnectionError:
            # Nobody is to be told, and nothing is wrong here: aiohttp would log an error with its traceback.
            log.debug("link.hung_up", extra=fields(peer=request.remote or ""))
            return web.Response(status=503, text="the dialler is gone")
        protocol, transport = request.protocol, request.transport
        if transport is None:
            return response
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def lost(exc: BaseException | None) -> None:
            self._wires.discard(wire)
            # aiohttp waits for the end of a connection whose events it no longer gets.
            protocol.connection_lost(exc)
            if not gone.done():
                gone.set_result(None)

        wire = Wire(
            PeerIdentity(_name(request.transport), apps_of(transport.get_extra_info("peercert"))),
            dialled=False,
            overtaking=path.overtaking,
            clock=self._clock,
            options=self._options,
            lost=lost,
        )
        self._wires.add(wire)
        wire.begin(transport, path.accept(wire))
        try:
            await gone
        except asyncio.CancelledError:
            wire.abort()
            raise
        return response


def _name(transport: Any) -> str:
    host, port, *_ = transport.get_extra_info("peername") or ("unknown", 0)
    return join(host, port)
