"""SqliteLease: a lease among contenders in one process; the file's lock keeps other processes away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import StoreError

if TYPE_CHECKING:
    from perdure.statestore.sqlite.store import SqliteStore


class SqliteLease:
    """One contender for a lease of a `SqliteStore`. Gone with its process, as the lock is."""

    def __init__(self, store: SqliteStore, name: str) -> None:
        self._store = store
        self._name = name
        self._term: int | None = None

    async def acquire(self) -> int | None:
        holders = self._store.lease_holders
        before = holders.setdefault(self._name, self)
        if before is not self:
            return None
        try:
            self._term = await self._store.raise_term(self._name)
        except BaseException:
            # The term may be stored or not; a later one will be higher either way.
            if self._term is None:
                await self.release()
            raise
        return self._term

    async def read(self) -> bytes | None:
        return await self._store.read_lease(self._name)

    async def write(self, value: bytes) -> None:
        await self._store.write_lease(self._name, lambda: self._term, value)

    async def renew(self) -> None:
        # The lock on the file does not lapse, and the file loses nothing.
        if self._term is None:
            raise StoreError(f"the lease {self._name!r} is not held")

    async def release(self) -> None:
        self._term = None
        if self._store.lease_holders.get(self._name) is self:
            del self._store.lease_holders[self._name]
