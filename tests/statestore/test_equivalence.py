"""Memory and SQLite give the same answers to the same calls, and hold the same afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.statestore import (
    Commit,
    Committed,
    Fence,
    InstanceFilter,
    MemoryStore,
    StateStore,
    TypePartition,
    open_store,
)
from perdure.testing.store_contract import ALL, PARTITIONS, actor_id, put, reminder, row

ACTORS = [actor_id(name) for name in ("a", "b", "c\0d", "é")]
KEYS = st.sampled_from(
    [
        "metadata",
        "customStatus",
        "a",
        "z\x00",
        "n",
        "history-000000",
        "history-000001",
        "history-1000000",
        "inbox-000000",
        "outbox-000005",
        "a-000001",
        "z-0000001",
        "-000000",
    ]
)
NAMES = st.sampled_from(["r", "s", "t"])

COMMITS = st.fixed_dictionaries(
    {
        "actor": st.sampled_from(ACTORS),
        # How right the caller is about what is stored.
        "stale": st.sampled_from([False] * 6 + [True]),
        "epoch": st.sampled_from([1] * 6 + [2]),
        "put": st.dictionaries(KEYS, st.binary(max_size=40), max_size=4),
        "delete": st.sets(KEYS, max_size=3),
        "reset": st.sampled_from([False] * 3 + [True]),
        "recover": st.sampled_from([None, True, False]),
        "reminders": st.dictionaries(NAMES, st.integers(-5, 5), max_size=2),
        "delete_reminders": st.sets(NAMES, max_size=2),
        "clear_reminders": st.booleans(),
        "row": st.none() | st.tuples(st.integers(0, 3), st.sampled_from(["running", "failed"])),
        "delete_row": st.booleans(),
    }
)
STEPS = st.lists(
    st.one_of(
        st.lists(COMMITS, min_size=1, max_size=4, unique_by=lambda c: c["actor"]),
        st.just("again"),
        st.tuples(st.sampled_from(["take", "release"]), st.integers(0, 3)),
    ),
    max_size=12,
)


def built(plan: dict[str, Any], versions: dict[Any, bytes | None]) -> Commit:
    actor = plan["actor"]
    return put(
        actor,
        b"?" * 16 if plan["stale"] else versions.get(actor),
        plan["put"],
        fence=Fence(1, plan["epoch"]),
        delete=sorted(plan["delete"] - plan["put"].keys()),
        reset=plan["reset"],
        recover=plan["recover"],
        reminders=[reminder(actor, name, due, name.encode()) for name, due in plan["reminders"].items()],
        delete_reminders=sorted(plan["delete_reminders"] - plan["reminders"].keys()),
        clear_reminders=plan["clear_reminders"],
        row=row(actor, *plan["row"]) if plan["row"] else None,
        delete_row=plan["delete_row"] and not plan["row"],
    )


async def contents(store: StateStore) -> list[Any]:
    """Everything that the contract shows of a store. `owing` has no order that two stores must share."""
    found: list[Any] = []
    for actor in ACTORS:
        snapshot = await store.load(actor)
        if snapshot is not None:
            found.append((snapshot, list(snapshot.values)))
        found.append(list((await store.keys(actor)).items))
        found.append(await store.keys(actor, "", "history-000001", 2))
        found.append(list(await store.reminders(actor)))
        found.append(await store.row(actor))
    found.append(sorted((await store.owing(ALL)).items))
    found.append(await store.due(ALL, 3, None, 3))
    found.append(await store.due(ALL[::2], 3))
    found.append(await store.query(InstanceFilter(type=ACTORS[0].type), None, 3))
    return found


async def run(steps: list[Any], memory: MemoryStore, sqlite: StateStore) -> None:
    for store in (memory, sqlite):
        await store.take(ALL, Fence(1, 1))
    versions: dict[Any, bytes | None] = {}
    batch: list[Commit] = []
    for step in steps:
        if isinstance(step, tuple):
            name, epoch = step
            held = [TypePartition(ALL[0].type, partition) for partition in range(0, PARTITIONS, epoch + 1)]
            answers = [await getattr(store, name)(held, Fence(1, epoch)) for store in (memory, sqlite)]
            assert answers[0] == answers[1]
            continue
        batch = batch if step == "again" else [built(plan, versions) for plan in step]
        results = [list(await store.commit(batch)) for store in (memory, sqlite)]
        assert results[0] == results[1]
        for commit, result in zip(batch, results[0], strict=True):
            if isinstance(result, Committed):
                record = memory.actors.get(commit.actor)
                versions[commit.actor] = record.version if record else None
    assert await contents(memory) == await contents(sqlite)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_memory_and_sqlite_are_the_same(steps: list[Any]) -> None:
    async def both() -> None:
        memory, sqlite = (
            MemoryStore(partitions=PARTITIONS),
            open_store(f"sqlite:///{folder}/store.db", partitions=64),
        )
        try:
            await run(steps, memory, sqlite)
        finally:
            await sqlite.close()
        again = open_store(f"sqlite:///{folder}/store.db")
        try:
            assert await contents(memory) == await contents(again)
        finally:
            await again.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(both())
