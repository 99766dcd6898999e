"""Sentinels: where the primary of a service is, by those who watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.statestore.redis.link import Address, Error, Link, packed
from perdure.statestore.redis.session import Login, log_in_only


class Sentinels:
    """A `Place`. Asks one sentinel, over a connection that stays, as long as it answers; then the next one."""

    def __init__(self, addresses: Sequence[Address], service: str, login: Login) -> None:
        self._addresses = list(addresses)
        self._service = service
        self._login = login
        self._link: Link | None = None
        self._lock = asyncio.Lock()

    async def find(self) -> Address:
        """`StoreUnavailable`: none answers, or it knows no primary now. `ConfigurationError`: no such service."""
        async with self._lock:
            return await self._find()

    async def _find(self) -> Address:
        reasons: list[str] = []
        strangers = 0
        for address in list(self._addresses):
            try:
                found = await self._ask(address)
            except (StoreUnavailable, ConfigurationError) as error:
                reasons.append(str(error))
                self._forget()
                # Asked last the next time.
                self._addresses.remove(address)
                self._addresses.append(address)
                continue
            if found is not None:
                return found
            strangers += 1
            reasons.append(f"the sentinel at {address} does not know {self._service!r}")
            self._forget()
        if strangers == len(self._addresses):
            raise ConfigurationError(f"no sentinel knows {self._service!r}")
        raise StoreUnavailable("; ".join(reasons))

    async def close(self) -> None:
        self._forget()

    async def _ask(self, address: Address) -> Address | None:
        if self._link is None or self._link.closed is not None or self._link.address != address:
            self._forget()
            self._link = await log_in_only(address, self._login)
        (answer,) = await self._link.ask([packed(b"SENTINEL", b"get-master-addr-by-name", self._service)])
        if isinstance(answer, Error):
            raise StoreUnavailable(f"the sentinel at {address}: {answer}")
        if answer is None:
            return None
        return Address(answer[0].decode(), int(answer[1]))

    def _forget(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort("another sentinel is asked")
