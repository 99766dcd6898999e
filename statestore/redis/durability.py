"""Durability: what has to be true of a write before it is acknowledged, beside that the primary has done it."""

from __future__ import annotations

from typing import NamedTuple

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.statestore.redis.link import Address, Error, Reply, packed
from perdure.statestore.redis.session import Session

#: Seconds that replicas and disks have for a batch. Less than a link's patience.
SECONDS = 2.0


class Durability(NamedTuple):
    """How many replicas have it too, and whether it is on the disk of each that counts (Redis 7.2 or newer)."""

    replicas: int = 0
    synced: bool = False

    def wait(self) -> bytes | None:
        """What is sent behind writes; None: nothing."""
        milliseconds = int(SECONDS * 1000)
        if self.synced:
            return packed(b"WAITAOF", 1, self.replicas, milliseconds)
        return packed(b"WAIT", self.replicas, milliseconds) if self.replicas else None

    def check(self, answer: Reply) -> None:
        """`StoreUnavailable` if the answer to `wait` says that the writes before it are not durable yet."""
        if isinstance(answer, Error):
            raise StoreUnavailable(f"Redis: {answer}")
        local, replicas = answer if self.synced else (1, answer)
        if not local:
            raise StoreUnavailable(f"the write was not on the primary's disk within {SECONDS:g} s")
        if replicas < self.replicas:
            what = "had the write on disk" if self.synced else "had the write"
            raise StoreUnavailable(f"only {replicas} of {self.replicas} replicas {what} within {SECONDS:g} s")

    async def check_server(self, session: Session) -> None:
        """`ConfigurationError` if a server cannot do this."""
        if not self.synced:
            return
        address: Address = session.link.address
        if not session.facts.append_only:
            raise ConfigurationError(
                f"durability=synced: Redis at {address} has no append-only file; set appendonly yes"
            )
        (answer,) = await session.link.ask([packed(b"WAITAOF", 0, 0, 1)])
        if isinstance(answer, Error):
            raise ConfigurationError(
                f"durability=synced needs Redis 7.2 or newer, or Valkey; Redis at {address} says: {answer}"
            )
