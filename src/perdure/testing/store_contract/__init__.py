"""The contract of `perdure.statestore.contract` as tests, for the author of any state store.

    class TestMyStore(StoreContract):
        @pytest_asyncio.fixture
        async def harness(self, tmp_path):
            harness = MyHarness(tmp_path)
            yield harness
            await harness.close()

The tests need pytest and pytest-asyncio. Each states the rule that it checks in its docstring.
"""

from __future__ import annotations

import pytest

from perdure.statestore.contract import (
    Fence,
    StateStore,
    Taken,
)
from perdure.testing.store_contract.commits import CommitContract
from perdure.testing.store_contract.given import (
    ALL,
    FENCE,
    PARTITIONS,
    TYPE,
    StoreHarness,
    actor_id,
    all_keys,
    partition_of,
    put,
    reminder,
    row,
    values_of,
    version,
    write,
)
from perdure.testing.store_contract.leases import LeaseContract
from perdure.testing.store_contract.partitions import PartitionContract
from perdure.testing.store_contract.queries import QueryContract
from perdure.testing.store_contract.reminders import ReminderContract
from perdure.testing.store_contract.resets import ResetContract
from perdure.testing.store_contract.sizes import SizeContract

__all__ = [
    "ALL",
    "FENCE",
    "PARTITIONS",
    "TYPE",
    "StoreContract",
    "StoreHarness",
    "actor_id",
    "all_keys",
    "partition_of",
    "put",
    "reminder",
    "row",
    "values_of",
    "version",
    "write",
]


class StoreContract(
    CommitContract,
    ResetContract,
    SizeContract,
    PartitionContract,
    ReminderContract,
    QueryContract,
    LeaseContract,
):
    """The whole contract. A subclass gives the fixture `harness`."""

    async def test_the_store_itself(self, store: StateStore) -> None:
        """It is a StateStore, its settings are those it was opened with, it is healthy, and can be closed twice."""
        assert isinstance(store, StateStore)
        assert (await store.settings()).partitions == PARTITIONS
        await store.health()
        await store.close()
        await store.close()

    async def test_all_is_there_after_opening_again(self, store: StateStore, harness: StoreHarness) -> None:
        """Everything acknowledged outlives the process, and numbers given before are not given again."""
        if not harness.durable:
            pytest.skip("this store keeps nothing")
        actor, other = actor_id("1"), actor_id("2")
        made = put(
            actor,
            None,
            {"metadata": b"m", "a": b"1", "history-000000": b"h"},
            recover=True,
            reminders=[reminder(actor, "r", 5)],
            row=row(actor, 1),
        )
        await write(store, made)
        lease = store.lease("name")
        term = await lease.acquire()
        assert term is not None
        await lease.write(b"value")
        await store.release(ALL[:1], FENCE)
        store = await harness.reopen()
        assert (await store.settings()).partitions == PARTITIONS
        await write(store, put(other, None, {"b": b"2"}))
        again = put(actor, made.version, {"a": b"2"}, reset=True)
        await write(store, again)
        assert await values_of(store, actor) == {"a": b"2"}
        assert await values_of(store, other) == {"b": b"2"}
        assert list((await store.owing(ALL)).items) == [actor]
        assert list((await store.due(ALL, 5)).items) == [reminder(actor, "r", 5)]
        assert await store.row(actor) == row(actor, 1)
        results = await store.take(ALL[:2], Fence(6, 0))
        assert list(results) == [Taken(True), Taken(False)]
        assert await store.lease("name").read() == b"value"
        next_term = await store.lease("name").acquire()
        assert next_term is not None
        assert next_term > term
