"""A deterministic event loop: virtual time, no I/O, and timers that are due together in seeded order."""

from __future__ import annotations

import asyncio
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.process import Process

#: The simulated process that a callback belongs to; None: the world outside of all of them.
PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
#: Callbacks that one run may take: more is a loop that never rests.
STEP_LIMIT = 400_000


class Violation(AssertionError):
    """Something happened that must never happen."""


class Handle:
    """One callback to come. `asyncio` uses it as it does its own."""

    __slots__ = ("_when", "args", "callback", "context")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self._when = when
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self._when


class SimLoop(asyncio.AbstractEventLoop):
    """What is called soon runs in the order of the calls, as asyncio promises; everything else is up to the seed.

    Every callback belongs to the process in whose context it was scheduled, so a dead or paused process is so with
    all its tasks, timers and futures.
    """

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.steps = 0
        self.failure: BaseException | None = None
        #: Whose callback runs.
        self.process: Process | None = None
        #: Called with (process, context dictionary) for what asyncio finds fault with.
        self.complain: Callable[[Process | None, dict[str, Any]], None] = lambda process, context: None
        self._tie = random.Random(f"{seed}-loop").random
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, float, int, Handle]] = []
        self._count = 0
        #: The context of the world outside.
        self.world = Context()

    # --- what asyncio and the clocks use -----------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(self.now, callback, args, _current() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        # However short a delay is, some time passes: code that waits for the rest of a time comes to its end.
        when = max(when, self.now + 1e-6)
        handle = Handle(when, callback, args, _current() if context is None else context)
        self._count += 1
        heappush(self._timers, (when, self._tie(), self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complain(PROCESS.get(), context)

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Runs until `main` ends, or until something sets `failure`, which is then raised."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            task = self.create_task(main, name="world", context=self.world)
            self._run(task)
            if self.failure is not None:
                raise self.failure
            return task.result()
        finally:
            events._set_running_loop(outer)

    def drain(self, tasks: Callable[[], list[asyncio.Task[Any]]]) -> None:
        """Ends tasks after a run: whatever they do is of no consequence any more."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        self._timers.clear()
        try:
            for _ in range(20):
                left = tasks()
                if not left:
                    return
                for task in left:
                    task.cancel()
                while self._ready:
                    handle = self._ready.popleft()
                    if handle.callback is not None:
                        _quietly(handle)
                self._timers.clear()
        finally:
            events._set_running_loop(outer)

    def _run(self, task: asyncio.Task[Any]) -> None:
        ready, timers, process_of = self._ready, self._timers, PROCESS
        while not task.done() and self.failure is None:
            if not ready:
                if not timers:
                    raise Violation("nothing is left to happen, and the run has not ended")
                self._next_timer()
                continue
            handle = ready.popleft()
            callback = handle.callback
            if callback is None:
                continue
            process = handle.context.get(process_of)
            if process is not None and not process.running:
                process.hold(handle)
                continue
            self.process = process
            self.steps += 1
            if self.steps > STEP_LIMIT:
                raise Violation(f"no rest after {STEP_LIMIT} steps: something loops without a pause")
            handle.context.run(callback, *handle.args)
            if process is not None and process.slowness:
                process.rest()

    def _next_timer(self) -> None:
        when, _, _, handle = heappop(self._timers)
        if handle.callback is None:
            return
        self.now = max(self.now, when)
        self._ready.append(handle)

    def again(self, handles: list[Handle]) -> None:
        """What a process was not given while it was paused."""
        self._ready.extend(handles)


def _current() -> Context:
    process = PROCESS.get()
    return process.context if process is not None else _WORLD


def _quietly(handle: Handle) -> None:
    try:
        assert handle.callback is not None
        handle.context.run(handle.callback, *handle.args)
    except BaseException:  # noqa: BLE001, S110 - the run is over
        pass


_WORLD = Context()
