"""Supervisor: the parent of several nodes of one app."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from perdure.addresses import bound, cannot_listen, local_url
from perdure.clock import LoopClock
from perdure.errors import PerdureError
from perdure.logs import fields
from perdure.membership import PEER_PORT, ClusterOptions
from perdure.security import VARIABLES
from perdure.statestore.urls import shown
from perdure.supervisor.channel import Drained, End, Failed, FromChild, Loaded, Ready, Stop
from perdure.supervisor.child import Child, how
from perdure.supervisor.ground import LOOPBACK, Ground, of_one_process
from perdure.supervisor.output import Mark, Output, json_mark, text_mark
from perdure.supervisor.restarts import Restarts

log = logging.getLogger("perdure.supervisor")

#: Connections that wait for a node to accept them: all of them while none does.
BACKLOG = 1024
#: Seconds beyond the drain time that a node may take to stop before it is killed.
GRACE = 15.0
#: The environment variables by which nodes get what may be secret: a command line is there for everybody to read.
API_TOKEN, STORE = "PERDURE_API_TOKEN", "PERDURE_STORE"


class SupervisorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `perdure run --nodes N` was told."""

    #: module:app, or path/file.py:app.
    target: str
    nodes: int
    store: str
    http_port: int
    host: str
    api_token: str | None = None
    cluster: ClusterOptions = ClusterOptions()
    log_level: str = "INFO"
    log_json: bool = False
    drain_seconds: float = 10.0
    #: Of each node.
    max_concurrent_activities: int | None = None
    max_concurrent_workflows: int | None = None


class NodeFailed(PerdureError):
    """A node cannot start. `status` is the exit status for that."""

    status: int = 1


class _Place:
    """One of the nodes, over all its processes."""

    def __init__(self, number: int, mark: Mark) -> None:
        self.number = number
        self.mark = mark
        self.restarts = Restarts()
        self.child: Child | None = None
        self.loaded = False
        #: What the present process said about itself when it was ready.
        self.ready: Ready | None = None
        self.ever_ready = False
        self.drained = False
        self.failed: Failed | None = None
        #: It was told to end, so that a new one takes its place at once.
        self.replaced = False

    def begins(self, child: Child) -> None:
        self.child, self.ready, self.failed = child, None, None
        self.loaded = self.drained = self.replaced = False


