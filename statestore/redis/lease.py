"""RedisLease: a record that outlives its holders, and contenders who watch whether it changes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.errors import StoreError

if TYPE_CHECKING:
    from perdure.statestore.redis.store import RedisStore

#: Seconds without a sign of the holder after which another may take the lease: by the other's own monotonic clock.
LIFE = 2.0
#: The same by the server's clock, which may be set: only so that who starts long after a crash need not watch first.
LONG = 60.0


class RedisLease:
    """One contender for a lease of a `RedisStore`.

    No key that expires: the server would delete it early when its clock is set forward, and late when back. A
    contender who saw the same record for `LIFE` seconds takes the lease. A former holder can do no harm then, as its
    term is lower.
    """

    def __init__(self, store: RedisStore, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._name = name
        self._monotonic = monotonic
        self._token = os.urandom(12).hex()
        self._term: int | None = None
        #: Counts what was asked for: the server takes nothing that is older than what it has done.
        self._number = 0
        #: The number of the last write or acquisition that is known to be stored.
        self._stored = 0
        #: What another's lease looked like, and since when.
        self._seen = b""
        self._seen_since = 0.0
        self._lock = asyncio.Lock()

    @property
    def life(self) -> float:
        """See `ExpiringLease`. Shorter only where the server's clock is set forward by `LONG`."""
        return LIFE

    async def acquire(self) -> int | None:
        async with self._lock:
            now = self._monotonic()
            stale = self._seen if self._seen and now - self._seen_since >= LIFE else b""
            number = self._next()
            self._store.holds(self, True)
            done, answer = await self._ask(
                "acquire", number, self._store.now() // 1000, stale, int(LONG * 1000), durable=True
            )
            if done:
                self._term, self._stored, self._seen = int(answer), number, b""
                return self._term
            self._term = None
            self._store.holds(self, False)
            if answer != self._seen:
                self._seen, self._seen_since = answer, self._monotonic()
            return None

    async def read(self) -> bytes | None:
        return await self._store.lease_value(self._name)

    async def write(self, value: bytes) -> None:
        async with self._lock:
            term, number = self._held(), self._next()
            done, _ = await self._ask("write", number, term, value, durable=True)
            if not done:
                self._lost(term)
            self._stored = number

    async def renew(self) -> None:
        async with self._lock:
            term, number = self._held(), self._next()
            done, _ = await self._ask("renew", number, term, self._stored)
            if not done:
                self._lost(term)

    async def release(self) -> None:
        async with self._lock:
            if self._number == 0:
                return
            self._term = None
            await self._ask("release", self._next())
            self._store.holds(self, False)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _held(self) -> int:
        if self._term is None:
            raise StoreError(f"the lease {self._name!r} is not held")
        return self._term

    def _lost(self, term: int) -> None:
        self._term = None
        self._store.holds(self, False)
        raise StoreError(f"the lease {self._name!r} is not held under term {term} any more")

    async def _ask(
        self, what: str, number: int, *args: str | bytes | int, durable: bool = False
    ) -> tuple[bool, bytes]:
        reply = await self._store.ask_lease(self._name, (what, self._token, number, *args), durable=durable)
        return bool(reply[0]), reply[1] or b""
