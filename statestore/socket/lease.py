"""Leases: those of one client, held on its behalf by the server's store."""

from __future__ import annotations

import asyncio
import logging

from perdure.errors import PerdureError, StoreUnavailable
from perdure.logs import fields
from perdure.statestore.contract import Lease, StateStore
from perdure.statestore.socket.messages import (
    AcquireLease,
    LeaseRequest,
    ReadLease,
    ReleaseLease,
    RenewLease,
    WriteLease,
)

logger = logging.getLogger("perdure.statestore")


class Leases:
    """Made with a client's connection, and given back with it. What is asked of one lease is done in the order in
    which it was asked, so that a write without an answer never comes after a later one."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._held: dict[int, tuple[Lease, asyncio.Lock]] = {}
        self._closed = False

    async def ask(self, request: LeaseRequest) -> int | bytes | None:
        if self._closed:
            raise StoreUnavailable("the connection is closed")
        held = self._held.get(request.lease)
        if held is None:
            held = self._held[request.lease] = (self._store.lease(request.name), asyncio.Lock())
        lease, turn = held
        async with turn:
            if self._closed:
                # Taken now, nobody would ever give it back.
                raise StoreUnavailable("the connection is closed")
            match request:
                case AcquireLease():
                    return await lease.acquire()
                case ReadLease():
                    return await lease.read()
                case WriteLease(value=value):
                    await lease.write(value)
                case RenewLease():
                    await lease.renew()
                case ReleaseLease():
                    await lease.release()
            return None

    async def close(self) -> None:
        """Gives all of them back, after what was asked of them."""
        self._closed = True
        for number, (lease, turn) in list(self._held.items()):
            async with turn:
                try:
                    await lease.release()
                except PerdureError as error:
                    logger.warning("lease not given back", extra=fields(lease=number, reason=error.message))
