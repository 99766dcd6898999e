"""A node: one runtime with its store, its placement and its edges, from start to stop."""

from __future__ import annotations

import inspect
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from perdure.actors.actor import Actor, actor_type
from perdure.actors.calls import CALL_TIMEOUT
from perdure.actors.ids import is_reserved, plain, qualified
from perdure.actors.proxy import ActorProxy, bind
from perdure.addresses import EVERYWHERE, bound, cannot_listen, local_url, split_address
from perdure.addresses import join as join_address
from perdure.client import WorkflowClient
from perdure.clock import Clock, LoopClock
from perdure.cluster_view import ClusterView, NodeFigures, view
from perdure.doctor import examine
from perdure.errors import NotRegistered, StoreError, StoreUnavailable, Unavailable
from perdure.figures import Figures
from perdure.logs import fields
from perdure.membership import Alone, ClusterOptions, Introduce, Membership
from perdure.node_actors import NodeActors
from perdure.payload import Payload
from perdure.placement.member import Member
from perdure.runtime import ActorSpec, Runtime, RuntimeOptions, member
from perdure.spelling import instead_of
from perdure.statestore.contract import ActorId, Finding, QuickStore, Settings, StateStore
from perdure.statestore.socket.client import SocketStore
from perdure.statestore.urls import open_store, shown
from perdure.telemetry.page import MetricsPage
from perdure.telemetry.tracing import tracing_of
from perdure.watchdog import BLOCKED_AFTER, STUCK_AFTER, Watchdog
from perdure.workflow.registry import Registry
from perdure.workflow.transfers import Transfers
from perdure.workflow.workflows import Workflows

if TYPE_CHECKING:
    from aiohttp.web import Application

    from perdure.sidecar.server import HttpServer

log = logging.getLogger("perdure.node")

A = TypeVar("A", bound=Actor)

