"""Time, randomness and the scheduling of callbacks: the only way in which the layers get any of the three.

Production uses `LoopClock`. The simulation gives each simulated node a clock of its own, so that a node can be
paused or killed with everything it still meant to do, and so that a seed repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """Belongs to one node; used on that node's event loop only."""

    def now(self) -> int:
        """Wall-clock time, in whole microseconds since 1970 UTC. May jump, in both directions."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Cancellable:
        """Runs `callback(*args)` in a later iteration of the loop, in order of the calls."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Cancellable:
        """Runs `callback(*args)` after `delay` seconds."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Runs a coroutine as a task. The clock keeps the task alive until it ends."""

    async def sleep(self, delay: float) -> None:
        """Returns after `delay` seconds."""

    def token(self, size: int = 16) -> bytes:
        """`size` random bytes."""


class LoopClock:
    """The running event loop, the system's clocks and its randomness."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        loop = loop or asyncio.get_running_loop()
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pool = b""
        self._at = 0
        # Bound once: these are called several times per turn.
        self.call_soon = loop.call_soon
        self.call_later = loop.call_later
        self.monotonic = time.monotonic
        self.sleep = asyncio.sleep

    def now(self) -> int:
        return time.time_ns() // 1000

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def token(self, size: int = 16) -> bytes:
        # A system call per version or nonce costs more than the turn's own code: take 4 KB at a time.
        at = self._at
        if at + size > len(self._pool):
            self._pool = os.urandom(4096)
            at = 0
        self._at = at + size
        return self._pool[at : at + size]
