"""How many activities run, and how many instances are under way, at a time: queues of real nodes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext, when_all
from perdure.errors import ConfigurationError
from perdure.statestore import MemoryStore
from perdure.workflow.admission import Admission
from perdure.workflow.requests import Acquire, Release
from perdure.workflow.slots import Slots


class Meter:
    """How many run at a time, by name."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[Any] = []
        self.gate = asyncio.Event()

    async def run(self, name: str, what: Any = None) -> None:
        self.now[name] += 1
        self.most[name] = max(self.most[name], self.now[name])
        self.order.append(what)
        try:
            await self.gate.wait()
            # So that others could begin, if they might.
            await asyncio.sleep(0)
        finally:
            self.now[name] -= 1


@pytest.fixture
def meter() -> Meter:
    return Meter()


def activities(meter: Meter, **options: Any) -> App:
    app = App("a")

    @app.activity(**options)
    async def scarce(ctx: ActivityContext, n: int) -> int:
        await meter.run("scarce", n)
        return n

    @app.activity
    async def plain(ctx: ActivityContext, n: int) -> int:
        return n

    @app.workflow
    async def many(ctx: WorkflowContext, count: int) -> int:
        return sum(await when_all([ctx.call_activity(scarce, input=n) for n in range(count)]))

    @app.workflow
    async def other(ctx: WorkflowContext, count: int) -> int:
        return sum(await when_all([ctx.call_activity(plain, input=n) for n in range(count)]))

    return app


# --- activities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"max_concurrent": 3}, {"global_max_concurrent": 3}])
async def test_so_many_of_a_name_run_at_a_time(
    place: Any, run: Any, eventually: Any, meter: Meter, options: dict[str, int]
) -> None:
    app = activities(meter, **options)
    async with place.serve(app) as node:
        id = await node.client.schedule_new_workflow("many", input=30)
        await eventually(lambda: meter.now["scarce"] == 3)
        queue = node.describe()["queues"]["activities"]["scarce"]
        assert (queue["running"], queue["queued"]) == (3, 27)
        wanted = {"limit": 3} if "max_concurrent" in options else {"global_limit": 3, "share": 3}
        assert {key: value for key, value in queue.items() if value is not None} == {
            "running": 3,
            "queued": 27,
            **wanted,
        }
        # No other name waits behind it.
        assert (await run(node.client, "other", 50)).output == sum(range(50))
        meter.gate.set()
        assert (await node.client.wait_for_workflow_completion(id, timeout=30)).output == sum(range(30))
        assert meter.most["scarce"] == 3
        assert meter.order == list(range(30))
        assert node.describe()["queues"]["activities"]["scarce"]["queued"] == 0


async def test_plain_functions_are_limited_by_name(memory_place: Any, run: Any) -> None:
    app = App("a")
    lock = threading.Lock()
    now = most = 0

    @app.activity(max_concurrent=1)
    def alone(ctx: ActivityContext) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1

    @app.workflow
    async def many(ctx: WorkflowContext) -> None:
        await when_all([ctx.call_activity(alone) for _ in range(10)])

    async with memory_place.serve(app) as node:
        assert (await run(node.client, many)).runtime_status is RuntimeStatus.COMPLETED
        assert most == 1


async def test_names_take_turns_where_there_is_no_room_for_all(memory_place: Any, eventually: Any) -> None:
    """A long queue of one name does not make others wait for its end."""
    app = App("a")
    order: list[str] = []
    gate = asyncio.Event()

    @app.activity
    async def first(ctx: ActivityContext) -> None:
        order.append("first")
        await gate.wait()

    @app.activity
    async def second(ctx: ActivityContext) -> None:
        order.append("second")

    @app.workflow
    async def many(ctx: WorkflowContext, name: str, /) -> None:
        count = 200 if name == "first" else 3
        await when_all([ctx.call_activity(name) for _ in range(count)])

    async with memory_place.serve(app, max_concurrent_activities=1) as node:
        long = await node.client.schedule_new_workflow(many, input="first")
        await eventually(lambda: node.describe()["activities_queued"] == 199)
        short = await node.client.schedule_new_workflow(many, input="second")
        await eventually(lambda: node.describe()["activities_queued"] == 202)
        gate.set()
        await node.client.wait_for_workflow_completion(short, timeout=30)
        await node.client.wait_for_workflow_completion(long, timeout=30)
        assert order[:7] == ["first", "second"] * 3 + ["first"] or order[1:7] == ["first", "second"] * 3
        assert len(order) == 203