#: Where state is kept when nothing else is said.
DEFAULT_STORE = "sqlite:///perdure.db"
#: Seconds that running activities have to end when a node stops.
DRAIN_SECONDS = 10.0
#: Seconds for which a starting node asks a store's server that gives no answer, and between two tries.
STORE_SECONDS = 60.0
STORE_RETRY = 0.5
#: Seconds of these in which other nodes may take over what a stopping one has, while it still serves.
RETIRE_SECONDS = 3.0
#: The exit status of a node whose parent, or the process that has its store, is gone: EX_UNAVAILABLE of sysexits.h.
ORPHANED_STATUS = 69


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is served."""

    #: A store's URL, or a store.
    store: str | StateStore = DEFAULT_STORE
    #: The HTTP port; 0: any free one; None: no HTTP.
    http_port: int | None = None
    #: Bound sockets to serve HTTP on, in place of host and port: those of a parent, say, that all its nodes serve.
    http_sockets: tuple[socket.socket, ...] = ()
    host: str = "127.0.0.1"
    #: How it takes part in a cluster, where the store is one that several processes may use.
    cluster: ClusterOptions = ClusterOptions()
    #: What HTTP requests must show in the header `dapr-api-token`; None: nothing.
    api_token: str | None = None
    drain_seconds: float = DRAIN_SECONDS
    #: Seconds after which code that holds the event loop is interrupted; 0: never.
    blocked_after: float = BLOCKED_AFTER
    #: Whether the process ends itself when its loop stays blocked: for processes that somebody starts again.
    exit_when_stuck: bool = False
    #: Further seconds after which it does.
    stuck_after: float = STUCK_AFTER
    runtime: RuntimeOptions = RuntimeOptions()
    #: Where traces go: a `TracerProvider` of OpenTelemetry's SDK; None: to the one that the program has set, if any.
    tracer_provider: object | None = None


class Node:
    """Made by `App.serve`. Implements the facade that the edges serve (`perdure.sidecar.facade.Facade`).

    `client` starts and steers workflows of the app; `url` is where HTTP is served.
    """

    def __init__(
        self,
        *,
        app_id: str,
        namespace: str,
        registry: Registry,
        actors: Sequence[ActorSpec],
        options: NodeOptions,
    ) -> None:
        self.app_id = app_id
        self.namespace = namespace
        self.registry = registry
        self.actor_specs = actors
        self.options = options
        self.node_id = ""
        self.store: StateStore
        self.runtime: Runtime
        self._membership: Membership | None = None
        self._figures: Figures
        self._metrics: MetricsPage
        self._server: HttpServer | None = None
        self._sockets: list[socket.socket] = []
        self._watchdog: Watchdog | None = None
        self._not_ready: str | None = "the node is starting"
        self._started = 0
        #: Set by whoever stops this node together with all others of its app: see `Runtime.stop`. Nobody is left to
        #: take over then.
        self.together: Callable[[], Awaitable[None]] | None = None
        self._own_store = isinstance(options.store, str)
        #: Makes the clock that its runtime goes by, where that is not the loop's: for tests. Placement goes by the loop's.
        self.make_clock: Callable[[], Clock] | None = None

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the store, takes every partition, recovers what was in flight, and serves. `StoreHeld` when another
        process has the store; `ConfigurationError` for what is wrong with the options."""
        options = self.options
        self.store = open_store(options.store) if isinstance(options.store, str) else options.store
        if isinstance(self.store, SocketStore) and options.exit_when_stuck:
            self.store.on_lost(_end_process)
        try:
            await self._start()
        except BaseException:
            await self.stop(drain_seconds=0)
            raise

    async def _start(self) -> None:
        clock = LoopClock()
        self._started = clock.now()
        settings = await self._settings(clock)
        self.node_id = clock.token(8).hex()
        self._listen()

        def introduce(address: str) -> Member:
            return member(
                app_id=self.app_id,
                namespace=self.namespace,
                node=self.node_id,
                registry=self.registry,
                address=address,
                actor_types=tuple(
                    qualified(self.namespace, spec.name or actor_type(spec.cls)) for spec in self.actor_specs
                ),
                weight=self.options.cluster.weight,
                http=self._told_url(address),
            )

        self._membership = await self._join(introduce, clock, settings.partitions)
        self.runtime = Runtime(
            app_id=self.app_id,
            namespace=self.namespace,
            registry=self.registry,
            actors=self.actor_specs,
            store=self.store,
            partitions=settings.partitions,
            clock=clock if self.make_clock is None else self.make_clock(),
            placement=self._membership.client,
            options=self.options.runtime,
        )
        membership = self._membership
        self._figures = Figures(self.runtime, started=self._started, leading=lambda: membership.leading)
        self._metrics = MetricsPage(
            self.runtime,
            app_id=self.app_id,
            namespace=self.namespace,
            ready=lambda: self.ready() is None,
            leading=lambda: membership.leading,
        )
        self.runtime.engine.tracing = tracing_of(
            self.options.tracer_provider, app_id=self.app_id, node=self.node_id
        )
        membership.connect(self.runtime)
        bind(self)
        if self._sockets:
            # Late: half of the time that importing perdure takes would be aiohttp's. But not while the watchdog looks.
            from perdure.console import mount
            from perdure.sidecar.server import HttpServer
        # Before the first user code can run: that of what is recovered.
        if self.options.blocked_after:
            self._watchdog = Watchdog(
                self._user_codes(),
                waits=[type(self.store).commit_now.__code__] if isinstance(self.store, QuickStore) else (),
                blocked_after=self.options.blocked_after,
                stuck_after=self.options.stuck_after,
                may_exit=self.options.exit_when_stuck,
            )
            self._watchdog.start()
        await self.runtime.start()
        if self._sockets:
            await self._serve_http(HttpServer, mount)
        self._not_ready = None
        log.info("node.ready", extra=fields(node=self.node_id, app=self.app_id, url=self.url))

    async def _join(self, introduce: Introduce, clock: Clock, partitions: int) -> Membership:
        if not self.store.shared:
            return await Alone.join(self.store, introduce, clock, partitions)
        # Late: a node alone needs none of the network's libraries.
        from perdure.clustered import Clustered

        options = self.options
        return await Clustered.join(
            self.store, introduce, clock, partitions, host=options.host, options=options.cluster
        )

    async def _settings(self, clock: Clock) -> Settings:
        """The store's first answer. A server may be starting too, or be away for a moment."""
        deadline = clock.monotonic() + (STORE_SECONDS if self.store.shared else 0)
        told = False
        while True:
            try:
                return await self.store.settings()
            except StoreUnavailable as error:
                if clock.monotonic() >= deadline:
                    raise
                if not told:
                    log.warning(
                        "node.waits_for_store", extra=fields(reason=error.message, seconds=STORE_SECONDS)
                    )
                    told = True
                await clock.sleep(STORE_RETRY)

    def _listen(self) -> None:
        """Takes the HTTP address: other nodes are told of it before it is served."""
        options = self.options
        if options.http_sockets:
            self._sockets = list(options.http_sockets)
        elif options.http_port is not None:
            try:
                self._sockets = bound(options.host, options.http_port)
            except OSError as error:
                raise cannot_listen(options.host, options.http_port, error) from error

    @property
    def _http_host(self) -> str:
        """A parent may listen for HTTP elsewhere than its nodes do for each other."""
        return str(self._sockets[0].getsockname()[0]) if self.options.http_sockets else self.options.host

    def _told_url(self, address: str) -> str:
        """Where others reach this node's HTTP: on the host of its links, if it listens on all."""
        if not self._sockets:
            return ""
        port = self._sockets[0].getsockname()[1]
        if not address or self._http_host not in EVERYWHERE:
            return local_url(self._http_host, port)
        return f"http://{join_address(split_address(address, 'the address')[0], port)}"

    async def _serve_http(
        self, server: type[HttpServer], mount: Callable[[Application, Node, Runtime], None]
    ) -> None:
        options = self.options
        self._server = server(self, self._http_host, api_token=options.api_token, listeners=self._sockets)
        mount(self._server.app, self, self.runtime)
        await self._server.start()
        announce = getattr(self.store, "announce", None)
        if announce is not None:
            announce(self._server.url)

    async def stop(self, *, drain_seconds: float | None = None) -> None:
        """Not ready, no new work; running activities have the drain time; what they answer is committed; every
        partition is given back. Idempotent."""
        if self._not_ready == "the node has stopped":
            return
        self._not_ready = "the node is stopping"
        drain = self.options.drain_seconds if drain_seconds is None else drain_seconds
        if self._membership is not None and drain and self.together is None:
            await self._membership.retire(within=min(drain, RETIRE_SECONDS))
        runtime = getattr(self, "runtime", None)
        if runtime is not None:
            await runtime.stop(drain=drain, together=self.together)
        if self._server is not None:
            await self._server.stop()
        for one in self._sockets:
            one.close()
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._membership is not None:
            await self._membership.leave()
            await self._membership.stop()
        if self._own_store:
            await self.store.close()
        self._not_ready = "the node has stopped"

    def _user_codes(self) -> Collection[CodeType]:
        functions: list[Any] = [d.fn for d in self.registry.workflows.values()]
        functions += [d.fn for d in self.registry.activities.values() if d.is_async]
        functions += [
            fn for spec in self.actor_specs for _, fn in inspect.getmembers(spec.cls, inspect.isfunction)
        ]
        return [inspect.unwrap(fn).__code__ for fn in functions if hasattr(inspect.unwrap(fn), "__code__")]

    # --- what users have ---------------------------------------------------------------------------------------------

    @property
    def client(self) -> WorkflowClient:
        return self.runtime.client

    @property
    def stopping(self) -> bool:
        """Whether its stop has begun, or is over."""
        return self._not_ready in ("the node is stopping", "the node has stopped")

    @property
    def url(self) -> str | None:
        """Where HTTP is served; None without HTTP."""
        return self._server.url if self._server is not None else None

    def actor(
        self,
        cls: type[A],
        actor_id: str,
        *,
        timeout: float = CALL_TIMEOUT,
        idempotency_key: str | None = None,
    ) -> A:
        """A typed proxy of the actor with this id: `await node.actor(Counter, "42").increment(1)`. Its options are
        those of `ActorProxy`."""
        return ActorProxy.of(self, cls, actor_id, timeout=timeout, idempotency_key=idempotency_key)

    async def call_actor(
        self,
        actor: ActorId,
        method: str,
        payload: Payload,
        *,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 - part of the proxies' public signature
        idempotency_key: str | None = None,
    ) -> Payload:
        """Calls a user actor: JSON in, JSON out. `NotRegistered` for an unknown type, and see
        `perdure.actors.calls.call`."""
        kind = qualified(self.namespace, actor.type)
        table = self.runtime.placement.table
        hosted = table.owners.keys() if table is not None else self.runtime.host.types.keys()
        if is_reserved(kind) or kind not in hosted:
            mine = sorted(plain(name) for name in hosted if name == qualified(self.namespace, plain(name)))
            instead = instead_of(actor.type, [name for name in mine if not is_reserved(name)])
            raise NotRegistered(f"no actor type {actor.type!r} is registered; {instead}")
        return await self.runtime.caller.call_actor(
            actor, method, payload, timeout=timeout, idempotency_key=idempotency_key
        )

    # --- Facade ------------------------------------------------------------------------------------------------------

    @property
    def workflows(self) -> Workflows:
        return self.runtime.workflows

    @property
    def transfers(self) -> Transfers:
        return self.runtime.transfers

    @property
    def actors(self) -> NodeActors:
        return NodeActors(self.namespace, self.runtime, self)

    def ready(self) -> str | None:
        if self._not_ready is None and self.runtime.committer.trouble is not None:
            return f"the store gives no answer: {self.runtime.committer.trouble}"
        return self._not_ready

    async def healthy(self) -> str | None:
        try:
            await self.store.health()
        except StoreError as error:
            return error.message
        return None

    def figures(self) -> NodeFigures:
        """What this node says of itself, to any node that asks."""
        return self._figures.own()

    async def cluster(self) -> ClusterView:
        table = self.runtime.placement.table
        if table is None:
            raise Unavailable("this node knows no placement table yet")
        return view(table, self.node_id, await self._figures.of(table.members))

    async def metrics(self) -> bytes:
        """In Prometheus' text format."""
        return await self._metrics.page()

    async def examine(self) -> Sequence[Finding]:
        return await examine(self.store)

    def describe(self) -> dict[str, Any]:
        runtime = self.runtime
        table = runtime.placement.table
        return {
            "node": self.node_id,
            "app_id": self.app_id,
            "namespace": self.namespace,
            "store": shown(self.options.store)
            if isinstance(self.options.store, str)
            else type(self.store).__name__,
            "address": runtime.placement.member.address,
            "workflows": sorted(self.registry.workflows),
            "activities": sorted(self.registry.activities),
            "actor_types": sorted(map(plain, runtime.host.types)),
            "activations": {
                plain(name): count
                for name, count in Counter(actor.type for actor in runtime.host.activations).items()
            },
            "partitions": {"total": runtime.host.partitions, "owned": len(runtime.host.owned)},
            "placement": {"term": table.term, "epoch": table.epoch} if table else None,
            "commits_pending": runtime.committer.pending,
            "activities_running": runtime.engine.activities.running,
            "activities_queued": runtime.engine.activities.queued,
            "queues": msgspec.to_builtins(runtime.engine.queues()),
        }


def _end_process(reason: str) -> None:
    """The process that has the store is gone: a new one may have it, with nodes of its own."""
    log.critical("store.lost", extra=fields(reason=reason))
    sys.stderr.flush()
    os._exit(ORPHANED_STATUS)
