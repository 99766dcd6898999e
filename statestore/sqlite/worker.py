"""Worker: a thread with its own connection that does jobs and answers on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from perdure.logs import fields
from perdure.statestore.sqlite.errors import mapped

logger = logging.getLogger("perdure.statestore")

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
        #: Held while a job uses the connection of a worker with one thread.
        self._using = threading.Lock()
        # Connected here, so that what is wrong with the file is raised to whoever opens it.
        connections = [connect() for _ in range(threads)]
        self._single = connections[0] if threads == 1 else None
        self._threads = [
            threading.Thread(target=self._work, args=(one,), name=f"{name}-{number}", daemon=True)
            for number, one in enumerate(connections)
        ]

    def start(self) -> None:
        """Begins with the jobs; once. Not before everything is there that jobs, and `idle`, use."""
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

    def now(self, job: Callable[..., T], *args: Any) -> T | None:
        """Does a job on the caller's thread, for a worker with one thread that has nothing to do; None if it has.
        Raises the store's error."""
        if self._single is None or not self._queue.empty() or not self._using.acquire(blocking=False):
            return None
        try:
            return job(self._single, *args)
        except Exception as caught:
            raise mapped(caught) from caught
        finally:
            self._using.release()

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
                with self._using:
                    wait = idle(connection)
                continue
            if job is None:
                break
            if self._single is None:
                _do(connection, *job)
            else:
                with self._using:
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
        if error is not None:
            logger.warning("housekeeping failed", extra=fields(job=job.__qualname__, reason=str(error)))
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
