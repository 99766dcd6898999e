"""Partitions: who has them, and what is found in them."""

from __future__ import annotations

from perdure.statestore.contract import (
    ActorId,
    Fence,
    Page,
    Refused,
    StateStore,
    Taken,
    TypePartition,
)
from perdure.testing.store_contract.given import ALL, TYPE, Given, actor_id, partition_of, put, write


class PartitionContract(Given):
    """Taking, releasing, and what a new owner finds."""

    async def test_take(self, store: StateStore) -> None:
        """Only a higher fence takes; the answer says whether the last owner gave the partition back."""
        one, two = TypePartition("T", 1), TypePartition("T", 2)
        assert list(await store.take([one], Fence(1, 5))) == [Taken(True)]
        for fence in (Fence(1, 5), Fence(1, 4), Fence(0, 9)):
            assert list(await store.take([one], fence)) == [Refused(Fence(1, 5))]
        assert list(await store.take([one, two], Fence(1, 5))) == [Refused(Fence(1, 5)), Taken(True)]
        assert list(await store.take([one], Fence(1, 6))) == [Taken(False)]

    async def test_types(self, store: StateStore) -> None:
        """The actor types that somebody owned once."""
        before = list(await store.types())
        await store.take([TypePartition("Type b", 1), TypePartition("Type a", 2)], Fence(1, 1))
        assert list(await store.types()) == sorted({*before, "Type a", "Type b"})

    async def test_release(self, store: StateStore) -> None:
        """Only the owner's fence releases, also twice; taking ends it."""
        one = TypePartition("T", 1)
        await store.take([one], Fence(1, 1))
        await store.release([one, TypePartition("T", 9)], Fence(1, 0))
        assert list(await store.take([one], Fence(1, 2))) == [Taken(False)]
        await store.release([one], Fence(1, 2))
        await store.release([one], Fence(1, 2))
        assert list(await store.take([one], Fence(1, 3))) == [Taken(True)]
        assert list(await store.take([one], Fence(1, 4))) == [Taken(False)]

    async def test_owing(self, store: StateStore) -> None:
        """Those with the mark, in the partitions asked for, paged."""
        actors = [actor_id(f"a{number}") for number in range(30)]
        made = [put(actor, None, {"k": b""}, recover=True) for actor in actors]
        await write(store, *made)
        await write(store, put(actors[0], made[0].version, {}, recover=False))
        await write(store, put(actors[1], made[1].version, {"k": b"2"}))
        assert set(await self._owing(store, ALL)) == set(actors[1:])
        some = ALL[::3]
        expected = {actor for actor in actors[1:] if (TYPE, partition_of(actor)) in some}
        found = await self._owing(store, some)
        assert len(found) == len(set(found))
        assert set(found) == expected
        assert await self._owing(store, [TypePartition("other", 1)]) == []

    async def _owing(self, store: StateStore, held: list[TypePartition]) -> list[ActorId]:
        found: list[ActorId] = []
        page: Page[ActorId] = Page([], "")
        cursor: str | None = None
        while page.cursor is not None:
            page = await store.owing(held, cursor, 7)
            found += page.items
            cursor = page.cursor
        return found
