"""Slots of a limit, and what the cluster's figures say of its queues."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from perdure.statestore import MemoryStore
from perdure.workflow.requests import Acquire, Release
from tests.engine.limits_use import Meter, activities, engine_of, orders
from tests.engine.test_limits_workflows import _has_begun


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
