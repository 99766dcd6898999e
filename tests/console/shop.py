"""An app whose instances come to rest in every state that the console shows."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from perdure import (
    ActivityContext,
    Actor,
    App,
    NonRetriableError,
    RetryPolicy,
    WorkflowContext,
    when_all,
    when_any,
)

#: What somebody who means harm would call a workflow, an instance and an event.
EVIL = '<img src=x onerror="document.title=666">'

SOON = RetryPolicy(
    first_retry_interval=timedelta(milliseconds=30), max_number_of_attempts=3, backoff_coefficient=2
)
LATER = RetryPolicy(first_retry_interval=timedelta(hours=2), max_number_of_attempts=3)


class Shop:
    """The app, and what its tests change of it. `gate`: what activities wait for."""

    def __init__(self, *, changed: bool = False) -> None:
        #: The code is another than it was when the instances began.
        self.changed = changed
        self.gate = asyncio.Event()
        self.app = App("shop", replay_check="off")
        self._activities()
        self._workflows()
        self._more_workflows()
        self._actors()

    def _activities(self) -> None:
        app, gate = self.app, self.gate

        @app.activity
        async def reserve(ctx: ActivityContext, order: Any) -> str:
            await asyncio.sleep(0.02)
            return "r-1"

        @app.activity
        async def charge(ctx: ActivityContext, amount: float) -> dict[str, Any]:
            await asyncio.sleep(0.03)
            return {"receipt": "c-77", "amount": amount}

        @app.activity
        async def ship(ctx: ActivityContext, order: Any) -> None:
            await gate.wait()

        @app.activity
        async def flaky(ctx: ActivityContext) -> str:
            if ctx.task_id < 6:
                raise ConnectionError("the carrier does not answer")
            return "at last"

        @app.activity
        async def broken(ctx: ActivityContext) -> None:
            raise NonRetriableError("card declined: 15,000.00 EUR")

        @app.activity
        async def down(ctx: ActivityContext) -> None:
            raise ConnectionError("connection refused")

    def _workflows(self) -> None:
        app, shop = self.app, self

        @app.workflow
        async def order(ctx: WorkflowContext, order: Any) -> Any:
            ctx.set_custom_status({"step": "reserving"})
            await ctx.call_activity("reserve", input=order)
            ctx.set_custom_status({"step": "waiting for approval"})
            approval = await ctx.wait_for_external_event("approval", timeout=timedelta(hours=24))
            receipt = await ctx.call_activity("charge", input=order["cost"])
            await ctx.call_activity("flaky", retry_policy=SOON)
            ctx.set_custom_status({"step": "shipped"})
            return {"processed": True, "approved_by": approval, **receipt}

        @app.workflow
        async def quick(ctx: WorkflowContext, value: Any) -> Any:
            return value

        @app.workflow
        async def listener(ctx: WorkflowContext) -> Any:
            if shop.changed:
                await ctx.call_activity("charge", input=1)
            first = await ctx.wait_for_external_event("first")
            return [first, await ctx.wait_for_external_event("second")]

        @app.workflow
        async def fails(ctx: WorkflowContext) -> None:
            await ctx.call_activity("broken")

        @app.workflow
        async def waits(ctx: WorkflowContext) -> Any:
            tasks: list[Any] = [
                ctx.call_activity("ship", input={"to": "Ada"}),
                ctx.call_activity("down", retry_policy=LATER),
                ctx.call_activity("unknown", app_id="elsewhere"),
                ctx.create_timer(timedelta(hours=3)),
                ctx.wait_for_external_event("go"),
                ctx.wait_for_external_event("approval", timeout=timedelta(hours=1)),
                ctx.call_child_workflow("listener", instance_id=f"{ctx.instance_id}-child"),
            ]
            return await when_all(tasks)

        if not shop.changed:

            @app.workflow(name=EVIL)
            async def evil(ctx: WorkflowContext, value: Any) -> Any:
                ctx.set_custom_status(EVIL)
                return [value, await ctx.wait_for_external_event(EVIL)]

    def _more_workflows(self) -> None:
        app = self.app

        @app.workflow
        async def cancels(ctx: WorkflowContext) -> Any:
            timer = ctx.create_timer(timedelta(hours=1))
            event = ctx.wait_for_external_event("first", timeout=timedelta(hours=2))
            await when_any([timer, event])
            return await ctx.wait_for_external_event("second")

        @app.workflow
        async def many(ctx: WorkflowContext, number: int) -> int:
            for _ in range(number // 500):
                await when_all([ctx.call_activity("count", input=n) for n in range(500)])
            await ctx.wait_for_external_event("end")
            return number

        @app.activity
        async def count(ctx: ActivityContext, number: int) -> int:
            return number

    def _actors(self) -> None:
        @self.app.actor
        class Cart(Actor):
            async def add(self, item: str) -> int:
                items = await self.state.get("items", list, default=[])
                self.state.set("items", [*items, item])
                self.state.set("owner", {"name": "Ada", "since": 2026})
                await self.set_reminder("checkout", timedelta(days=1))
                return len(items) + 1

            async def on_reminder(self, name: str, data: object) -> None: ...
