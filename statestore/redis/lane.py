"""Lane: one link to a server at a time, made anew when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from perdure.errors import PerdureError, StoreUnavailable
from perdure.statestore.redis.link import Link, packed

#: Seconds between attempts to connect: the first wait, and the longest.
FIRST_WAIT = 0.05
LONGEST_WAIT = 1.0

PING = packed(b"PING")

Connect = Callable[[], Awaitable[Link]]


class Lane:
    """Whoever needs the link waits for the attempt that is under way; when that fails, all of them hear why, and the
    next one to come makes another, not sooner than the back-off allows."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._link: Link | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False

    def open_link(self) -> Link | None:
        """The link, if it is there now."""
        link = self._link
        return link if link is not None and link.closed is None else None

    async def link(self) -> Link:
        """The link; `StoreUnavailable` if there is none now, or what else `connect` raises."""
        link = self._link
        if link is not None and link.closed is None:
            return link
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._attempt is None:
            self._attempt = asyncio.get_running_loop().create_task(self._try(), name="redis connection")
            self._attempt.add_done_callback(_seen)
        attempt = self._attempt
        # Not awaited itself: who gives up waiting does not take the connection from the others.
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise StoreUnavailable("the store is closed")
        return attempt.result()

    async def _try(self) -> Link:
        loop = asyncio.get_running_loop()
        try:
            wait = self._not_before - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            link = self._link = await self._connect()
        except PerdureError:
            delay = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self._failures, 10))
            self._failures += 1
            self._not_before = loop.time() + delay * (0.5 + random.random() / 2)
            raise
        finally:
            self._attempt = None
        self._failures = 0
        return link

    def abort(self, reason: str) -> None:
        """Breaks the link; the next one who asks connects."""
        if self._link is not None:
            self._link.abort(reason)
            self._link = None

    async def close(self) -> None:
        """Returns when what was asked for is answered, or cannot be any more."""
        self._closed = True
        link = self.open_link()
        if link is not None:
            with contextlib.suppress(StoreUnavailable):
                # It is answered after everything before it.
                await link.ask([PING])
        attempt = self._attempt
        if attempt is not None:
            attempt.cancel()
            await asyncio.wait([attempt])
        self.abort("the store is closed")


def _seen(attempt: asyncio.Task[Link]) -> None:
    if not attempt.cancelled():
        attempt.exception()  # Whoever waited has it; without one nobody is to be told.
