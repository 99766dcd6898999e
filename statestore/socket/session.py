"""Session: the server's end of one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from perdure.errors import StoreError, StoreUnavailable
from perdure.statestore.contract import Counting, StateStore
from perdure.statestore.socket import messages
from perdure.statestore.socket.frames import FrameProtocol
from perdure.statestore.socket.gather import Gatherer
from perdure.statestore.socket.lease import Leases
from perdure.statestore.socket.messages import (
    Commits,
    Count,
    Due,
    Health,
    Keys,
    Load,
    Owing,
    Query,
    Release,
    Reminders,
    Request,
    Row,
    Take,
    Types,
)

#: Requests of one client that are being answered at a time; the store reads as many together.
AT_A_TIME = 64
#: Bytes of answers that may wait to be read by a client before nothing more is read from it.
UNREAD = 1024 * 1024


class Session(FrameProtocol):
    """Answers what one client asks. A client that does not read its answers is not read from either, and what it
    asked waits: so it costs the server little memory, whatever it asked for."""

    def __init__(
        self,
        store: StateStore,
        gatherer: Gatherer,
        welcome: bytes,
        *,
        joined: Callable[[Session], object],
        left: Callable[[Session, str], object],
    ) -> None:
        super().__init__()
        self._store = store
        self._gatherer = gatherer
        self._welcome = welcome
        self._joined, self._left = joined, left
        self._leases = Leases(store)
        self._waiting: deque[tuple[int, Request]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unread = False
        self._paused = False
        self._stopping = False

    async def stop(self) -> None:
        """Takes no more requests; returns when those in hand are answered. Commits are the gatherer's."""
        self._stopping = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def finish(self) -> None:
        """After the end of the connection: gives its leases back."""
        self._stopping = True
        await self._leases.close()

    # --- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=UNREAD)
        self._joined(self)
        self.send(self._welcome)

    def received(self, frame: memoryview) -> None:
        try:
            number, request = messages.decode_request(frame)
        except ValueError as error:
            # Somebody's wrong value, and no reason to cut off all others of that process; if it is a request at all.
            self._answer(messages.number(frame), StoreError(f"a store cannot read this: {error}"))
            return
        if isinstance(request, Commits) and not self._stopping:
            # They are gathered with those of others, and a client has few of them outstanding.
            self._gatherer.submit(request.batch, len(frame), partial(self._answer, number))
            return
        self._waiting.append((number, request))
        self._go_on()

    def lost(self, reason: str) -> None:
        self._waiting.clear()
        self._left(self, reason)

    def pause_writing(self) -> None:
        self._unread = True
        self._go_on()

    def resume_writing(self) -> None:
        self._unread = False
        self._go_on()

    def _go_on(self) -> None:
        """Begins with what waits, as far as it may; reads on when nothing has to wait."""
        while self._waiting and not self._unread and len(self._tasks) < AT_A_TIME:
            number, request = self._waiting.popleft()
            if self._stopping:
                self._answer(number, StoreUnavailable("the process that has the store is stopping"))
                continue
            task = asyncio.get_running_loop().create_task(self._serve(number, request))
            self._tasks.add(task)
            task.add_done_callback(self._served)
        pause = self._unread or bool(self._waiting)
        if pause != self._paused and self.transport is not None:
            self._paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiting:
            self._go_on()

    # --- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, number: int, result: object) -> None:
        """What the store gave, or the exception that it raised."""
        if isinstance(result, Exception):
            self.send(messages.failure(number, result))
            return
        try:
            self.send(messages.encode((number, None, result)))
        except messages.UNSENDABLE as error:
            self.send(messages.failure(number, messages.unsendable(error)))
        except StoreError as error:
            self.send(messages.failure(number, error))

    async def _serve(self, number: int, request: Request) -> None:
        result: object
        try:
            result = await self._result(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked has to hear of it
            result = error
        self._answer(number, result)

    async def _result(self, request: Request) -> object:
        store = self._store
        match request:
            case Load(actor):
                return await store.load(actor)
            case Keys(actor, prefix, start, limit):
                return await store.keys(actor, prefix, start, limit)
            case Take(held, fence):
                return await store.take(held, fence)
            case Release(held, fence):
                await store.release(held, fence)
                return None
            case Owing(held, cursor, limit):
                return await store.owing(held, cursor, limit)
            case Due(held, until, cursor, limit):
                return await store.due(held, until, cursor, limit)
            case Reminders(actor):
                return await store.reminders(actor)
            case Row(actor):
                return await store.row(actor)
            case Query(where, cursor, limit):
                return await store.query(where, cursor, limit)
            case Types():
                return await store.types()
            case Count(kind, limit):
                if not isinstance(store, Counting):
                    raise StoreError(f"{type(store).__name__} cannot count")
                return await store.count(kind, limit)
            case Health():
                await store.health()
                return None
            case Commits():
                raise AssertionError("commits are gathered")
            case _:
                return await self._leases.ask(request)
