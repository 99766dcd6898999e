"""The HTTP server: the application, and its life."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from perdure.addresses import bound, local_url
from perdure.errors import ConfigurationError
from perdure.logs import fields
from perdure.sidecar.actors import ActorApi
from perdure.sidecar.cluster import ClusterApi
from perdure.sidecar.doctor import DoctorApi
from perdure.sidecar.errors import FAILURE_CODES, error_response
from perdure.sidecar.facade import Facade
from perdure.sidecar.health import HealthApi
from perdure.sidecar.middleware import errors_as_json
from perdure.sidecar.polls import LongPolls
from perdure.sidecar.routes import VERSIONS, add_routes
from perdure.sidecar.token import OPEN_PATHS, token_required, valid_token
from perdure.sidecar.trace import trace_context
from perdure.sidecar.transfer import TransferApi
from perdure.sidecar.workflows import WorkflowApi

logger = logging.getLogger("perdure.sidecar")

#: The largest body accepted, in bytes; Dapr's default.
MAX_BODY = 4 * 1024 * 1024

POLLS: web.AppKey[LongPolls] = web.AppKey("polls", LongPolls)


def make_app(facade: Facade, *, max_body: int = MAX_BODY, api_token: str | None = None) -> web.Application:
    """Everything that a node serves over HTTP. More routes may be added until it is served. `ConfigurationError` for
    a token that no header can carry."""
    polls = LongPolls()
    workflows, actors = WorkflowApi(facade, polls), ActorApi(facade)
    middlewares: list[Any] = [errors_as_json, trace_context]
    if api_token is not None:
        if not valid_token(api_token):
            raise ConfigurationError(
                "the API token must be printable ASCII characters, at least one, without spaces around them"
            )
        middlewares.append(token_required(api_token))
    app = web.Application(client_max_size=max_body, middlewares=middlewares)
    app[POLLS] = polls
    app[OPEN_PATHS] = set()
    app[FAILURE_CODES] = {}
    for version in VERSIONS:
        add_routes(app, workflows.routes(version))
    add_routes(app, TransferApi(facade).routes())
    add_routes(app, actors.routes("v1.0"))
    add_routes(app, ClusterApi(facade).routes())
    add_routes(app, DoctorApi(facade).routes())
    add_routes(app, HealthApi(facade, max_body).routes())
    return app


#: Seconds for which a node that stops waits for the first request of a new connection.
FIRST_REQUEST = 0.5


class AccessLog(AbstractAccessLogger):
    """One DEBUG line per request."""

    @property
    def enabled(self) -> bool:
        return logger.isEnabledFor(logging.DEBUG)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        more = fields(
            method=request.method, path=request.path, status=response.status, ms=round(time * 1000, 2)
        )
        logger.debug("request", extra=more)


class Connection(web.RequestHandler):
    """aiohttp's handler of one connection, but for what it answers to bytes that are no HTTP request. `silent`: those
    that have sent nothing yet, and since when; it keeps itself in there."""

    __slots__ = ("_silent",)

    def __init__(self, *args: Any, silent: dict[Connection, float], **more: Any) -> None:
        super().__init__(*args, **more)
        self._silent = silent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._silent[self] = time.monotonic()

    def data_received(self, data: bytes) -> None:
        self._silent.pop(self, None)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._silent.pop(self, None)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        level = logging.DEBUG if status < 500 else logging.ERROR
        logger.log(level, "request_unreadable", extra=fields(status=status, error=message or exc))
        code = "ERR_MALFORMED_REQUEST" if status < 500 else "ERR_INTERNAL"
        said = (message or "internal error").partition("\n")[0]
        response = error_response(status, code, f"this is not a request that can be read: {said[:200]}")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **more: Any) -> None:
        """A body that cannot be read is its sender's doing, and was answered: no error of this node."""
        error = sys.exception()
        if isinstance(error, web.RequestPayloadError):
            logger.debug("request_unreadable", extra=fields(error=str(error)))
        else:
            super().log_exception(*args, **more)


class HttpServer:
    """Serves an application on one address."""

    def __init__(
        self,
        facade: Facade,
        host: str = "127.0.0.1",
        port: int = 3500,
        *,
        max_body: int = MAX_BODY,
        drain_seconds: float = 10.0,
        api_token: str | None = None,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        """`listeners`: bound sockets to serve on, in place of host and port; the server closes them."""
        #: Takes more routes until the server has started.
        self.app = make_app(facade, max_body=max_body, api_token=api_token)
        self.host = host
        #: The port in use once the server has started; 0 means any.
        self.port = port
        self._sockets = list(listeners)
        if self._sockets:
            self.port = self._sockets[0].getsockname()[1]
        self._listeners: list[asyncio.Server] = []
        self._silent: dict[Connection, float] = {}
        self._runner = web.AppRunner(self.app, handle_signals=False, shutdown_timeout=drain_seconds)

    @property
    def url(self) -> str:
        return local_url(self.host, self.port)

    async def start(self) -> None:
        """Listens; `ConfigurationError` when the address cannot be had."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        handlers = self._runner.server
        assert handlers is not None

        def connection() -> Connection:
            return Connection(
                handlers,
                silent=self._silent,
                loop=loop,
                logger=logger,
                access_log=logger,
                access_log_class=AccessLog,
            )

        try:
            self._sockets = self._sockets or bound(self.host, self.port)
            for one in self._sockets:
                self._listeners.append(await loop.create_server(connection, sock=one, backlog=512))
        except OSError as error:
            await self.stop()
            reason = error.strerror or error
            raise ConfigurationError(f"cannot listen on {self.host}:{self.port}: {reason}") from error
        self.port = self._sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Accepts no more connections, tells long polls to ask again, lets other requests in progress finish within
        the drain time, and closes. Idempotent."""
        for listener in self._listeners:
            listener.close()
        for one in self._sockets:
            one.close()
        self._listeners, self._sockets = [], []
        self.app[POLLS].stop()
        await self._first_requests()
        await self._runner.cleanup()

    async def _first_requests(self) -> None:
        """What was accepted just now is answered: whoever is connected to a node that goes cannot know that another
        one listens on the same address."""
        while any(  # noqa: ASYNC110 - what ends it is often time
            time.monotonic() < since + FIRST_REQUEST for since in self._silent.values()
        ):
            await asyncio.sleep(0.01)
