"""What an instance leaves in memory: nothing, and at once."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

from perdure import ActivityContext, App, WorkflowContext
from perdure.statestore.contract import ActorId

app = App("memory")


@app.activity
async def echo(ctx: ActivityContext, value: int) -> int:
    return value


@app.workflow
async def ends(ctx: WorkflowContext, value: int) -> int:
    return await ctx.call_activity(echo, input=value)


@app.workflow
async def waits(ctx: WorkflowContext, value: int) -> int:
    await ctx.call_activity(echo, input=value)
    return await ctx.wait_for_external_event("never", type=int)


COUNT = 50


def _garbage() -> Counter[str]:
    """What only the collector could free, by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_finished_and_evicted_instances_need_no_garbage_collector(eventually: Any) -> None:
    """A collection over tens of thousands of evicted instances would stop the loop for seconds."""
    async with app.serve(store="memory://", replay_check="off") as node:
        host = node.runtime.host
        gc.collect()
        gc.disable()
        try:
            for workflow in (ends, waits):
                await asyncio.gather(
                    *(node.client.schedule_new_workflow(workflow, input=number) for number in range(COUNT))
                )
                await eventually(lambda: not host.busy and not node.runtime.engine.activities.known)
                for activation in list(host.activations.values()):
                    assert host.evict(activation)
                del activation
            host._rota = iter(())
            left = _garbage()
        finally:
            gc.enable()
    # A few cycles belong to the loop and to gather; none may come with each instance.
    assert all(count < COUNT for count in left.values()), left.most_common(10)


async def test_an_evicted_instance_is_found_again(eventually: Any) -> None:
    """Its next event is handled as if it had never left."""
    async with app.serve(store="memory://") as node:
        await node.client.schedule_new_workflow(waits, input=1, instance_id="w")
        host = node.runtime.host
        actor = ActorId(node.runtime.engine.name, "w")
        await eventually(lambda: not host.busy and not node.runtime.engine.activities.known)
        assert host.evict(host.activations[actor])
        await node.client.raise_workflow_event("w", "never", data=7)
        assert (await node.client.wait_for_workflow_completion("w", timeout=30)).output == 7