class Supervisor:
    """Starts the nodes, starts them again when they end, and stops them. `run` on the main thread's loop.

    All nodes accept connections on the same sockets, which are the parent's: clients may talk to any node, and while
    one is down the others accept what comes. A store that belongs to one process is the parent's too (`Ground`).
    """

    def __init__(self, options: SupervisorOptions) -> None:
        self._options = options
        self._clock = LoopClock()
        self._output = Output()
        mark = json_mark if options.log_json else text_mark
        self._places = [_Place(number, mark(number)) for number in range(1, options.nodes + 1)]
        self._ground: Ground | None = None
        self._sockets: list[socket.socket] = []
        self._url = ""
        self._environment: Mapping[str, str] = {}
        self._stopping = False
        #: Set at every change of what a place says.
        self._changed = asyncio.Event()
        self._over: asyncio.Future[None] | None = None
        self._rolling: asyncio.Task[None] | None = None
        #: Whether it was started from a terminal.
        self._terminal = False

    async def run(self) -> None:
        """Until SIGTERM or Ctrl-C. SIGHUP starts the nodes anew one after the other. `NodeFailed` when a node cannot
        start at all; `StoreHeld`, `ConfigurationError`."""
        options = self._options
        self._over = asyncio.get_running_loop().create_future()
        keepers: list[asyncio.Task[None]] = []
        try:
            # The store first: who holds it says more than who has the port.
            if of_one_process(options.store):
                self._ground = Ground(options.store, self._clock, options.nodes)
                await self._ground.start()
                assert self._ground.leading is not None
                self._ground.leading.add_done_callback(self._placement_ended)
            self._listen()
            self._environment = self._child_environment()
            self._heed_signals()
            for place in self._places:
                keepers.append(keeper := asyncio.create_task(self._keep(place)))
                keeper.add_done_callback(self._fault)
            asyncio.create_task(self._say_when_ready())  # noqa: RUF006 - the loop ends with it
            await self._over
        finally:
            self._stopping = True
            await self._stop(keepers)

    # --- what all nodes share ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        host, port = self._options.host, self._options.http_port
        try:
            self._sockets = bound(host, port)
            for one in self._sockets:
                one.listen(BACKLOG)
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        self._url = local_url(host, self._sockets[0].getsockname()[1])

    def _child_environment(self) -> Mapping[str, str]:
        options = self._options
        given = {
            VARIABLES["token"]: self._cluster(1).security.token,
            API_TOKEN: options.api_token,
            STORE: options.store if self._ground is None else "",
        }
        inherited = dict(os.environ)
        if self._ground is not None:
            # What says how nodes reach other machines: these have none.
            for name in VARIABLES.values():
                inherited.pop(name, None)
        return {**inherited, **{name: value for name, value in given.items() if value}}

    def _cluster(self, number: int) -> ClusterOptions:
        given = self._options.cluster
        if self._ground is not None:
            return self._ground.cluster(given)
        # A port that was asked for is the first node's; the default one would be in the way of a second parent.
        port = 0 if given.peer_port in (0, PEER_PORT) else given.peer_port + number - 1
        return msgspec.structs.replace(given, peer_port=port)

    def _arguments(self, place: _Place) -> Sequence[str]:
        options, cluster = self._options, self._cluster(place.number)
        host = options.host if self._ground is None else LOOPBACK
        arguments = [options.target, "--host", host]
        if self._ground is not None:
            arguments += ["--store", self._ground.store_url]
        for one in self._sockets:
            arguments += ["--http-fd", str(one.fileno())]
        arguments += ["--peer-port", str(cluster.peer_port), "--weight", str(cluster.weight)]
        security = cluster.security
        for name, value in (
            ("--placement", cluster.placement),
            ("--advertise", cluster.advertise),
            ("--ca", security.ca),
            ("--cert", security.cert),
            ("--key", security.key),
        ):
            if value:
                arguments += [name, value]
        arguments += ["--log-level", options.log_level, "--drain-seconds", str(options.drain_seconds)]
        if options.max_concurrent_activities is not None:
            arguments += ["--max-concurrent-activities", str(options.max_concurrent_activities)]
        if options.max_concurrent_workflows is not None:
            arguments += ["--max-concurrent-workflows", str(options.max_concurrent_workflows)]
        return [*arguments, "--log-json"] if options.log_json else arguments

    # --- one node ----------------------------------------------------------------------------------------------------

    async def _keep(self, place: _Place) -> None:
        """A process for this place at all times, until all stop."""
        if place.number > 1:
            # What is wrong with the app, the first one says, once.
            await self._until(lambda: self._places[0].loaded)
        while not self._stopping:
            began = self._clock.monotonic()
            try:
                child = self._spawn(place)
            except OSError as error:
                # The system has no room for a process now.
                place.failed = Failed(f"no process can be started: {error.strerror}", 1)
                place.child, pid, status = None, None, 1
            else:
                place.begins(child)
                pid, status = child.pid, await child.ended
            place.child = None
            self._changed.set()
            if place.ready is not None and self._ground is not None:
                self._ground.gone(place.ready.node)
            place.ready = None
            if self._stopping or self._hopeless(place, status):
                return
            if not place.replaced:
                delay = place.restarts.ended(self._clock.monotonic() - began)
                self._say_why(place, pid, status, delay)
                await self._until(lambda: self._stopping, within=delay)

    def _spawn(self, place: _Place) -> Child:
        return Child(
            place.number,
            self._arguments(place),
            environment=self._environment,
            files=[one.fileno() for one in self._sockets],
            output=self._output,
            mark=place.mark,
            told=self._told,
        )

    def _told(self, child: Child, message: FromChild) -> None:
        place = self._places[child.number - 1]
        match message:
            case Loaded():
                place.loaded = True
            case Ready():
                place.ready, place.ever_ready = message, True
                if self._ground is not None:
                    self._ground.announce(self._url)
            case Drained():
                place.drained = True
            case Failed():
                place.failed = message
        self._changed.set()

    def _hopeless(self, place: _Place, status: int) -> bool:
        """The first process of a node cannot start for a reason that the next would meet too: everything ends."""
        if place.ever_ready or (place.failed is None and place.loaded):
            return False
        failed = place.failed or Failed(
            f"node {place.number} ended with {how(status)} while {self._options.target} was being loaded",
            status if status > 0 else 1,
        )
        assert self._over is not None
        if not self._over.done():
            self._over.set_exception(NodeFailed(failed.message, status=failed.status))
        return True

    def _say_why(self, place: _Place, pid: int | None, status: int, delay: float) -> None:
        about = fields(
            number=place.number,
            pid=pid,
            how=how(status),
            reason=place.failed.message if place.failed is not None else None,
            again_in=round(delay, 1),
        )
        log.log(logging.ERROR if status else logging.INFO, "node.ended", extra=about)

    # --- all of them -------------------------------------------------------------------------------------------------

    async def _say_when_ready(self) -> None:
        await self._until(lambda: self._stopping or all(place.ready for place in self._places))
        ready = self._places[0].ready
        if self._stopping or ready is None:
            return
        options = self._options
        if options.log_json:
            told = fields(
                app=ready.app_id,
                url=self._url,
                store=options.store,
                nodes=options.nodes,
                workflows=ready.workflows,
                activities=ready.activities,
            )
            log.info("run.serves", extra=told)
            return
        from importlib.metadata import version

        lines = [
            f"perdure {version('perdure')}: app {ready.app_id}, namespace {ready.namespace}",
            f"  store       {shown(options.store)}",
            f"  http        {self._url}",
            f"  nodes       {options.nodes}",
            f"  workflows   {', '.join(ready.workflows) or 'none'}",
            f"  activities  {', '.join(ready.activities) or 'none'}",
        ]
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()

    async def _roll(self) -> None:
        """A new process for each place, one after the other: the others serve meanwhile."""
        log.info("nodes.rolling", extra=fields(nodes=len(self._places)))
        for place in self._places:
            await self._until(lambda place=place: place.ready is not None)  # type: ignore[misc]
            child = place.child
            if self._stopping or child is None:
                return
            place.replaced = True
            child.signal(signal.SIGTERM)
            await self._end(child)
            new_ready = await self._until(
                lambda place=place, child=child: (  # type: ignore[misc]
                    place.child is not child and (place.ready is not None or place.failed is not None)
                )
            )
            if place.failed is not None or not new_ready:
                log.error(
                    "nodes.rolling_stopped",
                    extra=fields(number=place.number, reason=place.failed.message if place.failed else None),
                )
                return
        log.info("nodes.rolled", extra=fields(nodes=len(self._places)))

    async def _stop(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Together: whoever has nothing to run any more still takes the answers of those that have."""
        self._changed.set()
        for one in self._sockets:
            one.close()
        children = [place.child for place in self._places if place.child is not None]
        for place in self._places:
            if place.child is not None:
                if place.ready is not None:
                    place.child.tell(Stop())
                else:
                    place.child.signal(signal.SIGTERM)
        await self._until(
            lambda: all(place.drained or place.child is None for place in self._places),
            within=self._options.drain_seconds,
        )
        if self._ground is not None:
            self._ground.freeze()
        for child in children:
            child.tell(End())
        for child in children:
            await self._end(child)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        if self._rolling is not None:
            self._rolling.cancel()
        await asyncio.to_thread(self._output.finish, 1.0)
        if self._ground is not None:
            await self._ground.stop()

    async def _end(self, child: Child) -> None:
        """Waits for its end, and kills it when that takes too long."""
        done, _ = await asyncio.wait((child.ended,), timeout=self._options.drain_seconds + GRACE)
        if not done:
            log.error("node.killed", extra=fields(number=child.number, pid=child.pid))
            child.kill()
            await child.ended

    # --- signals -----------------------------------------------------------------------------------------------------

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        self._terminal = _has_terminal()
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    def _signalled(self, number: signal.Signals) -> None:
        assert self._over is not None
        if not self._over.done():
            self._over.set_result(None)
            return
        # The second one: at once.
        for place in self._places:
            if place.child is not None:
                place.child.kill()
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _hung_up(self) -> None:
        """By a person who wants new code, or by the system because that person's terminal is gone."""
        if self._terminal and not _has_terminal():
            self._signalled(signal.SIGHUP)
        elif self._rolling is None or self._rolling.done():
            self._rolling = asyncio.create_task(self._roll())

    def _fault(self, task: asyncio.Task[None]) -> None:
        """Of this code: a place that nobody keeps would stay empty."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._over is not None and not self._over.done():
            self._over.set_exception(error)

    def _placement_ended(self, task: asyncio.Task[None]) -> None:
        """The store has refused its table. Members would take each other for gone: none may go on."""
        if not self._stopping and self._over is not None and not self._over.done():
            error = None if task.cancelled() else task.exception()
            self._over.set_exception(NodeFailed(f"placement has ended: {error}"))

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], object], within: float | None = None) -> bool:
        """Returns when the condition holds, as looked at after each change, or the time is over; which it was."""
        deadline = None if within is None else self._clock.monotonic() + within
        while not condition():
            left = None if deadline is None else deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                return False
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return False
        return True


def _has_terminal() -> bool:
    """Whether this process has a terminal that can hang up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
