"""MemoryStore's saved states, by which simulations roll back."""

from __future__ import annotations

from perdure.statestore import MemoryStore
from perdure.testing.store_contract import ALL, FENCE, actor_id, put, reminder, write


async def test_restore() -> None:
    """A saved state is what the store was then, whatever came after, more than once."""
    store = MemoryStore()
    await store.take(ALL, FENCE)
    actor, other = actor_id("1"), actor_id("2")
    await write(
        store, first := put(actor, None, {"a": b"1"}, recover=True, reminders=[reminder(actor, "r", 1)])
    )
    term = await store.lease("name").acquire()
    state = store.snapshot()
    for _ in range(2):
        change = put(actor, first.version, {"a": b"2"}, recover=False, clear_reminders=True)
        await write(store, change, put(other, None, {"b": b"1"}))
        await write(store, put(actor, change.version, {}, reset=True))
        assert await store.load(actor) is None
        store.restore(state)
        snapshot = await store.load(actor)
        assert snapshot is not None
        assert (snapshot.version, snapshot.values) == (first.version, {"a": b"1"})
        assert list((await store.owing(ALL)).items) == [actor]
        assert list((await store.due(ALL, 1)).items) == [reminder(actor, "r", 1)]
        assert list(store.actors) == [actor]
        assert store.leases["name"].term == term