async def test_a_long_queue_is_cheap(memory_place: Any, run: Any, eventually: Any, meter: Meter) -> None:
    """Nothing is searched: 20,000 that wait one by one behind a limit take no longer than without."""
    app = activities(meter, max_concurrent=1)
    meter.gate.set()
    async with memory_place.serve(app, replay_check="off") as node:
        assert (await run(node.client, "many", 20_000)).output == sum(range(20_000))
        assert meter.order == list(range(20_000))


async def test_what_is_queued_shows_its_place(memory_place: Any, eventually: Any, meter: Meter) -> None:
    app = activities(meter, max_concurrent=1)
    async with memory_place.serve(app) as node:
        id = await node.client.schedule_new_workflow("many", input=5)
        host = node.runtime.engine.activities
        await eventually(lambda: host.queued == 4)
        activation = node.runtime.host.activations[node.runtime.engine.actor(id)]
        execution_id = activation.behaviour.instance.meta.execution_id
        assert [host.state(execution_id, n) for n in range(6)] == ["running", *["queued"] * 4, ""]
        assert [host.ahead(execution_id, n) for n in range(6)] == [None, 0, 1, 2, 3, None]
        meter.gate.set()
        await node.client.wait_for_workflow_completion(id, timeout=30)


async def test_what_is_queued_at_a_stop_runs_after_the_restart(
    place: Any, eventually: Any, meter: Meter
) -> None:
    app = activities(meter, max_concurrent=2)
    async with place.serve(app, drain_seconds=0.05) as node:
        id = await node.client.schedule_new_workflow("many", input=10)
        await eventually(lambda: node.runtime.engine.activities.queued == 8)
    meter.gate.set()
    async with place.serve(app) as node:
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == sum(range(10))
        assert meter.most["scarce"] == 2


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_a_limit_is_a_whole_number_from_1_on(value: Any) -> None:
    app = App("a")
    for option in ("max_concurrent", "global_max_concurrent"):
        for kind in (app.activity, app.workflow):
            with pytest.raises(ConfigurationError, match=f"{option} of .* 'f' is .*from 1 on"):
                kind(name="f", **{option: value})(lambda ctx: None)


@pytest.mark.parametrize("value", [timedelta(0), 60, "1m"])
def test_a_grace_is_a_timedelta(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="global_grace"):
        App("a").activity(name="f", global_grace=value)(lambda ctx: None)


@pytest.mark.parametrize("option", ["max_concurrent_activities", "max_concurrent_workflows"])
async def test_options_of_a_node_are_checked(memory_place: Any, option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} is 0"):
        async with memory_place.serve(App("a"), **{option: 0}):
            pass


# --- activities over a cluster -----------------------------------------------------------------------------------------


async def test_nodes_share_what_the_cluster_may_run(eventually: Any, meter: Meter) -> None:
    store = MemoryStore(partitions=32, shared=True)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(activities(meter, global_max_concurrent=4).serve(store=store))
            for _ in range(3)
        ]
        ids = [await nodes[0].client.schedule_new_workflow("many", input=20) for _ in range(3)]
        await eventually(lambda: meter.now["scarce"] == 4)
        queues = [node.describe()["queues"]["activities"]["scarce"] for node in nodes]
        assert sum(queue["running"] for queue in queues) == 4
        assert sum(queue["share"] for queue in queues) <= 4
        assert {queue["global_limit"] for queue in queues} == {4}
        meter.gate.set()
        for id in ids:
            state = await nodes[1].client.wait_for_workflow_completion(id, timeout=60)
            assert state.output == sum(range(20))
        assert meter.most["scarce"] == 4


async def test_a_share_goes_where_the_work_is_when_a_node_has_left(eventually: Any, meter: Meter) -> None:
    store = MemoryStore(partitions=32, shared=True)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(activities(meter, global_max_concurrent=4).serve(store=store))
        meter.gate.set()
        async with activities(meter, global_max_concurrent=4).serve(store=store) as two:
            await eventually(lambda: _share(one) + _share(two) == 4 and _share(two) > 0)
        await eventually(lambda: _share(one) == 4)


def _share(node: Any) -> int:
    share: int = node.describe()["queues"]["activities"]["scarce"]["share"]
    return share


# --- workflows ---------------------------------------------------------------------------------------------------------


def orders(**options: Any) -> App:
    app = App("a")

    @app.workflow(**options)
    async def order(ctx: WorkflowContext) -> Any:
        return await ctx.wait_for_external_event("go")

    @app.workflow
    async def other(ctx: WorkflowContext) -> str:
        return "done"

    @app.workflow
    async def parent(ctx: WorkflowContext, count: int) -> int:
        return len(await when_all([ctx.call_child_workflow("order") for _ in range(count)]))

    @app.workflow
    async def again(ctx: WorkflowContext, left: int) -> None:
        await ctx.wait_for_external_event("go")
        if left:
            ctx.continue_as_new(left - 1)

    return app


