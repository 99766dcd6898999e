"""The app of a fault run, and the program of its nodes: python tests/chaos/program.py OPTIONS…"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

# As a program it is started by its path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from perdure import ActivityContext, Actor, App, WorkflowContext, logs
from perdure.app import loop_factory, tune
from perdure.membership import ClusterOptions
from perdure.node import NodeOptions
from perdure.statestore.urls import open_store
from tests.chaos.audit import AuditedStore

app = App("chaos", replay_check="sampled")
#: What ran, when and where, a line each; written at once, by all nodes.
_ledger = os.open(os.environ.get("LEDGER", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
_name = os.environ.get("NODE", "?")


@app.activity
async def step(ctx: ActivityContext, seconds: float) -> int:
    os.write(_ledger, f"{time.time():.4f} {_name} {ctx.workflow_id} {ctx.task_id}\n".encode())
    await asyncio.sleep(seconds)
    return 1


@app.activity
def blocking_step(ctx: ActivityContext, seconds: float) -> int:
    os.write(_ledger, f"{time.time():.4f} {_name} {ctx.workflow_id} {ctx.task_id}\n".encode())
    time.sleep(seconds)
    return 1


@app.workflow
async def child(ctx: WorkflowContext, steps: int) -> int:
    done = 0
    for _ in range(steps):
        done += await ctx.call_activity(step, input=0.005)
    return done


@app.workflow
async def walk(ctx: WorkflowContext, order: dict[str, Any]) -> dict[str, Any]:
    """Steps, a fan-out, a timer, a child workflow and a new execution, and then events until one says "end"."""
    done = order.get("done", 0)
    for _ in range(order["steps"]):
        done += await ctx.call_activity(step, input=0.01)
    if order.get("renew"):
        await ctx.create_timer(timedelta(milliseconds=50))
        ctx.continue_as_new({**order, "renew": order["renew"] - 1, "done": done})
        return {}
    if order.get("fan"):
        tasks = [ctx.call_activity(blocking_step, input=0.005) for _ in range(order["fan"])]
        for task in tasks:
            done += await task
    if order.get("child"):
        done += await ctx.call_child_workflow(child, input=order["child"])
    seen: list[str] = []
    while not seen or seen[-1] != "end":
        seen.append(await ctx.wait_for_external_event("go"))
    return {"done": done, "seen": seen}


@app.workflow
async def tick(ctx: WorkflowContext, seconds: float) -> None:
    """Goes on until it is terminated: what a take-over interrupts."""
    for _ in range(50):
        await ctx.call_activity(step, input=seconds)
    ctx.continue_as_new(seconds)


@app.actor
class Counter(Actor):
    """Counts what it was told to, and, by a reminder, once more for each of these."""

    async def add(self, number: int) -> int:
        count: int = (await self.state.get("count", int, default=0)) + number
        self.state.set("count", count)
        return count

    async def value(self) -> int:
        count: int = await self.state.get("count", int, default=0)
        return count


async def _serve(options: argparse.Namespace) -> None:
    store = AuditedStore(open_store(options.store), Path(options.audit), options.name)
    node = app.node(
        NodeOptions(
            store=store,
            host=options.host,
            http_port=options.http_port,
            cluster=ClusterOptions(placement=options.placement, peer_port=options.peer_port),
            exit_when_stuck=True,
            drain_seconds=2.0,
        )
    )
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await node.start()
    print(f"ready {node.node_id}", flush=True)
    try:
        await told.wait()
    finally:
        await node.stop()
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--audit", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=3500)
    parser.add_argument("--peer-port", type=int, default=50002)
    parser.add_argument("--placement", default="")
    options = parser.parse_args()
    logs.configure("INFO", as_json=False)
    tune()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(options))


if __name__ == "__main__":
    main()
