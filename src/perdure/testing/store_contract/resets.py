"""Resets and removals."""

from __future__ import annotations

from perdure.statestore.contract import (
    Conflict,
    InstanceFilter,
    StateStore,
)
from perdure.testing.store_contract.given import (
    ALL,
    TYPE,
    Given,
    actor_id,
    all_keys,
    put,
    reminder,
    row,
    values_of,
    write,
)


class ResetContract(Given):
    """Resets and removals."""

    async def test_reset(self, store: StateStore) -> None:
        """All keys are replaced; reminders, recover and row stay."""
        actor = actor_id()
        first = put(
            actor,
            None,
            {"metadata": b"m", "customStatus": b"c", "a": b"1", "history-000000": b"h"},
            recover=True,
            reminders=[reminder(actor, "r", 5)],
            row=row(actor, 1),
        )
        await write(store, first)
        second = put(actor, first.version, {"a": b"2", "history-000000": b"new"}, reset=True)
        await write(store, second)
        snapshot = await store.load(actor)
        assert snapshot is not None
        assert (snapshot.values, snapshot.recover) == ({"a": b"2", "history-000000": b"new"}, True)
        assert await all_keys(store, actor) == ["a", "history-000000"]
        assert [r.name for r in await store.reminders(actor)] == ["r"]
        assert await store.row(actor) == row(actor, 1)
        third = put(actor, second.version, {"b": b"3"}, reset=True, recover=False, delete_row=True)
        await write(store, third)
        assert await values_of(store, actor) == {"b": b"3"}
        assert await store.row(actor) is None

    async def test_removal(self, store: StateStore) -> None:
        """A reset that puts nothing removes the actor with all that belongs to it, once and when tried again."""
        actor, other = actor_id(), actor_id("other")
        made = [
            put(a, None, {"k": b"1"}, recover=True, reminders=[reminder(a, "r", 5)], row=row(a, 1))
            for a in (actor, other)
        ]
        await write(store, *made)
        gone = put(actor, made[0].version, {}, reset=True)
        await write(store, gone)
        await write(store, gone)
        assert await store.load(actor) is None
        assert await store.row(actor) is None
        assert await all_keys(store, actor) == []
        assert list(await store.reminders(actor)) == []
        assert list((await store.owing(ALL)).items) == [other]
        assert [r.actor for r in (await store.due(ALL, 10)).items] == [other]
        assert [r.actor for r in (await store.query(InstanceFilter(type=TYPE))).items] == [other]
        assert list(await store.commit([put(actor, made[0].version, {})])) == [Conflict(None)]
        await write(store, put(actor, None, {"again": b"1"}))
        assert await values_of(store, actor) == {"again": b"1"}

    async def test_resets_in_a_row(self, store: StateStore) -> None:
        """No generation sees the keys of another."""
        actor, last = actor_id(), None
        for generation in range(20):
            values = {f"history-{number:06d}": b"%d" % generation for number in range(100 - generation)}
            commit = put(actor, last, values, reset=True)
            await write(store, commit)
            last = commit.version
            assert await values_of(store, actor) == values
