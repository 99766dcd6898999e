"""What counts how many run at a time, and apps that are limited."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from perdure import ActivityContext, App, WorkflowContext, when_all


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


def engine_of(node: Any) -> Any:
    return node.runtime.engine
