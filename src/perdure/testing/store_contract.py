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

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from typing import Any, Protocol

import pytest
import pytest_asyncio

from perdure.errors import StoreError
from perdure.statestore import partitions
from perdure.statestore.contract import (
    COMMITTED,
    SNAPSHOT_LIMIT,
    ActorId,
    Commit,
    CommitResult,
    Committed,
    Conflict,
    Fence,
    Fenced,
    InstanceFilter,
    InstanceRow,
    Page,
    Refused,
    Rejected,
    Reminder,
    StateStore,
    Taken,
    TypePartition,
)

TYPE = "contract.Type"
FENCE = Fence(5, 7)
PARTITIONS = 64
ALL = [TypePartition(TYPE, partition) for partition in range(PARTITIONS)]

_versions = count(1)


class StoreHarness(Protocol):
    """How the suite gets at a store. Each harness is used by one test, and begins with an empty store."""

    #: Whether what was committed is still there after `reopen`.
    durable: bool

    async def open(self) -> StateStore:
        """The store, with 64 partitions. Called once."""

    async def reopen(self) -> StateStore:
        """The store closed and opened again on the same data. Called only where `durable`."""


def version() -> bytes:
    """A version that no other commit has."""
    return next(_versions).to_bytes(16, "big")


def actor_id(id: str = "1", type: str = TYPE) -> ActorId:
    return ActorId(type, id)


def partition_of(actor: ActorId) -> int:
    return partitions.partition_of(actor.id, PARTITIONS)


def put(
    actor: ActorId, expected: bytes | None = None, values: dict[str, bytes] | None = None, **rest: Any
) -> Commit:
    """A commit to an actor, under `FENCE` unless said otherwise."""
    rest.setdefault("partition", partition_of(actor))
    rest.setdefault("fence", FENCE)
    rest.setdefault("version", version())
    return Commit(actor, expected=expected, put={} if values is None else values, **rest)


async def write(store: StateStore, *batch: Commit) -> None:
    """Commits that must pass."""
    results = await store.commit(batch)
    assert list(results) == [COMMITTED] * len(batch), results


async def values_of(store: StateStore, actor: ActorId) -> dict[str, bytes]:
    snapshot = await store.load(actor)
    assert snapshot is not None
    return dict(snapshot.values)


async def all_keys(store: StateStore, actor: ActorId, prefix: str = "", limit: int = 1000) -> list[str]:
    found: list[str] = []
    start: str | None = None
    while True:
        page = await store.keys(actor, prefix, start, limit)
        found += [key for key, _ in page.items]
        if page.cursor is None:
            return found
        start = page.cursor


def reminder(actor: ActorId, name: str, due: int, data: bytes = b"") -> Reminder:
    return Reminder(actor, name, due, data)


def row(actor: ActorId, created: int, status: str = "running", name: str = "order") -> InstanceRow:
    return InstanceRow(actor, name, status, created, created + 1, b"details of " + actor.id.encode())


class _Given:
    """The fixtures of the parts below."""

    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def store(self, harness: StoreHarness) -> AsyncIterator[StateStore]:
        store = await harness.open()
        await store.take(ALL, FENCE)
        yield store


class CommitContract(_Given):
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


class ResetContract(_Given):
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


class SizeContract(_Given):
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


class PartitionContract(_Given):
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


class ReminderContract(_Given):
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


class QueryContract(_Given):
    """Index rows."""

    async def test_rows(self, store: StateStore) -> None:
        """A row is put, replaced, left alone and deleted by commits."""
        actor = actor_id()
        first = put(actor, None, {}, row=row(actor, 5))
        second = put(actor, first.version, {}, row=row(actor, 6, "completed", "other"))
        await write(store, first)
        assert await store.row(actor) == row(actor, 5)
        await write(store, second)
        third = put(actor, second.version, {"k": b""})
        await write(store, third)
        assert await store.row(actor) == row(actor, 6, "completed", "other")
        assert list((await store.query(InstanceFilter(type=TYPE))).items) == [
            row(actor, 6, "completed", "other")
        ]
        await write(store, put(actor, third.version, {}, delete_row=True))
        assert await store.row(actor) is None
        assert list((await store.query(InstanceFilter(type=TYPE))).items) == []

    async def test_filters(self, store: StateStore) -> None:
        """All conditions hold; newest first, equal ones by id; every page size gives the same."""
        rows = [
            row(actor_id(f"{'xy'[n % 2]}{n}"), n // 3, ("running", "completed", "failed")[n % 3], "pq"[n % 2])
            for n in range(40)
        ]
        await write(store, *(put(one.actor, None, {}, row=one) for one in rows))
        rows.sort(key=lambda one: (-one.created, one.actor.id))
        cases: list[tuple[InstanceFilter, Callable[[InstanceRow], bool]]] = [
            (InstanceFilter(type=TYPE), lambda r: True),
            (InstanceFilter(type="other"), lambda r: False),
            (InstanceFilter(type=TYPE, statuses=["failed"]), lambda r: r.status == "failed"),
            (InstanceFilter(type=TYPE, statuses={"failed", "running"}), lambda r: r.status != "completed"),
            (InstanceFilter(type=TYPE, name="p"), lambda r: r.name == "p"),
            (InstanceFilter(type=TYPE, id_prefix="x1"), lambda r: r.actor.id.startswith("x1")),
            (InstanceFilter(type=TYPE, created_from=3, created_to=8), lambda r: 3 <= r.created < 8),
        ]
        for where, holds in cases:
            for limit in (1, 7, 100):
                assert await self._query(store, where, limit) == [one for one in rows if holds(one)]

    async def test_pages_are_stable(self, store: StateStore) -> None:
        """Rows that come or go between pages neither repeat nor hide others."""
        rows = [row(actor_id(f"i{n}"), n) for n in range(10)]
        made = [put(one.actor, None, {}, row=one) for one in rows]
        await write(store, *made)
        where = InstanceFilter(type=TYPE)
        page = await store.query(where, None, 4)
        late = row(actor_id("late"), 99)
        await write(store, put(late.actor, None, {}, row=late))
        await write(store, put(rows[6].actor, made[6].version, {}, delete_row=True))
        rest = await store.query(where, page.cursor, 100)
        assert [one.created for one in [*page.items, *rest.items]] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]

    async def test_a_foreign_cursor(self, store: StateStore) -> None:
        """What is no cursor is refused."""
        for cursor in ("", "nonsense", "[1]"):
            with pytest.raises(StoreError):
                await store.query(InstanceFilter(type=TYPE), cursor)
            with pytest.raises(StoreError):
                await store.due(ALL, 1, cursor)

    async def _query(self, store: StateStore, where: InstanceFilter, limit: int) -> list[InstanceRow]:
        page = await store.query(where, None, limit)
        found = list(page.items)
        while page.cursor is not None:
            page = await store.query(where, page.cursor, limit)
            found += page.items
        return found


class LeaseContract(_Given):
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
