"""How many instances are under way at a time: by node, by name, over a cluster."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from perdure import App, RuntimeStatus, WorkflowContext
from perdure.statestore import MemoryStore
from perdure.workflow.admission import Admission
from perdure.workflow.requests import Acquire
from perdure.workflow.slots import Slots
from tests.engine.limits_use import LIMITS, begun, orders


@pytest.mark.parametrize("options", LIMITS)
async def test_so_many_instances_are_under_way_at_a_time(
    place: Any, run: Any, eventually: Any, until_status: Any, options: dict[str, int]
) -> None:
    async with place.serve(orders(**options)) as node:
        client = node.client
        ids = [await client.schedule_new_workflow("order", instance_id=f"o{n}") for n in range(6)]

        async def first_two() -> bool:
            return await begun(node, ids) == ids[:2]

        await eventually(first_two)
        waiting = await client.get_workflow_state(ids[2])
        assert waiting.runtime_status is RuntimeStatus.PENDING
        assert "of its instances are under way at a time" in waiting.reason
        queue = node.describe()["queues"]["workflows"]["order"]
        assert (queue["running"], queue["queued"]) == (2, 4)
        assert json.dumps(node.describe())
        # Others of other names go on, and those that wait take events.
        assert (await run(client, "other")).output == "done"
        await client.raise_workflow_event(ids[4], "go", data=4)
        for n in (0, 1, 2, 3, 5):
            await eventually(lambda n=n: _has_begun(node, ids[n]))
            await client.raise_workflow_event(ids[n], "go", data=n)
        for n, id in enumerate(ids):
            state = await client.wait_for_workflow_completion(id, timeout=30)
            assert (state.output, state.reason) == (n, "")
        # In the order of creation.
        started = [(await client.get_workflow_state(id)).started_at for id in ids]
        assert started == sorted(started)
        queue = node.describe()["queues"]["workflows"]["order"]
        assert (queue["running"], queue["queued"]) == (0, 0)


async def _has_begun(node: Any, id: str) -> bool:
    return bool(await begun(node, [id]))


@pytest.mark.parametrize("options", LIMITS)
async def test_a_restart_counts_what_had_started_and_goes_on_in_order(
    place: Any, eventually: Any, evict: Any, options: dict[str, int]
) -> None:
    ids = [f"o{n}" for n in range(8)]
    async with place.serve(orders(**options)) as node:
        for id in ids:
            await node.client.schedule_new_workflow("order", instance_id=id)

        async def two() -> bool:
            return await begun(node, ids) == ids[:2]

        await eventually(two)
    async with place.serve(orders(**options)) as node:
        # Those that sleep are not even in memory.
        await eventually(lambda: node.describe()["queues"]["workflows"]["order"]["queued"] == 6)
        for n, id in enumerate(ids):
            assert await begun(node, ids) == ids[: n + 2]
            await node.client.raise_workflow_event(id, "go")
            await node.client.wait_for_workflow_completion(id, timeout=30)
            after = ids[: n + 3]
            await eventually(lambda after=after: _begun_are(node, ids, after))


async def _begun_are(node: Any, ids: list[str], wanted: list[str]) -> bool:
    return await begun(node, ids) == wanted


@pytest.mark.parametrize("options", LIMITS)
async def test_whoever_is_terminated_gives_its_place_to_the_next(
    memory_place: Any, eventually: Any, options: dict[str, int]
) -> None:
    async with memory_place.serve(orders(**options)) as node:
        ids = [await node.client.schedule_new_workflow("order", instance_id=f"o{n}") for n in range(5)]
        await eventually(lambda: _begun_are(node, ids, ids[:2]))
        # One that waits, and one that is under way.
        await node.client.terminate_workflow(ids[2])
        await node.client.terminate_workflow(ids[0])
        await eventually(lambda: _has_begun(node, ids[3]))
        state = await node.client.get_workflow_state(ids[2])
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert not await _has_begun(node, ids[4])
        await node.client.terminate_workflow(ids[1])
        await eventually(lambda: _has_begun(node, ids[4]))


@pytest.mark.parametrize("options", LIMITS)
async def test_who_is_paused_before_it_starts_leaves_the_queue(
    memory_place: Any, eventually: Any, options: dict[str, int]
) -> None:
    async with memory_place.serve(orders(**options)) as node:
        ids = [await node.client.schedule_new_workflow("order", instance_id=f"o{n}") for n in range(4)]
        await eventually(lambda: _begun_are(node, ids, ids[:2]))
        await node.client.pause_workflow(ids[2])
        await node.client.terminate_workflow(ids[0])
        await eventually(lambda: _has_begun(node, ids[3]))
        await node.client.resume_workflow(ids[2])
        assert not await _has_begun(node, ids[2])
        await node.client.terminate_workflow(ids[1])
        await eventually(lambda: _has_begun(node, ids[2]))


@pytest.mark.parametrize("options", [{"max_concurrent": 1}, {"global_max_concurrent": 1}])
async def test_an_id_that_is_used_again_waits_again(
    memory_place: Any, eventually: Any, options: dict[str, int]
) -> None:
    async with memory_place.serve(orders(**options)) as node:
        client = node.client
        await client.schedule_new_workflow("order", instance_id="x")
        await eventually(lambda: _has_begun(node, "x"))
        await client.schedule_new_workflow("order", instance_id="y")
        await client.terminate_workflow("x")
        await client.schedule_new_workflow("order", instance_id="x")
        await eventually(lambda: _has_begun(node, "y"))
        assert not await _has_begun(node, "x")
        await client.raise_workflow_event("y", "go")
        await eventually(lambda: _has_begun(node, "x"))


@pytest.mark.parametrize("options", [{"max_concurrent": 2}, {"global_max_concurrent": 2}])
async def test_children_are_limited_by_their_name(
    memory_place: Any, eventually: Any, options: dict[str, int]
) -> None:
    async with memory_place.serve(orders(**options)) as node:
        id = await node.client.schedule_new_workflow("parent", input=6)
        done: set[str] = set()

        async def some() -> list[str]:
            page = await node.client.list(name="order", statuses=["running"])
            return [state.instance_id for state in page.items if state.instance_id not in done]

        while len(done) < 6:
            running = await eventually(some)
            assert len(running) <= 2
            await node.client.raise_workflow_event(running[0], "go")
            await node.client.wait_for_workflow_completion(running[0], timeout=30)
            done.add(running[0])
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == 6


@pytest.mark.parametrize("options", [{"max_concurrent": 1}, {"global_max_concurrent": 1}])
async def test_it_keeps_its_place_over_continue_as_new(
    memory_place: Any, eventually: Any, options: dict[str, int]
) -> None:
    app = App("a")

    @app.workflow(**options)
    async def again(ctx: WorkflowContext, left: int) -> None:
        await ctx.wait_for_external_event("go")
        if left:
            ctx.continue_as_new(left - 1)

    async with memory_place.serve(app) as node:
        first = await node.client.schedule_new_workflow(again, input=3)
        await eventually(lambda: _has_begun(node, first))
        second = await node.client.schedule_new_workflow(again, input=0)
        for _ in range(3):
            await node.client.raise_workflow_event(first, "go")
        await eventually(lambda: _generation(node, first, 4))
        assert not await _has_begun(node, second)
        await node.client.raise_workflow_event(first, "go")
        await eventually(lambda: _has_begun(node, second))


async def _generation(node: Any, id: str, wanted: int) -> bool:
    state = await node.client.get_workflow_state(id)
    return bool(state.generation == wanted)


async def test_all_workflows_of_a_node_together(place: Any, eventually: Any) -> None:
    """Children apart: their parents hold what they would wait for."""
    app = orders()
    async with place.serve(app, max_concurrent_workflows=2) as node:
        client = node.client
        parent = await client.schedule_new_workflow("parent", input=3)
        await eventually(lambda: _children(node, 3))
        single = await client.schedule_new_workflow("order", instance_id="single")
        late = await client.schedule_new_workflow("other")
        await eventually(lambda: _has_begun(node, single))
        state = await client.get_workflow_state(late)
        assert state.runtime_status is RuntimeStatus.PENDING
        assert state.reason == "waiting: at most 2 workflow instances are under way at a time on one node"
        queues = node.describe()["queues"]["workflows"]
        assert queues["*"] == {"running": 2, "queued": 1, "limit": 2, "global_limit": None, "share": None}
        await client.terminate_workflow(parent)
        assert (await client.wait_for_workflow_completion(late, timeout=30)).output == "done"
    async with place.serve(app, max_concurrent_workflows=2) as node:
        await eventually(lambda: node.describe()["queues"]["workflows"]["*"]["running"] == 1)


async def _children(node: Any, count: int) -> bool:
    page = await node.client.list(name="order", statuses=["running"])
    return len(page.items) == count


async def test_those_that_wait_leave_memory(place: Any, eventually: Any, evict: Any) -> None:
    async with place.serve(orders(max_concurrent=1), replay_check="off") as node:
        ids = [f"o{n:04d}" for n in range(300)]
        for id in ids:
            await node.client.schedule_new_workflow("order", instance_id=id)
        await eventually(lambda: _has_begun(node, ids[0]))
        assert all(evict(node, id) for id in ids[1:])
        # The sweep does not read them either.
        await node.runtime.host.recover(list(node.runtime.host.owned))
        assert len(node.runtime.host.activations) <= 2
        for number, id in enumerate(ids[:5]):
            await node.client.raise_workflow_event(id, "go")
            await eventually(lambda number=number: _has_begun(node, ids[number + 1]))


async def test_the_limits_of_workflows_hold_over_a_cluster(eventually: Any) -> None:
    store = MemoryStore(partitions=32, shared=True)
    ids = [f"o{n}" for n in range(12)]
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(orders(global_max_concurrent=3).serve(store=store))
        async with orders(global_max_concurrent=3).serve(store=store) as two:
            for id in ids:
                await two.client.schedule_new_workflow("order", instance_id=id)
            await eventually(lambda: _begun_are(one, ids, ids[:3]))
        # What had started is still counted, wherever it is now. When owners change, a younger one may come first.
        done: set[str] = set()
        while len(done) < len(ids):
            under_way: set[str] = await eventually(lambda: _others_begun(one, ids, done))
            assert len(under_way) <= 3
            for id in under_way:
                await one.client.raise_workflow_event(id, "go")
                await one.client.wait_for_workflow_completion(id, timeout=30)
                done.add(id)


async def _others_begun(node: Any, ids: list[str], done: set[str]) -> set[str]:
    return set(await begun(node, ids)) - done


async def test_a_slot_that_was_given_to_one_that_waits_behind_others(
    memory_place: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last owner had asked when it was its turn there. Here it is not, and those whose turn it is get none."""
    monkeypatch.setattr("perdure.workflow.slots.AUDIT", 0.05)
    async with memory_place.serve(orders(global_max_concurrent=1, max_concurrent=1)) as node:
        ids = [f"o{n}" for n in range(4)]
        for id in ids:
            await node.client.schedule_new_workflow("order", instance_id=id)
        await eventually(lambda: _has_begun(node, ids[0]))
        engine = node.runtime.engine
        last = engine.admission._entries[engine.actor(ids[3])]
        asked: list[Any] = []
        engine.router.send(
            engine.slots("order"), "acquire", Acquire(ids[3], last.start_id, created=1), asked.append
        )
        for id in (ids[0], ids[3], ids[1], ids[2]):
            await eventually(lambda id=id: _has_begun(node, id))
            await node.client.raise_workflow_event(id, "go")
            await node.client.wait_for_workflow_completion(id, timeout=30)
        assert asked == [True]


