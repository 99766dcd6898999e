"""Places: where the primary is."""

from __future__ import annotations

from typing import Protocol

from perdure.statestore.redis.link import Address


class Place(Protocol):
    """Asked before each connection."""

    async def find(self) -> Address:
        """`StoreUnavailable` if that is not known now, `ConfigurationError` if it never will be."""

    async def close(self) -> None: ...


class Fixed:
    """Always the same address."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def find(self) -> Address:
        return self.address

    async def close(self) -> None:
        pass
