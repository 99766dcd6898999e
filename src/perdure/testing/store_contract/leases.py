"""Leases."""

from __future__ import annotations

import pytest

from perdure.errors import StoreError
from perdure.statestore.contract import (
    StateStore,
)
from perdure.testing.store_contract.given import Given


class LeaseContract(Given):
    """Leases."""

    async def test_one_holder(self, store: StateStore) -> None:
        """Of all contenders one has it; a later holder has a higher term; the value outlives its holder."""
        one, two = store.lease("name"), store.lease("name")
        assert await one.read() is None
        first = await one.acquire()
        assert first is not None
        assert first > 1_600_000_000_000
        assert await two.acquire() is None
        await one.renew()
        await one.write(b"value")
        assert await two.read() == b"value"
        with pytest.raises(StoreError):
            await two.renew()
        with pytest.raises(StoreError):
            await two.write(b"not mine")
        await one.release()
        await one.release()
        second = await two.acquire()
        assert second is not None
        assert second > first
        with pytest.raises(StoreError):
            await one.write(b"no longer mine")
        with pytest.raises(StoreError):
            await one.renew()
        assert await one.read() == b"value"
        assert await store.lease("another").acquire() is not None
        await two.release()
