"""The placement service as a program of its own: one replica of it, with its port and its metrics."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from perdure.addresses import advertised, cannot_listen, join
from perdure.clock import Clock
from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.links import LinkServer
from perdure.logs import fields
from perdure.placement.leader import PlacementLeader
from perdure.placement.network import PATH, accept_links
from perdure.placement.options import PlacementOptions
from perdure.placement_metrics import PlacementMetrics
from perdure.security import Security
from perdure.statestore.contract import Settings, StateStore

_log = logging.getLogger("perdure.placement")

#: Where nodes reach the service, and where its metrics are.
PORT, HTTP_PORT = 50005, 50006
#: Seconds for which a starting replica waits for a store that gives no answer, and between two questions.
STORE_SECONDS, STORE_RETRY = 60.0, 0.25


class PlacementServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica is served."""

    host: str = "127.0.0.1"
    #: 0: any free one.
    port: int = PORT
    #: The host, or host:port, that nodes and other replicas are told; empty: where it listens.
    advertise: str = ""
    #: For health and metrics, without TLS; 0: any free one; None: neither.
    http_port: int | None = HTTP_PORT
    security: Security = Security()
    placement: PlacementOptions = PlacementOptions()


class PlacementServer:
    """Any number of them work on one store, of which one leads. The store is the caller's to close."""

    def __init__(self, store: StateStore, clock: Clock, options: PlacementServerOptions) -> None:
        self._store = store
        self._clock = clock
        self._options = options
        self._links = LinkServer(options.host, options.port, security=options.security, clock=clock)
        self._metrics = PlacementMetrics()
        self._leader: PlacementLeader | None = None
        self._running: asyncio.Task[None] | None = None
        self._http: web.AppRunner | None = None
        self._http_address = ""
        self.address = ""

    async def start(self) -> None:
        """Serves: when it returns, this replica leads, stands by or waits for the store. `ConfigurationError` for a
        port that cannot be had, or a store that belongs to one process: that runs placement itself."""
        if not self._store.shared:
            raise ConfigurationError(
                "this store belongs to one process, which runs placement itself: a placement service needs a store "
                "that several processes share, redis:// or postgresql://"
            )
        options = self._options
        settings = await self._settings()
        await self._links.start()
        port = int(self._links.address.rpartition(":")[2])
        self.address = advertised(options.host, port, options.advertise)
        self._leader = leader = PlacementLeader(
            self._store.lease("placement"),
            self._clock,
            settings.partitions,
            address=self.address,
            observer=self._metrics,
            options=options.placement,
        )
        self._links.accept(PATH, accept_links(leader))
        if options.http_port is not None:
            await self._serve_http(options.http_port)
        self._running = self._clock.spawn(leader.run(), name="placement-leader")
        await asyncio.wait(
            (self._running, self._clock.spawn(leader.tried())), return_when=asyncio.FIRST_COMPLETED
        )

    async def _settings(self) -> Settings:
        deadline = self._clock.monotonic() + STORE_SECONDS
        told = False
        while True:
            try:
                return await self._store.settings()
            except StoreUnavailable as error:
                if self._clock.monotonic() >= deadline:
                    raise
                if not told:
                    _log.warning("placement waits for its store", extra=fields(reason=error.message))
                    told = True
                await self._clock.sleep(STORE_RETRY)

    async def ended(self) -> None:
        """Returns or raises when the replica does no more: only by `stop`, or by a fault of the program."""
        assert self._running is not None
        await asyncio.shield(self._running)

    async def stop(self) -> None:
        """In good order: if it leads, another leads next. Idempotent."""
        if self._leader is not None and self._running is not None:
            self._leader.stop()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._links.stop()
        http, self._http = self._http, None
        if http is not None:
            await http.cleanup()

    # --- what it tells -----------------------------------------------------------------------------------------------

    @property
    def http_address(self) -> str:
        """host:port of health and metrics; empty without."""
        return self._http_address

    def describe(self) -> Mapping[str, Any]:
        """Its state, for people."""
        leader = self._leader
        table = leader.table if leader is not None else None
        return {
            "address": self.address,
            "state": self._state(),
            "term": leader.term if leader is not None else None,
            "epoch": table.epoch if table is not None else None,
            "members": len(table.members) if table is not None else None,
        }

    def _state(self) -> str:
        leader = self._leader
        if leader is None:
            return "starting"
        if leader.trouble:
            return f"waiting for the store: {leader.trouble}"
        return "leading" if leader.leading else "standing by"

    async def _serve_http(self, port: int) -> None:
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/metrics", self._page)
        self._http = web.AppRunner(application, access_log=None)
        await self._http.setup()
        host = self._options.host
        try:
            await web.TCPSite(self._http, host, port).start()
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        self._http_address = join(host, self._http.addresses[0][1])

    async def _healthz(self, request: web.Request) -> web.Response:
        """200 while it leads or stands by; 503 while the store gives it no answer."""
        leader = self._leader
        well = leader is not None and not leader.trouble
        return web.Response(
            status=200 if well else 503, text=json.dumps(self.describe()), content_type="application/json"
        )

    async def _page(self, request: web.Request) -> web.Response:
        assert self._leader is not None
        return web.Response(
            body=self._metrics.page(self._leader),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )
