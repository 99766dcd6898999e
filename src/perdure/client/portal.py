"""How blocking calls reach the event loop that does them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from perdure.errors import Unavailable

T = TypeVar("T")

#: Seconds in which a loop's thread has to end.
END_SECONDS = 2.0


class Portal(Protocol):
    """An event loop in another thread."""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine comes to. `RuntimeError` in a thread that itself runs an event loop, which would stand
        still meanwhile. Whatever interrupts the wait (Ctrl-C) ends the coroutine."""

    def end(self, last: Coroutine[Any, Any, None]) -> None:
        """Runs a last coroutine, and ends what the portal has begun; it may be used again."""


class NodeLoop:
    """The event loop of a node, which lives as long as the node does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return _run(coroutine, self._loop)

    def end(self, last: Coroutine[Any, Any, None]) -> None:
        last.close()


class LoopThread:
    """An event loop in a thread of its own, which begins at the first call, and anew in a forked process."""

    def __init__(self) -> None:
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def forked(self) -> None:
        """The thread is the parent's. Its loop stays, unused: connections that belong to it are the parent's too, and
        must not be closed from here."""
        if self._loop is not None:
            _of_parent.append(self._loop)
        self._reset()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return _run(coroutine, self._begun())

    def _begun(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(loop,), name="perdure-client", daemon=True
                )
                self._thread.start()
                self._loop = loop
            return self._loop

    def end(self, last: Coroutine[Any, Any, None]) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            last.close()
            return
        done = asyncio.run_coroutine_threadsafe(last, loop)
        done.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        # The garbage collector may call this, in whatever thread it is.
        if threading.current_thread() is not thread:
            thread.join(END_SECONDS)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _run(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    if asyncio._get_running_loop() is not None:
        coroutine.close()
        raise RuntimeError(
            "a blocking call of a workflow client in a thread that runs an event loop, which would stand still: "
            "await the coroutine of the client itself, not of its .sync"
        )
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # The loop is closed.
        coroutine.close()
        raise Unavailable("the node of this client has stopped") from None
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise Unavailable("the node of this client has stopped, or the client was closed") from None
    finally:
        future.cancel()


_all: weakref.WeakSet[LoopThread] = weakref.WeakSet()
#: Loops whose threads did not come along into this process.
_of_parent: list[asyncio.AbstractEventLoop] = []


def _after_fork() -> None:
    for portal in list(_all):
        portal.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
