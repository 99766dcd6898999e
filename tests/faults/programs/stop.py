"""Activities that take as long as they are told, and write down that they began and ended."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from perdure import ActivityContext, App, WorkflowContext

FOLDER = Path(os.environ["FOLDER"])
app = App("stop", replay_check="off")


def note(name: str, text: str) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\n")


def seconds(given: float) -> float:
    """Later processes are told to be quick."""
    return 0.0 if (FOLDER / "quick").exists() else given


@app.activity
async def on_loop(ctx: ActivityContext, given: float) -> str:
    note("began", ctx.idempotency_key)
    await asyncio.sleep(seconds(given))
    note("ended", ctx.idempotency_key)
    return "done"


@app.activity
def in_thread(ctx: ActivityContext, given: float) -> str:
    note("began", ctx.idempotency_key)
    time.sleep(seconds(given))
    note("ended", ctx.idempotency_key)
    return "done"


@app.workflow
async def one(ctx: WorkflowContext, order: tuple[str, float]) -> str:
    return await ctx.call_activity(order[0], input=order[1])


@app.workflow
async def two(ctx: WorkflowContext, order: tuple[str, float]) -> str:
    await ctx.call_activity(order[0], input=order[1])
    return await ctx.call_activity(order[0], input=0)


@app.workflow
async def waits(ctx: WorkflowContext) -> str:
    return await ctx.wait_for_external_event("go")


if __name__ == "__main__":
    app.run(
        store=os.environ["STORE"],
        http_port=int(os.environ["PORT"]),
        drain_seconds=float(os.environ["DRAIN"]),
    )
