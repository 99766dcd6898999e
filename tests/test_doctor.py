"""What a look at a whole store finds."""

from __future__ import annotations

import msgspec
import pytest

from perdure import App, WorkflowContext
from perdure.doctor import OVERDUE, examine
from perdure.placement.hashing import partition_of
from perdure.statestore import ActorId, Commit, Fence, MemoryStore, StateStore, open_store
from perdure.statestore.contract import Finding, Reminder

TYPE = "dapr.internal.default.shop.workflow"

app = App("shop")


@app.workflow
async def waiter(ctx: WorkflowContext) -> str:
    return await ctx.wait_for_external_event("go")


async def change(store: StateStore, id: str, **changes: object) -> None:
    """A commit by nobody who follows the rules."""
    actor = ActorId(TYPE, id)
    snapshot = await store.load(actor)
    fence = store.fences[TYPE, partition_of(id, 1024)][0] if isinstance(store, MemoryStore) else Fence(0, 0)
    commit = Commit(
        actor, partition_of(id, 1024), fence, snapshot.version if snapshot else None, b"v" * 16, {}
    )
    await store.commit([msgspec.structs.replace(commit, **changes)])


def of(findings: list[Finding], subject: str) -> list[Finding]:
    return [one for one in findings if one.subject == subject]


@pytest.fixture
async def store() -> MemoryStore:
    """With two instances that wait, and no node."""
    store = MemoryStore()
    async with app.serve(store=store) as node:
        for id in ("one", "two"):
            await node.client.schedule_new_workflow(waiter, instance_id=id)
            await node.client.wait_for_workflow_start(id)
    return store


async def test_nothing_is_wrong(store: MemoryStore) -> None:
    findings = await examine(store)
    assert [one.level for one in findings] == ["ok"] * len(findings)
    assert (
        "2 of dapr.internal.default.shop.workflow were read: 2 running" in of(findings, "instances")[0].said
    )
    assert "format 1, 1024 partitions" in of(findings, "format")[0].said


async def test_a_store_that_nobody_has_used() -> None:
    findings = await examine(MemoryStore())
    assert [(one.level, one.subject) for one in findings] == [("ok", "format"), ("ok", "placement")]


async def test_an_overdue_reminder(store: MemoryStore) -> None:
    reminder = Reminder(ActorId(TYPE, "one"), "timer-7", 1_000_000)
    await change(store, "one", reminders=[reminder])
    (found,) = of(await examine(store, now=1_000_000 + OVERDUE + 5_000_000), "reminders")
    assert found.level == "error"
    assert "1 of dapr.internal.default.shop.workflow are overdue" in found.said
    assert "'timer-7' of 'one', by 65 s" in found.said
    assert "start one" in found.advice
    # One that is only just due is no matter: a node may be on its way.
    (found,) = of(await examine(store, now=1_000_000 + OVERDUE - 1), "reminders")
    assert found.level == "ok"


async def test_who_owes_work_without_the_mark(store: MemoryStore) -> None:
    """Whatever waits in the inbox is owed."""
    record = store.actors[ActorId(TYPE, "one")]
    assert not record.recover
    message = msgspec.msgpack.encode({"type": "Raise", "name": "go"})
    await change(store, "one", put={"inbox-000000": message})
    (found,) = of(await examine(store), "recovery")
    assert found.level == "error"
    assert found.said.startswith("1 (one) of ")
    # With it, the next owner finds it.
    await change(store, "one", put={}, recover=True, version=b"w" * 16)
    assert of(await examine(store), "recovery") == []


async def test_what_cannot_be_read(store: MemoryStore) -> None:
    await change(store, "two", put={"history-000000": b"\xff\xff"})
    (found,) = of(await examine(store), "values")
    assert found.level == "error"
    assert "1 (two (key history-000000:" in found.said


async def test_so_many_instances_are_read_at_most(store: MemoryStore) -> None:
    seen: list[int] = []
    (found,) = of(await examine(store, instances=1, progress=seen.append), "instances")
    assert found.said.startswith("1 of ")
    assert seen == [1]


async def test_a_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("store") / "state.db"
    full = open_store(f"sqlite:///{path}")
    assert [one.level for one in await examine(full)] == ["ok"] * 5
    await full.close()
    normal = open_store(f"sqlite:///{path}?synchronous=normal")
    (found,) = of(await examine(normal), "durability")
    assert (found.level, found.advice != "") == ("warning", True)
    await normal.close()
