"""How many activities run at a time: by node, by name, over a cluster."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext, when_all
from perdure.errors import ConfigurationError
from perdure.statestore import MemoryStore
from tests.engine.limits_use import Meter, activities


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
