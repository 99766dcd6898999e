"""A lease that expires, as that of a store over a network does."""

from __future__ import annotations

import time

from perdure.errors import StoreError, StoreUnavailable


class LeaseServer:
    """What all contenders share."""

    def __init__(self, life: float = 2.0) -> None:
        self.life = life
        self.term = 0
        self.holder: TimedLease | None = None
        self.renewed = 0.0
        self.value: bytes | None = None
        self.acquires = 0
        self.writes = 0
        self.reads = 0
        #: It gives no answer to anybody.
        self.away = False
        #: What every request fails with.
        self.error: Exception | None = None

    def lease(self) -> TimedLease:
        return TimedLease(self)


class TimedLease:
    """One contender's end. Implements `ExpiringLease`."""

    def __init__(self, server: LeaseServer) -> None:
        self._server = server
        self._term = 0
        #: Its process was killed, or is cut off from the store.
        self.cut = False

    @property
    def life(self) -> float:
        return self._server.life

    async def acquire(self) -> int | None:
        server = self._reached()
        server.acquires += 1
        now = time.monotonic()
        if server.holder not in (None, self) and now - server.renewed < server.life:
            return None
        server.term = self._term = server.term + 1
        server.holder, server.renewed = self, now
        return self._term

    async def read(self) -> bytes | None:
        self._reached().reads += 1
        return self._server.value

    async def write(self, value: bytes) -> None:
        await self.renew()
        self._server.writes += 1
        self._server.value = value

    async def renew(self) -> None:
        server = self._reached()
        if server.holder is not self or server.term != self._term:
            raise StoreError(f"the lease is not held under term {self._term}")
        server.renewed = time.monotonic()

    async def release(self) -> None:
        server = self._reached()
        if server.holder is self:
            server.holder = None

    def _reached(self) -> LeaseServer:
        if self.cut or self._server.away:
            raise StoreUnavailable("the store gives no answer")
        if self._server.error is not None:
            raise self._server.error
        return self._server
