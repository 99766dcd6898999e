"""One simulated process: its clocks, its randomness, and whether it lives, stands still or is dead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from tests.simulation.loop import PROCESS, Handle, SimLoop

#: Wall-clock time at the beginning of every run: some day in 2026, in microseconds.
EPOCH = 1_780_000_000_000_000


class Process:
    """Implements `perdure.clock.Clock` for everything that one process runs.

    A killed process runs nothing any more; not even the `finally` blocks of its tasks. A paused one runs everything
    later that came while it stood still, as after SIGSTOP; its clocks go on.
    """

    def __init__(self, loop: SimLoop, name: str, seed: object) -> None:
        self.loop = loop
        self.name = name
        self.dead = False
        self.paused = False
        #: Seconds that each of its callbacks takes, and whether it is in one.
        self.slowness = 0.0
        self.busy = False
        #: Neither dead nor paused, nor in a callback that takes time.
        self.running = True
        #: Microseconds by which its wall clock is wrong.
        self.skew = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context = Context()
        self.context.run(PROCESS.set, self)
        #: Called with each task of this process that ended with an exception.
        self.task_failed: Callable[[Process, BaseException], None] = lambda process, error: None
        self._random = random.Random(f"{seed}-{name}")
        self._held: list[Handle] = []

    def __repr__(self) -> str:
        return f"<{self.name}>"

    # --- Clock -------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        return EPOCH + self.skew + int(self.loop.now * 1e6)

    def monotonic(self) -> float:
        return self.loop.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        return self.loop.call_soon(callback, *args, context=self.context)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        return self.loop.call_later(delay, callback, *args, context=self.context)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        # One of its own, as every task has: what a turn sets there is for its own code.
        task = self.loop.create_task(coroutine, name=name, context=self.context.copy())
        self.tasks.add(task)
        task.add_done_callback(self._ended, context=self.context)
        return task

    async def sleep(self, delay: float) -> None:
        future = self.loop.create_future()
        handle = self.call_later(delay, _wake, future)
        try:
            await future
        finally:
            handle.cancel()

    def token(self, size: int = 16) -> bytes:
        return self._random.randbytes(size)

    # --- faults ------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self.dead, self.running = True, False

    def pause(self) -> None:
        if not self.dead:
            self.paused, self.running = True, False

    def resume(self) -> None:
        if self.dead or not self.paused:
            return
        self.paused = False
        self._free()

    def rest(self) -> None:
        """Called by the loop after each callback of a slow process: until its time is over nothing else runs in it."""
        if self.running:
            self.busy, self.running = True, False
            self.loop.call_later(self.slowness, self._done, context=self.loop.world)

    def _done(self) -> None:
        self.busy = False
        self._free()

    def _free(self) -> None:
        if not (self.dead or self.paused or self.busy):
            self.running = True
            self.go_on()

    def go_on(self) -> None:
        """Has the loop run what was held back."""
        held, self._held = self._held, []
        self.loop.again(held)

    def hold(self, handle: Handle) -> None:
        """Called by the loop in place of a callback of a process that does not run. Those of the dead are kept too:
        after the run their tasks are to end without a word."""
        self._held.append(handle)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self.task_failed(self, error)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