LIMITS = [
    {"max_concurrent": 2},
    {"global_max_concurrent": 2},
    {"max_concurrent": 2, "global_max_concurrent": 3},
]


async def begun(node: Any, ids: list[str]) -> list[str]:
    found = [await node.client.get_workflow_state(id) for id in ids]
    return [state.instance_id for state in found if state.started_at is not None]


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


async def test_queues_are_part_of_the_clusters_figures(eventually: Any, meter: Meter) -> None:
    store = MemoryStore(partitions=32, shared=True)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(activities(meter, global_max_concurrent=2).serve(store=store))
            for _ in range(2)
        ]
        id = await nodes[0].client.schedule_new_workflow("many", input=10)
        await eventually(lambda: meter.now["scarce"] == 2)

        async def told() -> bool:
            view = await nodes[1].cluster()
            queues = [node.heard.figures.queues["activities"]["scarce"] for node in view.nodes]
            return sum(q.running for q in queues) == 2 and sum(q.queued for q in queues) == 8

        await eventually(told)
        meter.gate.set()
        await nodes[0].client.wait_for_workflow_completion(id, timeout=60)


async def test_slots_know_late_and_repeated_messages(memory_place: Any, eventually: Any) -> None:
    """Those of two owners of one instance, of a time before a slot was given back, and of an id that is used again."""
    async with memory_place.serve(orders(global_max_concurrent=1)) as node:
        engine = node.runtime.engine
        answers: dict[str, Any] = {}

        def send(name: str, body: Any) -> None:
            engine.router.send(
                engine.slots("order"), "any", body, lambda value: answers.update({name: value})
            )

        async def told(**wanted: bool) -> None:
            await eventually(lambda: answers.keys() == wanted.keys())
            assert answers == wanted
            answers.clear()

        send("first", Acquire("x", "s1", 10))
        await told(first=True)
        # Both wait, and get the one slot: whoever asked first may not be there any more.
        send("old", Acquire("y", "s2", 20))
        send("new", Acquire("y", "s2", 20))
        send("again", Acquire("x", "s1", 10))
        await told(again=True)
        send("release", Release("x", "s1"))
        await told(release=True, old=True, new=True)
        # It gives the slot back before it starts, and asks anew; then what is late does no harm.
        send("release", Release("y", "s2", 0))
        await told(release=True)
        send("anew", Acquire("y", "s2", 20, 1))
        await told(anew=True)
        send("late release", Release("y", "s2", 0))
        send("late acquire", Acquire("y", "s2", 20, 0))
        await told(**{"late release": True, "late acquire": False})
        send("other", Acquire("z", "s3", 30))
        send("unknown", Release("nobody", "s9"))
        await told(unknown=True)
        # Whoever ends while it waits is told so.
        send("over", Release("z", "s3"))
        await told(over=True, other=False)
        # An id that is used again has its former slot; what is late of the former instance changes nothing.
        send("reuse", Acquire("y", "s4", 40))
        await told(reuse=True)
        send("former", Acquire("y", "s2", 20, 1))
        send("former release", Release("y", "s2", 1))
        await told(former=False, **{"former release": True})
        page = await node.store.keys(engine.slots("order"))
        assert [key for key, _ in page.items] == ["holder:y:"]


async def test_more_slots_than_one_read_gives(memory_place: Any, eventually: Any) -> None:
    app = orders(global_max_concurrent=3000)
    async with memory_place.serve(app) as node:
        engine = node.runtime.engine
        count = 0

        def answered(_: Any) -> None:
            nonlocal count
            count += 1

        for number in range(2500):
            body = Acquire(f"i{number:06d}", f"s{number}", number)
            engine.router.send(engine.slots("order"), "any", body, answered)
        await eventually(lambda: count == 2500)
    async with memory_place.serve(orders(global_max_concurrent=1)) as node:
        # They are all known after the restart.
        await node.client.schedule_new_workflow("order", instance_id="one")
        await eventually(lambda: engine_of(node).slots("order") in node.runtime.host.activations)
        slots = node.runtime.host.activations[engine_of(node).slots("order")]
        await eventually(lambda: len(slots.behaviour._holders) == 2500)
        assert not await _has_begun(node, "one")


def engine_of(node: Any) -> Any:
    return node.runtime.engine
