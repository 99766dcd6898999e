"""What is counted against an instance after a crash, and what is not."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure import ActivityContext, App, WorkflowContext


async def test_being_read_again_is_not_dying_again(place: Any, eventually: Any, evict: Any) -> None:
    """A long activity goes on while its instance leaves memory and comes back, in a process after a crash."""
    app = App("k")
    go = asyncio.Event()
    ran: list[str] = []

    @app.activity
    async def long(ctx: ActivityContext) -> str:
        ran.append(ctx.idempotency_key)
        await go.wait()
        return "done"

    @app.workflow
    async def work(ctx: WorkflowContext) -> list[Any]:
        task = ctx.call_activity(long)
        events = [await ctx.wait_for_external_event("x") for _ in range(6)]
        return [await task, events]

    async def nothing(*_: Any) -> None:
        """A process that dies gives nothing back."""

    async with place.serve(app, drain_seconds=0) as node:
        await node.client.schedule_new_workflow(work, instance_id="w")
        await eventually(lambda: len(ran) == 1)
        place.last.release = nothing
    async with place.serve(app) as node:
        assert all(owned.crashed for owned in node.runtime.host.owned.values())
        await eventually(lambda: len(ran) == 2)

        def behaviour() -> Any:
            return node.runtime.host.activations[node.runtime.engine.actor("w")].behaviour

        assert behaviour().instance.meta.task_deaths == {0: 1}
        behaviour().suspicion._survived(behaviour().instance, {0: 1})  # ten seconds later
        for n in range(6):
            await eventually(lambda: evict(node, "w"))
            await node.client.raise_workflow_event("w", "x", data=n)
            assert not behaviour().instance.meta.task_deaths
            await eventually(lambda: not behaviour().instance.meta.deaths)  # its code has run
        go.set()
        state = await node.client.wait_for_workflow_completion("w", timeout=30)
        assert state.output == ["done", list(range(6))]
        assert len(ran) == 2
