"""Fences, versions, and what one commit does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.errors import StoreError
from perdure.statestore.contract import (
    COMMITTED,
    ActorId,
    CommitResult,
    Committed,
    Conflict,
    Fence,
    Fenced,
    Rejected,
    StateStore,
    TypePartition,
)
from perdure.testing.store_contract.given import (
    ALL,
    FENCE,
    TYPE,
    Given,
    actor_id,
    all_keys,
    partition_of,
    put,
    reminder,
    values_of,
    version,
    write,
)


class CommitContract(Given):
    """Fences, versions, and what one commit does."""

    async def test_an_unknown_actor_has_nothing(self, store: StateStore) -> None:
        """load and row give None, keys and reminders nothing."""
        assert await store.load(actor_id()) is None
        assert await store.row(actor_id()) is None
        assert list((await store.keys(actor_id())).items) == []
        assert list(await store.reminders(actor_id())) == []
        assert await store.load(ActorId("never seen", "1")) is None

    async def test_a_commit_is_there_when_it_is_answered(self, store: StateStore) -> None:
        """A load sees every commit acknowledged before it was asked."""
        actor = actor_id()
        first = put(
            actor, None, {"metadata": b"m", "history-000000": b"h", "name": b"\0\xff\0"}, recover=True
        )
        await write(store, first)
        snapshot = await store.load(actor)
        assert snapshot is not None
        assert (snapshot.version, snapshot.recover, snapshot.complete) == (first.version, True, True)
        assert snapshot.values == {"metadata": b"m", "history-000000": b"h", "name": b"\0\xff\0"}

    async def test_put_and_delete(self, store: StateStore) -> None:
        """A commit changes its keys and no others; a key that is not there can be deleted."""
        actor = actor_id()
        values = {"customStatus": b"c", "metadata": b"m", "a": b"1", "b": b"", "inbox-000001": b"i"}
        first = put(actor, None, values)
        second = put(
            actor,
            first.version,
            {"metadata": b"m2", "outbox-000000": b"o"},
            delete=["customStatus", "a", "inbox-000001", "no"],
        )
        await write(store, first)
        await write(store, second)
        assert await values_of(store, actor) == {"b": b"", "metadata": b"m2", "outbox-000000": b"o"}
        third = put(actor, second.version, {"customStatus": b"x"}, delete=["metadata"])
        await write(store, third)
        assert await values_of(store, actor) == {"b": b"", "customStatus": b"x", "outbox-000000": b"o"}

    async def test_keys_in_order(self, store: StateStore) -> None:
        """Plain keys by text first, then each family by number."""
        actor = actor_id()
        keys = [
            "x-000002",
            "x-1000000",
            "x-000010",
            "x-999999",
            "metadata",
            "z",
            "a",
            "a-000001",
            "x-12",
            "é",
        ]
        await write(store, put(actor, None, dict.fromkeys(keys, b"")))
        expected = ["a", "metadata", "x-12", "z", "é", "a-000001"]
        expected += ["x-000002", "x-000010", "x-999999", "x-1000000"]
        assert list(await values_of(store, actor)) == expected
        for limit in (1, 3, 100):
            assert await all_keys(store, actor, limit=limit) == expected
        assert await all_keys(store, actor, "x-") == expected[2:3] + expected[6:]
        assert await all_keys(store, actor, "x-00", 1) == ["x-000002", "x-000010"]
        assert await all_keys(store, actor, "a") == ["a", "a-000001"]
        page = await store.keys(actor, "x-", "x-000010", 1)
        assert list(page.items) == [("x-000010", b"")]

    async def test_a_key_has_one_text(self, store: StateStore) -> None:
        """A number with a needless zero does not meet the one without."""
        actor = actor_id()
        await write(store, put(actor, None, {"x-000012": b"six", "x-0000012": b"seven"}))
        assert await values_of(store, actor) == {"x-0000012": b"seven", "x-000012": b"six"}

    async def test_the_expected_version(self, store: StateStore) -> None:
        """A commit passes only at the version that it expects; the stored one comes with the refusal."""
        actor = actor_id()
        first = put(actor, None, {"k": b"1"})
        assert list(await store.commit([put(actor, version(), {"k": b"0"})])) == [Conflict(None)]
        await write(store, first)
        for wrong in (None, version()):
            assert list(await store.commit([put(actor, wrong, {"k": b"2"})])) == [Conflict(first.version)]
        assert await values_of(store, actor) == {"k": b"1"}

    async def test_the_fence(self, store: StateStore) -> None:
        """Only exactly the stored fence passes, and it is looked at before the expected version."""
        actor = actor_id()
        await write(store, first := put(actor, None, {"k": b"1"}))
        for wrong in (Fence(5, 6), Fence(5, 8), Fence(6, 0)):
            refused = put(actor, None, {"k": b"2"}, fence=wrong)
            assert list(await store.commit([refused])) == [Fenced(FENCE)]
        nobody = put(ActorId("untaken", "1"), None, {"k": b"1"})
        assert list(await store.commit([nobody])) == [Fenced(None)]
        await store.take([TypePartition(TYPE, partition_of(actor))], Fence(6, 0))
        assert list(await store.commit([put(actor, first.version, {"k": b"2"})])) == [Fenced(Fence(6, 0))]
        assert await values_of(store, actor) == {"k": b"1"}

    async def test_again_after_an_unknown_outcome(self, store: StateStore) -> None:
        """The same batch again is Committed and changes nothing, even under a fence that is gone."""
        actor, other = actor_id(), actor_id("2")
        first = put(actor, None, {"k": b"1"}, reminders=[reminder(actor, "r", 5)])
        await write(store, first)
        await write(store, first, put(other, None, {"k": b"o"}))
        await store.take(ALL, Fence(6, 0))
        await write(store, first)
        assert await values_of(store, actor) == {"k": b"1"}

    async def test_each_commit_has_its_own_result(self, store: StateStore) -> None:
        """A batch is not all-or-nothing."""
        good, late, fenced = put(actor_id("1"), None, {"k": b""}), actor_id("2"), actor_id("3")
        batch = [
            good,
            put(late, version(), {"k": b""}),
            put(fenced, None, {"k": b""}, fence=Fence(1, 1)),
            put(actor_id("4"), None, {}),
        ]
        results = list(await store.commit(batch))
        assert results == [Committed(), Conflict(None), Fenced(FENCE), Committed()]
        assert await values_of(store, good.actor) == {"k": b""}
        assert await store.load(late) is None
        assert await values_of(store, actor_id("4")) == {}

    async def test_a_poison_commit(self, store: StateStore) -> None:
        """What cannot be stored is refused with StoreError or its own Rejected; then nothing of it was written, and
        the others of its batch can be."""
        good, bad = put(actor_id("1"), None, {"k": b"1"}), put(actor_id("2"), None, {"\ud800": b"1"})
        results: Sequence[CommitResult]
        try:
            results = await store.commit([good, bad])
        except StoreError:
            assert await store.load(good.actor) is None
        else:
            assert isinstance(results[1], (Rejected, Committed))
        await write(store, good)
        assert await values_of(store, good.actor) == {"k": b"1"}

    async def test_nothing_is_aliased(self, store: StateStore) -> None:
        """What a caller gave or got can change without the store, and the store without that."""
        actor = actor_id()
        values = {"k": b"1"}
        first = put(actor, None, values)
        await write(store, first)
        values["k"] = b"changed"
        before = await store.load(actor)
        await write(store, put(actor, first.version, {"k": b"2"}, recover=True))
        assert before is not None
        assert (before.values, before.recover) == ({"k": b"1"}, False)

    async def test_an_empty_batch(self, store: StateStore) -> None:
        """Nothing to do is done."""
        assert list(await store.commit([])) == []

    async def test_concurrent_use(self, store: StateStore) -> None:
        """Calls that overlap do not disturb each other; of two commits on one version one passes."""
        actors = [actor_id(str(number)) for number in range(50)]

        async def work(actor: ActorId) -> None:
            last = None
            for number in range(5):
                commits = [put(actor, last, {"k": b"%d" % number}) for _ in range(2)]
                results = await asyncio.gather(*(store.commit([commit]) for commit in commits))
                passed = [c for c, (result,) in zip(commits, results, strict=True) if result == COMMITTED]
                assert len(passed) == 1
                last = passed[0].version
                snapshot = await store.load(actor)
                assert snapshot is not None
                assert snapshot.version == last

        await asyncio.gather(*map(work, actors))
