"""Reminders: what is kept, and what is due."""

from __future__ import annotations

from perdure.statestore.contract import (
    Reminder,
    StateStore,
    TypePartition,
)
from perdure.testing.store_contract.given import (
    ALL,
    FENCE,
    PARTITIONS,
    TYPE,
    Given,
    actor_id,
    partition_of,
    put,
    reminder,
    write,
)


class ReminderContract(Given):
    """Timed reminders."""

    async def test_put_replace_delete_clear(self, store: StateStore) -> None:
        """A name has one reminder; deleting is by name, clearing all, and before putting."""
        actor = actor_id()
        first = put(actor, None, {}, reminders=[reminder(actor, n, 5, b"\0data") for n in "cab"])
        await write(store, first)
        assert [r.name for r in await store.reminders(actor)] == ["a", "b", "c"]
        second = put(
            actor, first.version, {}, reminders=[reminder(actor, "a", 9)], delete_reminders=["b", "no"]
        )
        await write(store, second)
        assert list(await store.reminders(actor)) == [
            reminder(actor, "a", 9),
            reminder(actor, "c", 5, b"\0data"),
        ]
        third = put(actor, second.version, {}, clear_reminders=True, reminders=[reminder(actor, "d", 1)])
        await write(store, third)
        assert list(await store.reminders(actor)) == [reminder(actor, "d", 1)]
        assert list((await store.due(ALL, 100)).items) == [reminder(actor, "d", 1)]

    async def test_due(self, store: StateStore) -> None:
        """What is due up to and including a time, ordered by time, actor and name, paged, over several types."""
        second = "a.second.Type"
        await store.take([TypePartition(second, partition) for partition in range(PARTITIONS)], FENCE)
        wanted = []
        for number in range(20):
            for kind in (TYPE, second):
                actor = actor_id(f"a{number}", kind)
                mine = [reminder(actor, f"r{n}", (number * n) % 7, b"%d" % n) for n in range(4)]
                wanted += mine
                await write(store, put(actor, None, {}, reminders=mine))
        wanted = [r for r in wanted if r.due <= 4]
        wanted.sort(key=lambda r: (r.due, r.actor, r.name))
        held = [*ALL, *(TypePartition(second, partition) for partition in range(PARTITIONS))]
        for limit in (1, 7, 1000):
            assert await self._due(store, held, 4, limit) == wanted
        some = [*ALL[::2], *held[PARTITIONS + 1 :: 2]]
        few = [r for r in wanted if TypePartition(r.actor.type, partition_of(r.actor)) in some]
        assert await self._due(store, some, 4, 3) == few
        assert await self._due(store, held, -1, 3) == []

    async def _due(
        self, store: StateStore, held: list[TypePartition], until: int, limit: int
    ) -> list[Reminder]:
        page = await store.due(held, until, None, limit)
        found = list(page.items)
        while page.cursor is not None:
            page = await store.due(held, until, page.cursor, limit)
            found += page.items
        return found
