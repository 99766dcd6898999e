"""A clock that stands still until somebody moves it, so that a month takes no time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from heapq import heappop, heappush
from typing import Any

from perdure.actors.host import ActorHost
from perdure.actors.reminders import ReminderClock
from perdure.actors.timers import Timers
from perdure.workflow.dispatch import Dispatcher
from perdure.workflow.engine import WorkflowEngine
from perdure.workflow.slots import SlotsBehaviour

#: Seconds. What is to come sooner is the engine's own (a retry, a poll): it comes by itself, in real time.
PROMPT = 0.5
#: Seconds by which the clock of reminders is late on purpose: loops may round their timers down. This one does not.
LATE = 0.0005
#: Seconds by which two ways to compute one time may differ.
ROUNDING = 2e-6
#: What only time that somebody moves brings about, however soon it is: the user's own timers. Not what is due already.
_USERS: frozenset[Any] = frozenset({ReminderClock._fire, Timers._due})
#: Looks that come again for ever. Time that is moved does not stop at each of them: a month has millions.
_LOOKS: frozenset[Any] = frozenset(
    {ActorHost._tick, ReminderClock._fire, WorkflowEngine._look, SlotsBehaviour._audit, Dispatcher._tick}
)


class Later:
    """One callback to come."""

    __slots__ = ("args", "callback", "due", "handle")

    def __init__(self, due: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        #: Monotonic.
        self.due = due
        self.callback: Callable[..., object] | None = callback
        self.args = args
        #: The loop's, when it comes in real time.
        self.handle: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        self.callback, self.args = None, ()
        if self.handle is not None:
            self.handle.cancel()


class VirtualClock:
    """Implements `perdure.clock.Clock` for one node, on a real event loop.

    Both times stand still until `move`. What is to come within PROMPT seconds comes after as much real time, and takes
    monotonic time along, so that code that polls gets to its end. Everything runs in copies of one context.
    """

    def __init__(self, now: int) -> None:
        """`now`: microseconds since 1970 UTC. Made on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._context: Context = copy_context()
        self._now = now
        # Small, so that fractions of microseconds do not get lost.
        self._monotonic = 1000.0
        self._later: list[tuple[float, int, Later]] = []
        self._count = 0
        self._prompt: set[Later] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asleep: set[asyncio.Task[Any]] = set()
        #: Grows whenever anything is begun: while it stays the same over some passes of the loop, nothing goes on.
        self.stirs = 0

    # --- Clock -------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        self.stirs += 1
        return self._loop.call_soon(callback, *args, context=self._context)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Later:
        delay = max(delay, 0.0)
        function = getattr(callback, "__func__", None)
        early = LATE if function is ReminderClock._fire else 0.0
        later = Later(self._monotonic + max(0.0, delay - early), callback, args)
        if delay <= early or (delay < PROMPT and function not in _USERS):
            self._prompt.add(later)
            later.handle = self._loop.call_later(delay, self._promptly, later, context=self._context)
        else:
            self._count += 1
            heappush(self._later, (later.due, self._count, later))
        return later

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        self.stirs += 1
        task = self._loop.create_task(coroutine, name=name, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def sleep(self, delay: float) -> None:
        if delay <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = self._loop.create_future()
        later = self.call_later(delay, _wake, future)
        task = asyncio.current_task()
        if task in self._tasks:
            self._asleep.add(task)
        try:
            await future
        finally:
            if task is not None:
                self._asleep.discard(task)
            later.cancel()

    def token(self, size: int = 16) -> bytes:
        return os.urandom(size)

    # --- for whoever moves it ----------------------------------------------------------------------------------------

    @property
    def awake(self) -> int:
        """How many tasks run, or wait for anything but time."""
        return len(self._tasks) - len(self._asleep)

    @property
    def prompt(self) -> bool:
        """Whether something is about to come in real time."""
        self._prompt = {later for later in self._prompt if later.callback is not None}
        return bool(self._prompt)

    @property
    def next_stop(self) -> int | None:
        """When the next thing is due that waits for time to be moved, but for what is looked at again and again."""
        stops = [
            later.due
            for _, _, later in self._later
            if later.callback is not None and getattr(later.callback, "__func__", None) not in _LOOKS
        ]
        if not stops:
            return None
        return self._now + max(1, round((min(stops) - self._monotonic) * 1e6))

    def move(self, to: int) -> None:
        """Makes it `to`, in microseconds since 1970 UTC: all that is due by then comes soon, in order."""
        if to > self._now:
            self._monotonic += (to - self._now) / 1e6
            self._now = to
        self._run_due(self._monotonic)

    # --- callbacks ---------------------------------------------------------------------------------------------------

    def _promptly(self, later: Later) -> None:
        self._prompt.discard(later)
        if later.callback is not None:
            self._monotonic = max(self._monotonic, later.due)
            self._run(later)
            self._run_due(self._monotonic)

    def _run_due(self, until: float) -> None:
        due = []
        while self._later and self._later[0][0] <= until + ROUNDING:
            due.append(heappop(self._later)[2])
        for later in due:
            self.stirs += 1
            self._loop.call_soon(self._run, later, context=self._context)

    def _run(self, later: Later) -> None:
        callback, args = later.callback, later.args
        later.callback, later.args = None, ()
        self.stirs += 1
        if callback is not None:
            callback(*args)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.stirs += 1
        self._tasks.discard(task)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
