"""Worker: a thread with its own connection that does jobs and answers on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from perdure.statestore.sqlite.errors import mapped

#: Seconds without a job after which a worker is idle.
IDLE = 0.05

T = TypeVar("T")
Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class Worker:
    """Threads that take jobs from one queue; each job is called with its thread's connection, and its future gets
    the result, or the store's error, by one call into the loop.

    `idle` is called when there has been nothing to do for a while; it returns the seconds to the next such call, or
    None when it has no wish for one before the next job.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        *,
        threads: int = 1,
        idle: Callable[[sqlite3.Connection], float | None] | None = None,
    ) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._idle = idle
        # Connected here, so that what is wrong with the file is raised to whoever opens it.
        connections = [connect() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._work, args=(one,), name=f"{name}-{number}", daemon=True)
            for number, one in enumerate(connections)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, job: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Has `job(connection, *args)` done; on an event loop only."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((job, args, future))
        return future

    def tell(self, job: Callable[..., object], *args: Any) -> None:
        """As `ask`, from any thread, with nobody waiting."""
        self._queue.put((job, args, _NOBODY))

    def stop(self) -> None:
        """Ends the threads after the jobs given so far, closes their connections, and waits for that."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, connection: sqlite3.Connection) -> None:
        get, idle = self._queue.get, self._idle
        wait = IDLE if idle else None
        while True:
            try:
                job = get(timeout=wait)
            except Empty:
                assert idle is not None
                wait = idle(connection)
                continue
            if job is None:
                break
            _do(connection, *job)
            wait = IDLE if idle else None
        connection.close()


def _do(
    connection: sqlite3.Connection,
    job: Callable[..., Any],
    args: tuple[Any, ...],
    future: asyncio.Future[Any],
) -> None:
    result, error = None, None
    try:
        result = job(connection, *args)
    except Exception as caught:  # noqa: BLE001 - the seam: no foreign exception leaves the store
        error = mapped(caught)
    if future is _NOBODY:
        return
    # RuntimeError: the loop is closed, so nobody waits any more.
    with contextlib.suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


_NOBODY: Any = object()
