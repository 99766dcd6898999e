"""What a user registers workflows, activities and actors on."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar, overload

from perdure import logs
from perdure.actors.actor import Actor
from perdure.actors.replies import KEEP
from perdure.actors.user_type import IDLE_TIMEOUT, UserActorType
from perdure.errors import ConfigurationError, StoreHeld
from perdure.membership import PEER_PORT, ClusterOptions
from perdure.node import DEFAULT_STORE, DRAIN_SECONDS, Node, NodeOptions
from perdure.runtime import ActorSpec, RuntimeOptions
from perdure.signals import end_on_sigterm
from perdure.statestore.contract import StateStore
from perdure.telemetry.tracing import provider_of_environment
from perdure.watchdog import BLOCKED_AFTER, STUCK_AFTER
from perdure.workflow.registry import Registry
from perdure.workflow.replay_check import MODES

C = TypeVar("C", bound=type[Actor])

#: For how long callers may send the same again.
KEEP_KEYS = timedelta(hours=24)

_NOBODY: Any = None

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")


class App:
    """An app: a name, and what is registered under it.

        app = App("orders")

        @app.workflow
        async def order(ctx: WorkflowContext, amount: int) -> str: ...

    The decorated functions stay callable. Registering one name twice is an error.
    """

    def __init__(
        self, app_id: str = "app", *, namespace: str = "default", replay_check: str = "sampled"
    ) -> None:
        """`replay_check`: how often the history is replayed and compared after a turn: "always", "sampled" (one turn
        in a thousand) or "off"."""
        for what, name in (("app id", app_id), ("namespace", namespace)):
            if not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"the {what} {name!r} is not valid: use up to 64 letters, digits, '-' and '_', "
                    "beginning and ending with a letter or digit"
                )
        if replay_check not in MODES:
            raise ConfigurationError(
                f"replay_check is {replay_check!r}; it must be one of: {', '.join(MODES)}"
            )
        self.app_id = app_id
        self.namespace = namespace
        self.replay_check = replay_check
        self.registry = Registry()
        self.workflow = self.registry.workflow
        self.activity = self.registry.activity
        self._actors: dict[str, ActorSpec] = {}

    @overload
    def actor(self, cls: C) -> C: ...
    @overload
    def actor(
        self,
        cls: None = None,
        *,
        name: str | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        reentrant: bool = False,
        keep_replies: timedelta = KEEP,
    ) -> Callable[[C], C]: ...
    def actor(
        self,
        cls: C | None = None,
        *,
        name: str | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        reentrant: bool = False,
        keep_replies: timedelta = KEEP,
    ) -> C | Callable[[C], C]:
        """Registers a class derived from `Actor`, as a decorator: `@app.actor` or `@app.actor(name=…)`.

        `idle_timeout`: seconds without a call after which an actor leaves memory; its state stays in the store.
        `reentrant`: whatever a turn calls may call the actor back while the turn waits. `keep_replies`: for how long
        a call with an idempotency key is known.
        """

        def register(actor: C) -> C:
            spec = ActorSpec(actor, name, idle_timeout, reentrant, keep_replies)
            # Made once here, so that what is wrong with the class is said where it is registered.
            kind = UserActorType(actor, _NOBODY, name=name, keep_replies=keep_replies).name
            known = self._actors.get(kind)
            if known is not None:
                raise ConfigurationError(
                    f"two classes have the actor type {kind!r}: {known.cls.__qualname__} and "
                    f"{actor.__qualname__}. Give one of them another name with name="
                )
            self._actors[kind] = spec
            return actor

        return register if cls is None else register(cls)

    # --- running -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serve(
        self,
        *,
        store: str | StateStore = DEFAULT_STORE,
        http_port: int | None = None,
        host: str = "127.0.0.1",
        api_token: str | None = None,
        cluster: ClusterOptions | None = None,
        drain_seconds: float = DRAIN_SECONDS,
        replay_check: str | None = None,
        blocked_after: float = BLOCKED_AFTER,
        max_concurrent_activities: int | None = None,
        max_concurrent_workflows: int | None = None,
        keep_keys: timedelta = KEEP_KEYS,
        tracer_provider: object | None = None,
    ) -> AsyncIterator[Node]:
        """A node of this app for the length of the block, on the running event loop.

        `store` is a URL (`memory://`, `sqlite:///file.db`, `redis://host`, `postgresql://host/database`) or a store;
        `http_port` None serves no HTTP, 0 takes a free port (`node.url` says which); `api_token` is what HTTP
        requests must then show. Over a store that several processes may use, the node is one of a cluster: `cluster`
        says how others reach it (any free port of `host` unless told otherwise). `StoreHeld` when another process has
        a store that is for one.

        At most `max_concurrent_activities` run at a time on this node, of all names together; unless that is given,
        1000 on the event loop and 64 in threads. At most `max_concurrent_workflows` instances are under way at a
        time on this node, children apart: the others stay PENDING.

        An idempotency key and the id of an event are known for `keep_keys` after they came.

        `tracer_provider`: one of OpenTelemetry's SDK, to which traces go; unless it is given, the one that the
        program has set for itself, if any.
        """
        options = NodeOptions(
            store=store,
            http_port=http_port,
            host=host,
            api_token=api_token,
            cluster=cluster or ClusterOptions(),
            drain_seconds=drain_seconds,
            blocked_after=blocked_after,
            tracer_provider=tracer_provider,
            runtime=RuntimeOptions(
                replay_check=replay_check or self.replay_check,
                max_concurrent_activities=max_concurrent_activities,
                max_concurrent_workflows=max_concurrent_workflows,
                keep_keys=keep_keys.total_seconds(),
            ),
        )
        node = self.node(options)
        await node.start()
        try:
            yield node
        finally:
            await node.stop()

    def node(self, options: NodeOptions) -> Node:
        """A node that is not started: for whoever wants to start and stop it by hand."""
        return Node(
            app_id=self.app_id,
            namespace=self.namespace,
            registry=self.registry,
            actors=tuple(self._actors.values()),
            options=options,
        )

    def run(
        self,
        *,
        store: str = DEFAULT_STORE,
        http_port: int | None = 3500,
        host: str = "127.0.0.1",
        api_token: str | None = None,
        http_sockets: tuple[socket.socket, ...] = (),
        cluster: ClusterOptions | None = None,
        log_level: str = "INFO",
        log_json: bool = False,
        drain_seconds: float = DRAIN_SECONDS,
        blocked_after: float = BLOCKED_AFTER,
        stuck_after: float = STUCK_AFTER,
        max_concurrent_activities: int | None = None,
        max_concurrent_workflows: int | None = None,
        keep_keys: timedelta = KEEP_KEYS,
        ready: Callable[[Node], None] | None = None,
    ) -> None:
        """Serves until SIGTERM or Ctrl-C, then stops in good order. A second signal ends the process at once.

        Configures logging and the process (uvloop, garbage collector), so it is for programs that do nothing else.
        Code that holds the event loop for `blocked_after` seconds is interrupted; if that does not help within
        `stuck_after` more, the process ends with status 70, for whoever supervises it to start it again. `ready` is
        called when the node serves. The other arguments are those of `serve`. Traces go where OpenTelemetry's variable
        `OTEL_EXPORTER_OTLP_ENDPOINT` says.
        """
        end_on_sigterm()
        logs.configure(log_level, as_json=log_json)
        options = NodeOptions(
            store=store,
            http_port=http_port,
            host=host,
            api_token=api_token,
            http_sockets=http_sockets,
            cluster=cluster or ClusterOptions(peer_port=PEER_PORT),
            drain_seconds=drain_seconds,
            blocked_after=blocked_after,
            stuck_after=stuck_after,
            exit_when_stuck=True,
            runtime=RuntimeOptions(
                replay_check=self.replay_check,
                max_concurrent_activities=max_concurrent_activities,
                max_concurrent_workflows=max_concurrent_workflows,
                keep_keys=keep_keys.total_seconds(),
            ),
        )
        tune()
        traces = provider_of_environment(self.app_id, self.namespace)
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve_until_told(options, ready))
        except StoreHeld as error:
            # Not a fault of this program: one line, and exit status 1.
            raise SystemExit(error.message) from None
        finally:
            if traces is not None:
                traces.shutdown()

    async def _serve_until_told(self, options: NodeOptions, ready: Callable[[Node], None] | None) -> None:
        node = self.node(options)
        logs.identify(app=self.app_id, namespace=self.namespace)
        await node.start()
        logs.identify(node=node.node_id)
        told = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            told.set()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            # Python's own handler would raise at whatever line the loop is, and end with a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tell)
        if ready is not None:
            ready(node)
        try:
            await told.wait()
        finally:
            await node.stop()
            signal.signal(signal.SIGINT, signal.default_int_handler)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def tune() -> None:
    """Settings of the whole process that a node gains much by."""
    import gc

    # Tens of thousands of live instances are no garbage: scanning them at every 700 new objects costs a third of
    # the throughput. What import left behind is never looked at again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    # The store's thread gets the interpreter back sooner after each write.
    sys.setswitchinterval(0.001)
