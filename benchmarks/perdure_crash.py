"""What the killed process and its successor do, on Perdure. `crash.py` starts and kills them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks import activity_log
from benchmarks.activity_log import ActivityLog
from benchmarks.child import Spec
from benchmarks.perdure_subject import finish
from perdure import ActivityContext, App, WorkflowContext

app = App("crash")

_log: ActivityLog
#: Set in the process that is to be killed: its activities of `stuck` never end.
_hang = False


@app.activity
async def nap(ctx: ActivityContext, name: str) -> str:
    _log.began(name)
    await asyncio.sleep(0.05)
    _log.ended(name)
    return name


@app.workflow
async def naps(ctx: WorkflowContext, count: int) -> int:
    for at in range(count):
        await ctx.call_activity(nap, input=f"{ctx.instance_id}/{at}")
    return count


@app.activity
async def step(ctx: ActivityContext, name: str) -> str:
    if _hang:
        await asyncio.Event().wait()
    return name


@app.workflow
async def stuck(ctx: WorkflowContext) -> str:
    return await ctx.call_activity(step, input=ctx.instance_id)


def ids(count: int) -> list[str]:
    return [f"instance-{at:06}" for at in range(count)]


async def start_naps(spec: Spec) -> None:
    """Starts `count` instances of five activities each, and is killed while they run."""
    global _log
    _log = ActivityLog(spec.log)
    async with app.serve(store=spec.store, http_port=None) as node:

        async def start(name: str) -> None:
            await node.client.schedule_new_workflow(naps, input=5, instance_id=name)
            _log.accepted(name)

        await asyncio.gather(*(start(name) for name in ids(spec.count)))
        await asyncio.Event().wait()


async def start_stuck(spec: Spec) -> None:
    """Starts `count` instances whose activity does not end, says so, and is killed."""
    global _hang, _log
    _hang, _log = True, ActivityLog(spec.log)
    async with app.serve(store=spec.store, http_port=None) as node:

        async def start(name: str) -> None:
            await node.client.schedule_new_workflow(stuck, instance_id=name)
            _log.accepted(name)

        for begin in range(0, spec.count, 1000):
            await asyncio.gather(*(start(name) for name in ids(spec.count)[begin : begin + 1000]))
        print("started", flush=True)
        await asyncio.Event().wait()


async def await_all(spec: Spec) -> dict[str, float]:
    """The successor: does nothing but serve and look. When it served, and when all were done (Unix time)."""
    global _log
    _log = ActivityLog(spec.log)
    async with app.serve(store=spec.store, http_port=None) as node:
        serving = time.time()
        names = activity_log.accepted(Path(spec.log))
        await asyncio.gather(*(finish(node.client, name) for name in names))
        return {"serving": serving, "done": time.time()}


TASKS: dict[str, Callable[[Spec], Coroutine[Any, Any, Any]]] = {
    "start-naps": start_naps,
    "start-stuck": start_stuck,
    "await-all": await_all,
}
