"""Large values, many keys, long histories."""

from __future__ import annotations

from perdure.statestore.contract import (
    SNAPSHOT_LIMIT,
    StateStore,
)
from perdure.testing.store_contract.given import Given, actor_id, all_keys, put, values_of, write


class SizeContract(Given):
    """Large values, large commits, long histories."""

    async def test_large_values(self, store: StateStore) -> None:
        """A value of 8 MB."""
        actor = actor_id()
        large = bytes(range(256)) * 32768
        await write(store, put(actor, None, {"metadata": large, "history-000000": large, "k": b"small"}))
        assert await values_of(store, actor) == {"k": b"small", "metadata": large, "history-000000": large}
        page = await store.keys(actor, "history-")
        assert list(page.items) == [("history-000000", large)]

    async def test_many_keys_in_one_commit(self, store: StateStore) -> None:
        """20,000 keys put, and deleted."""
        actor = actor_id()
        values = {f"key{number}": b"%d" % number for number in range(20_000)}
        first = put(actor, None, values)
        await write(store, first)
        snapshot = await store.load(actor)
        assert snapshot is not None
        assert (len(snapshot.values), snapshot.complete) == (SNAPSHOT_LIMIT, False)
        assert await all_keys(store, actor) == sorted(values)
        await write(store, put(actor, first.version, {"left": b""}, delete=list(values)))
        assert await values_of(store, actor) == {"left": b""}

    async def test_a_long_history(self, store: StateStore) -> None:
        """Of 100,000 events a snapshot holds the first 1,000, and all that waits; keys gives the rest in order."""
        actor, last, size = actor_id(), None, 100_000
        first = 950_000
        for start in range(first, first + size, 20_000):
            values = {f"history-{number:06d}": b"%d" % number for number in range(start, start + 20_000)}
            commit = put(actor, last, {**values, "metadata": b"m"})
            await write(store, commit)
            last = commit.version
        waiting = {f"inbox-{number:06d}": b"i" for number in range(1100)}
        await write(store, put(actor, last, {**waiting, "outbox-000003": b"o", "mine-000001": b"x"}))
        snapshot = await store.load(actor)
        assert snapshot is not None
        shown = ["metadata"] + [f"history-{number:06d}" for number in range(first, first + 1000)]
        assert list(snapshot.values) == [*shown, *waiting, "mine-000001", "outbox-000003"]
        assert not snapshot.complete
        expected = [f"history-{number:06d}" for number in range(first, first + size)]
        assert await all_keys(store, actor, "history-", 10_000) == expected
        page = await store.keys(actor, "history-", "history-999999", 2)
        assert [key for key, _ in page.items] == ["history-999999", "history-1000000"]

    async def test_a_snapshot_at_its_limit(self, store: StateStore) -> None:
        """It is complete up to 1,000 keys of each kind, and not with one more."""
        for kind, name in enumerate(("history-{:06d}", "plain{}")):
            for extra in (-2, -1, 0, 1):
                actor = actor_id(f"{kind} {extra}")
                values = {name.format(number): b"" for number in range(SNAPSHOT_LIMIT + extra)}
                await write(store, put(actor, None, values))
                snapshot = await store.load(actor)
                assert snapshot is not None
                assert snapshot.complete is (extra <= 0)
                assert len(snapshot.values) == min(len(values), SNAPSHOT_LIMIT)