async def test_a_slot_that_was_never_given_back_is_missed(
    memory_place: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is purged by force drops what it owes, and so, perhaps, its slot."""
    monkeypatch.setattr("perdure.workflow.slots.AUDIT", 0.05)
    async with memory_place.serve(orders(global_max_concurrent=1)) as node:
        await node.client.schedule_new_workflow("order", instance_id="lost")
        await eventually(lambda: _has_begun(node, "lost"))
        await node.client.schedule_new_workflow("order", instance_id="next")
        await node.client.purge_workflow("lost", force=True)
        await eventually(lambda: _has_begun(node, "next"))


async def test_nothing_is_set_up_where_nothing_is_limited(memory_place: Any) -> None:
    async with memory_place.serve(orders()) as node:
        assert node.runtime.engine.admission is None
        assert not any(isinstance(kind, Slots) for kind in node.runtime.host.types.values())
        assert node.describe()["queues"] == {"activities": {}, "workflows": {}}
    async with memory_place.serve(orders(max_concurrent=1)) as node:
        assert isinstance(node.runtime.engine.admission, Admission)
        assert not any(isinstance(kind, Slots) for kind in node.runtime.host.types.values())


async def test_a_limited_workflow_that_starts_itself_is_warned_of(
    memory_place: Any, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("a")

    @app.workflow(max_concurrent=2)
    async def tree(ctx: WorkflowContext, depth: int) -> int:
        return 1 + (await ctx.call_child_workflow("tree", input=depth - 1) if depth > 1 else 0)

    async with memory_place.serve(app) as node:
        assert (await run(node.client, "tree", 2)).output == 2
        assert (await run(node.client, "tree", 2)).output == 2
    told = [record for record in caplog.records if record.message == "workflow.limits_its_own_child"]
    assert len(told) == 1
