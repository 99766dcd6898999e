"""Code that hurts the process it runs in, beside code that does not.

A file `poison` in the folder arms it: deploying the right code is to delete that file.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

from perdure import ActivityContext, App, WorkflowContext

FOLDER = Path(os.environ["FOLDER"])
app = App("poison", replay_check="off")


def armed() -> bool:
    return (FOLDER / "poison").exists()


def note(name: str, text: str) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\n")


@app.activity
async def add(ctx: ActivityContext, number: int) -> int:
    return number + 1


@app.activity
def slow(ctx: ActivityContext, seconds: float) -> str:
    note("slow", ctx.instance_id)
    time.sleep(seconds)
    return "done"


@app.activity
def end_in_thread(ctx: ActivityContext) -> str:
    note("ends", f"{os.getpid()}")
    if armed():
        os._exit(3)
    return "harmless"


@app.activity
async def end_on_loop(ctx: ActivityContext) -> str:
    if armed():
        os._exit(3)
    return "harmless"


@app.activity
async def spin(ctx: ActivityContext) -> str:
    while True:
        pass


# --- workflows -----------------------------------------------------------------------------------------------------


@app.workflow
async def innocent(ctx: WorkflowContext, number: int) -> int:
    number = await ctx.call_activity(add, input=number)
    await ctx.create_timer(timedelta(milliseconds=50))
    return await ctx.call_activity(add, input=number)


@app.workflow
async def waiting(ctx: WorkflowContext, number: int) -> int:
    await ctx.wait_for_external_event("go")
    return await ctx.call_activity(add, input=number)


@app.workflow
async def long(ctx: WorkflowContext, seconds: float) -> str:
    return await ctx.call_activity(slow, input=seconds)


@app.workflow
async def spins(ctx: WorkflowContext) -> str:
    await ctx.call_activity(add, input=0)
    while armed():
        pass
    return "harmless"


@app.workflow
async def blocks(ctx: WorkflowContext) -> str:
    await ctx.call_activity(add, input=0)
    if armed():
        time.sleep(30)  # noqa: ASYNC251 - what workflow code must not do
    return "harmless"


@app.workflow
async def ends(ctx: WorkflowContext) -> str:
    await ctx.call_activity(add, input=0)
    if armed():
        os._exit(3)
    return "harmless"


@app.workflow
async def ends_in_replay(ctx: WorkflowContext) -> str:
    if armed():
        os._exit(3)
    await ctx.create_timer(timedelta(seconds=1))
    return "harmless"


@app.workflow
async def calls(ctx: WorkflowContext, activity: str) -> str:
    return await ctx.call_activity(activity)


if __name__ == "__main__":
    app.run(
        store=os.environ["STORE"],
        http_port=int(os.environ["PORT"]),
        drain_seconds=1,
        blocked_after=1.0,
        stuck_after=1.0,
    )
