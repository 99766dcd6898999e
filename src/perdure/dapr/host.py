"""The node of this process, on a thread of its own, and the way to it from all other threads."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # registers its own end: see below
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure import WorkflowClient
from perdure.app import App, loop_factory
from perdure.dapr.errors import DaprInternalError
from perdure.errors import PerdureError
from perdure.node import Node, NodeOptions

T = TypeVar("T")


class Host:
    """One node. All methods are for threads other than its own, and block."""

    def __init__(self, app: App, options: NodeOptions) -> None:
        self._app = app
        self._options = options
        self._thread = threading.Thread(target=self._main, name="perdure-node", daemon=True)
        self._started: concurrent.futures.Future[Node] = concurrent.futures.Future()
        #: Guards what follows: a call that came after the loop's last round would never be answered.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Event | None = None
        self._stopping = False
        self._over = False

    def start(self) -> None:
        """Returns when the node serves and what was in flight goes on. Raises what the node raises."""
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Running activities have the drain time to end. Idempotent."""
        self._refuse_own_thread("stop the runtime")
        with self._lock:
            self._stopping = True
            if self._loop is not None and self._told is not None and not self._over:
                self._loop.call_soon_threadsafe(self._told.set)
        self._thread.join()

    def call(self, ask: Callable[[WorkflowClient], Coroutine[Any, Any, T]]) -> T:
        """What the client answers; waits for the start to be over. `TimeoutError` when it did not in time,
        `DaprInternalError` for all else."""
        self._refuse_own_thread("wait for an answer")
        client = self._started.result().client
        with self._lock:
            if self._loop is None or self._over:
                raise not_running()
            future = asyncio.run_coroutine_threadsafe(ask(client), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise DaprInternalError("the runtime was shut down before there was an answer") from None
        except PerdureError as error:
            if isinstance(error, TimeoutError):
                raise TimeoutError(error.message) from error
            raise DaprInternalError.of(error) from error
        finally:
            future.cancel()

    def _refuse_own_thread(self, what: str) -> None:
        if threading.current_thread() is self._thread:
            raise DaprInternalError(
                f"workflow code and `async` activities cannot {what}: that would block the event loop that they run "
                "on. Use the workflow's context, or do it in an activity that is a plain function"
            )

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        told = asyncio.Event()
        with self._lock:
            self._loop, self._told = asyncio.get_running_loop(), told
            if self._stopping:
                told.set()
        try:
            node = self._app.node(self._options)
            await node.start()
            self._started.set_result(node)
            await told.wait()
            # Activities that are given time to end may still ask for something meanwhile.
            await node.stop()
        finally:
            with self._lock:
                self._over = True
            # What was handed over before that begins now, and is cancelled with the loop.
            await asyncio.sleep(0)


_current: Host | None = None
_lock = threading.Lock()


def begin(app: App, options: NodeOptions) -> Host:
    """Starts the node of this process. `DaprInternalError` when there is one: it is what clients reach."""
    global _current
    with _lock:
        if _current is not None:
            raise DaprInternalError(
                "a WorkflowRuntime is running in this process already: register everything on that one, or shut it "
                "down first"
            )
        # Before it has started: what it recovers may ask for something at once.
        host = _current = Host(app, options)
        try:
            host.start()
        except BaseException:
            _current = None
            raise
    return host


def end(host: Host) -> None:
    """Stops it. Idempotent."""
    global _current
    host.stop()
    with _lock:
        if _current is host:
            _current = None


def current() -> Host:
    """The node of this process. `DaprInternalError` when none is running."""
    host = _current
    if host is None:
        raise not_running()
    return host


def _end_with_the_process() -> None:
    """Whoever forgets to stop it gets a good end even so; daemon threads would just be cut off."""
    host = _current
    if host is not None:
        end(host)


# Before the executors of the process, which a node needs for its end, refuse work: who registers last is called first.
# `atexit` itself comes after that.
threading._register_atexit(_end_with_the_process)  # type: ignore[attr-defined]


def not_running() -> DaprInternalError:
    return DaprInternalError(
        "no WorkflowRuntime is running in this process: call its start() first. There is no sidecar that would keep "
        "requests until then"
    )
