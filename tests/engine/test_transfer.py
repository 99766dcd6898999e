"""Instances that are taken out of a store and put into one, where they go on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from perdure import ActivityContext, App, Node, RuntimeStatus, WorkflowContext
from perdure.actors.messages import Identity
from perdure.errors import AlreadyExists, DeadlineExceeded, InstanceNotFound, InvalidInput
from perdure.statestore.contract import ActorId
from perdure.workflow import metadata
from perdure.workflow import record as records
from perdure.workflow.record import Record
from perdure.workflow.requests import Restore
from perdure.workflow.transfers import Transfers, check
from tests.engine.conftest import Gate


@pytest.fixture
def app(gate: Gate) -> App:
    app = App("s")

    @app.activity
    async def held(ctx: ActivityContext, n: int) -> int:
        gate.ran.append(ctx.idempotency_key)
        await gate.open.wait()
        return n

    @app.workflow
    async def work(ctx: WorkflowContext, n: int) -> int:
        total: int = await ctx.call_activity(held, input=n)
        return total + await ctx.call_activity(held, input=n)

    @app.workflow
    async def listen(ctx: WorkflowContext, n: int) -> list[Any]:
        return [await ctx.wait_for_external_event("x") for _ in range(n)]

    @app.workflow
    async def nap(ctx: WorkflowContext, ms: int) -> str:
        await ctx.create_timer(timedelta(milliseconds=ms))
        return "woken"

    @app.workflow
    async def parent(ctx: WorkflowContext, n: int) -> list[Any]:
        return await ctx.call_child_workflow(listen, input=n, instance_id=f"{ctx.instance_id}-child")

    @app.workflow
    async def tell(ctx: WorkflowContext, id: str) -> None:
        await ctx.wait_for_external_event("go")
        ctx.send_event(id, "x", "told")

    return app


async def taken(node: Node, id: str) -> Record:
    """The record of an instance, which is then gone. As it is in a file."""
    found = await Transfers(node.runtime.engine).export(id)
    await node.client.purge_workflow(id, force=True, recursive=False)
    assert await node.client.get_workflow_state(id) is None
    return records.decode(records.encode(found))


async def put(node: Node, record: Record, **options: Any) -> None:
    await Transfers(node.runtime.engine).restore(record, **options)


async def test_one_that_waits_for_an_event(app: App, place: Any, keys: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=2, instance_id="i")
        await client.raise_workflow_event("i", "x", data=1)
        before = await client.get_workflow_state("i")
        record = await taken(node, "i")
        await put(node, record)
        after = await client.get_workflow_state("i")
        assert before is not None
        assert after is not None
        # The row is written anew, with the time of the last turn.
        at = after.last_updated_at
        assert after == msgspec.structs.replace(before, last_updated_at=at)
        await client.raise_workflow_event("i", "x", data=2)
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == [1, 2]


async def test_one_whose_activity_has_not_answered(
    app: App, place: Any, memory_place: Any, gate: Gate, eventually: Any
) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("work", input=21, instance_id="i")
        await eventually(lambda: gate.ran)
        record = await taken(node, "i")
        gate.open.set()
    ran = len(gate.ran)
    async with memory_place.serve(app) as node:
        await put(node, record)
        state = await node.client.wait_for_workflow_completion("i", timeout=30)
    assert state.output == 42
    # The one that had not answered was asked for again, under its own key, and then the other.
    assert gate.ran[ran] == gate.ran[0]
    assert len(gate.ran) == ran + 2


async def test_a_timer_that_was_due_meanwhile(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("nap", input=60_000, instance_id="i")
        await node.client.wait_for_workflow_start("i", timeout=30)
        record = await taken(node, "i")
        (wake,) = record.reminders
        past = msgspec.structs.replace(wake, due=1)
        await put(node, msgspec.structs.replace(record, reminders=[past]))
        state = await node.client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == "woken"


async def test_a_timer_that_is_still_to_come(app: App, place: Any, eventually: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("nap", input=1500, instance_id="i")
        await node.client.wait_for_workflow_start("i", timeout=30)
        await put(node, await taken(node, "i"))
        state = await node.client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == "woken"


async def test_one_that_begins_later(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("nap", input=0, instance_id="i", start_at=timedelta(seconds=3))
        before = await client.get_workflow_state("i")
        assert before is not None
        assert before.runtime_status is RuntimeStatus.PENDING
        await put(node, await taken(node, "i"))
        after = await client.get_workflow_state("i")
        assert after is not None
        assert (after.runtime_status, after.scheduled_at) == (RuntimeStatus.PENDING, before.scheduled_at)
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == "woken"
        assert state.started_at >= before.scheduled_at


async def test_callers_keys_are_known_after_an_import(app: App, place: Any) -> None:
    """Those that the record has, and those that were taken since."""
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=3, instance_id="i", idempotency_key="start")
        await client.raise_workflow_event("i", "x", data=1, event_id="one")
        record = await Transfers(node.runtime.engine).export("i")
        await client.raise_workflow_event("i", "x", data=2, event_id="two")
        await put(node, record, replace=True)
        await client.schedule_new_workflow("listen", input=3, instance_id="i", idempotency_key="start")
        for id, data in (("one", 1), ("two", 2), ("three", 3), ("four", 4)):
            await client.raise_workflow_event("i", "x", data=data, event_id=id)
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == [1, 3, 4]


async def test_a_paused_one_with_what_waits_for_it(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=1, instance_id="i")
        await client.pause_workflow("i", reason="for lunch")
        await client.raise_workflow_event("i", "x", data=7)
        await put(node, await taken(node, "i"))
        state = await client.get_workflow_state("i")
        assert state is not None
        assert (state.runtime_status, state.reason) == (RuntimeStatus.SUSPENDED, "for lunch")
        await client.resume_workflow("i")
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == [7]


async def test_a_finished_one(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=0, instance_id="i")
        before = await client.wait_for_workflow_completion("i", timeout=30)
        await put(node, await taken(node, "i"))
        assert await client.wait_for_workflow_completion("i", timeout=30) == before
        assert len((await client.history("i")).items) == 2
        with pytest.raises(AlreadyExists):
            await put(node, await Transfers(node.runtime.engine).export("i"))


async def test_a_parent_and_its_child(app: App, place: Any, memory_place: Any, until_status: Any) -> None:
    """The child first, as a file has them: the parent finds it there."""
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("parent", input=1, instance_id="p")
        await until_status(node.client, "p-child", RuntimeStatus.RUNNING)
        child, parent = await taken(node, "p-child"), await taken(node, "p")
    async with memory_place.serve(app) as node:
        await put(node, child)
        await put(node, parent)
        await node.client.raise_workflow_event("p-child", "x", data=7)
        state = await node.client.wait_for_workflow_completion("p", timeout=30)
        assert state.output == [7]


async def test_a_history_of_several_pages(app: App, place: Any) -> None:
    many = 1200
    async with place.serve(app, replay_check="off") as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=many + 1, instance_id="i")
        for number in range(many):
            await client.raise_workflow_event("i", "x", data=number)
        record = await taken(node, "i")
        assert len(record.values) > 1000
        await put(node, record)
        await client.raise_workflow_event("i", "x", data=many)
        state = await client.wait_for_workflow_completion("i", timeout=60)
        assert state.output == list(range(many + 1))


async def test_what_was_imported_is_there_after_a_restart(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("listen", input=1, instance_id="i")
        await node.client.wait_for_workflow_start("i", timeout=30)
        await put(node, await taken(node, "i"))
    async with place.serve(app) as node:
        await node.client.raise_workflow_event("i", "x", data=7)
        state = await node.client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == [7]


async def test_an_id_that_is_in_use(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=2, instance_id="i")
        record = await Transfers(node.runtime.engine).export("i")
        await client.raise_workflow_event("i", "x", data=1)
        with pytest.raises(AlreadyExists, match="which is running"):
            await put(node, record)
        # Nothing has happened to what is there.
        await client.raise_workflow_event("i", "x", data=2)
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == [1, 2]


async def test_one_that_is_replaced_while_it_runs(app: App, place: Any, gate: Gate, eventually: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("work", input=1, instance_id="i")
        await eventually(lambda: gate.ran)
        record = await Transfers(node.runtime.engine).export("i")
        waiting = asyncio.create_task(client.wait_for_workflow_completion("i", timeout=30))
        await put(node, record, replace=True)
        gate.open.set()
        assert (await waiting).output == 2
        # And what has come to its end goes back to where it was.
        await put(node, record, replace=True)
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == 2


async def test_the_same_import_twice(app: App, place: Any) -> None:
    """As when the link was lost before its answer."""
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("listen", input=1, instance_id="i")
        await node.client.wait_for_workflow_start("i", timeout=30)
        record = await taken(node, "i")
        engine, identity = node.runtime.engine, Identity("edge:test", 1, 1)
        for _ in range(2):
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            body = Restore(record, replace=False)
            engine.router.send(engine.actor("i"), "restore", body, answer.set_result, identity=identity)
            assert await answer is True
        resets = [
            commit for commit in place.last.of("i") if commit.recover is not None and commit.clear_reminders
        ]
        # The purge, and one import.
        assert len(resets) <= 2


async def test_messages_of_the_one_that_was_there_are_known(app: App, place: Any) -> None:
    """What was accepted since the export, and comes again, is not taken twice; and others do not take new messages
    for old ones."""
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=2, instance_id="to")
        await client.schedule_new_workflow("tell", input="to", instance_id="from")
        await client.wait_for_workflow_start("from", timeout=30)
        record = await Transfers(node.runtime.engine).export("from")
        await client.raise_workflow_event("from", "go")
        await client.wait_for_workflow_completion("from", timeout=30)
        for attempt in range(200):
            try:
                await put(node, record, replace=True)
                break
            except DeadlineExceeded:
                assert attempt < 199
        await client.raise_workflow_event("from", "go")
        state = await client.wait_for_workflow_completion("to", timeout=30)
        assert state.output == ["told", "told"]


async def test_what_still_owes_messages_is_not_replaced(
    app: App, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.workflow.transfers.RETRY_FOR", 0.2)

    @app.workflow
    async def forward(ctx: WorkflowContext) -> None:
        ctx.detach("nothing", app_id="nowhere", instance_id="far")

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("forward", instance_id="i")
        await node.client.wait_for_workflow_completion("i", timeout=30)
        record = await Transfers(node.runtime.engine).export("i")
        assert any(key.startswith("outbox-") for key in record.values)
        with pytest.raises(DeadlineExceeded, match="owes messages to others"):
            await put(node, record, replace=True)


async def test_no_instance(app: App, memory_place: Any) -> None:
    async with memory_place.serve(app) as node:
        transfers = Transfers(node.runtime.engine)
        with pytest.raises(InstanceNotFound):
            await transfers.export("none")
        await node.client.schedule_new_workflow("listen", input=0, instance_id="i")
        await node.client.wait_for_workflow_completion("i", timeout=30)
        record = await taken(node, "i")
        with pytest.raises(InstanceNotFound):
            await transfers.export("i")
        with pytest.raises(InvalidInput, match="this node serves"):
            await put(node, msgspec.structs.replace(record, type="dapr.internal.default.t.workflow"))


def _without(record: Record, key: str) -> Record:
    values = {name: value for name, value in record.values.items() if name != key}
    return msgspec.structs.replace(record, values=values)


async def test_what_is_no_whole_instance(app: App, memory_place: Any) -> None:
    async with memory_place.serve(app) as node:
        await node.client.schedule_new_workflow("nap", input=60_000, instance_id="i")
        await node.client.wait_for_workflow_start("i", timeout=30)
        record = await taken(node, "i")
        check(record)
        replace = msgspec.structs.replace
        meta = metadata.decode(record.values["metadata"])
        meta.status = "purged"
        wrong = [
            _without(record, "metadata"),
            _without(record, "history-000000"),
            _without(record, "history-000001"),
            replace(record, values={**record.values, "history-000002": record.values["history-000001"]}),
            replace(record, values={**record.values, "history-x": b""}),
            replace(record, values={**record.values, "inbox-000000": b"\xff"}),
            replace(record, values={**record.values, "metadata": metadata.encode(meta)}),
            replace(record, reminders=[replace(record.reminders[0], name="timer-x")]),
            replace(record, reminders=[replace(record.reminders[0], data=b"\xff")]),
        ]
        for one in wrong:
            with pytest.raises(InvalidInput):
                check(one)
            with pytest.raises(InvalidInput):
                await put(node, one)
        actor = ActorId(record.type, "i")
        assert await node.store.row(actor) is None
        await put(node, record)
        assert await node.store.row(actor) is not None
