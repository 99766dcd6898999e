"""What size does: many finished or suspended instances in the store, many in flight, a long history."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import child
from benchmarks.child import Spec
from benchmarks.fill import copy_instance
from benchmarks.meter import Meter, latency_ms, memory_mb
from benchmarks.perdure_subject import PAYLOAD, app, chain, echo, finish, wait_for_event
from benchmarks.result import Figures, Row
from benchmarks.sizes import Sizes
from perdure import ActivityContext, WorkflowContext
from perdure.statestore.contract import ActorId

#: The internal actor type of this app's workflows.
TYPE = f"dapr.internal.default.{app.app_id}.workflow"
SUBJECT = "Perdure, SQLite FULL"


#: Set in this process when its instance has all of its history.
_grown = asyncio.Event()


@app.activity
async def say_grown(ctx: ActivityContext) -> None:
    _grown.set()


@app.workflow
async def long_history(ctx: WorkflowContext, count: int) -> int:
    for _ in range(count):
        await ctx.call_activity(echo, input=PAYLOAD)
    await ctx.call_activity(say_grown)
    await ctx.wait_for_external_event("go")
    return count


def rows(name: str, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The figures of one of the titles W8, finished and history."""
    spec = Spec("perdure", "", f"sqlite:///{folder}/benchmark.db", 0)
    if name == "finished":
        yield from _finished(sizes, spec)
    elif name == "history":
        yield from _history(sizes, spec)
    else:
        figures = child.run(replace(spec, task="fill-suspended", count=sizes.suspended))
        figures |= child.run(replace(spec, task="serve-suspended", count=sizes.suspended))
        yield Row(name, f"{SUBJECT}, {sizes.suspended:,} suspended", figures)


def _finished(sizes: Sizes, spec: Spec) -> Iterator[Row]:
    there = 0
    for wanted in (0, *sizes.finished):
        if wanted > there:
            child.run(replace(spec, task="fill-finished", count=wanted, in_flight=there))
            there = wanted
        figures = child.run(replace(spec, task="W2", count=sizes.instances))
        yield Row("finished", f"{SUBJECT}, {wanted:,} finished", figures)


def _history(sizes: Sizes, spec: Spec) -> Iterator[Row]:
    spec = replace(spec, count=sizes.history // 2)
    figures = child.run(replace(spec, task="grow-history"))
    figures |= child.run(replace(spec, task="replay-history"))
    yield Row("history", f"{SUBJECT}, {sizes.history:,} events", figures)


# --- what the children do ----------------------------------------------------------------------------------------


async def fill_finished(spec: Spec) -> Figures:
    """Makes copies of a finished instance of W2, from `in_flight` to `count`."""
    async with app.serve(store=spec.store, http_port=None) as node:
        source = f"source-{spec.in_flight}"
        await node.client.schedule_new_workflow(
            chain, input={"count": 5, "value": PAYLOAD}, instance_id=source
        )
        await finish(node.client, source)
    with Meter() as meter:
        await copy_instance(spec.store, ActorId(TYPE, source), spec.in_flight, spec.count)
    return {"fill s": meter.wall}


async def fill_suspended(spec: Spec) -> Figures:
    """Makes copies of an instance that waits for an event."""
    async with app.serve(store=spec.store, http_port=None) as node:
        await node.client.schedule_new_workflow(wait_for_event, instance_id="source")
    with Meter() as meter:
        await copy_instance(spec.store, ActorId(TYPE, "source"), 0, spec.count)
    return {"fill s": meter.wall}


async def serve_suspended(spec: Spec) -> Figures:
    """How soon a node serves and what memory it needs, at first and after waking a thousand."""
    begin = time.perf_counter()
    async with app.serve(store=spec.store, http_port=None) as node:
        serving = time.perf_counter() - begin
        at_first = memory_mb()
        taken: list[float] = []
        for number in random.Random(1).sample(range(spec.count), min(1000, spec.count)):
            name = f"copy-{number:07}"
            begin = time.perf_counter()
            await node.client.raise_workflow_event(name, "go", data=PAYLOAD)
            await finish(node.client, name)
            taken.append(time.perf_counter() - begin)
        return {
            "serving s": serving,
            "memory MB": at_first,
            "memory MB, 1,000 woken": memory_mb(),
            **{f"wake {name}": value for name, value in latency_ms(taken).items()},
        }


async def grow_history(spec: Spec) -> Figures:
    """One instance runs `count` activities and then waits."""
    async with app.serve(store=spec.store, http_port=None) as node:
        with Meter() as meter:
            await node.client.schedule_new_workflow(long_history, input=spec.count, instance_id="long")
            await _grown.wait()
        return {"grow s": meter.wall, "ms/activity": meter.wall * 1000 / spec.count}


async def replay_history(spec: Spec) -> Figures:
    """Another process wakes it: the whole history is read and replayed, and others must not feel it."""
    async with app.serve(store=spec.store, http_port=None) as node:
        stalls: list[float] = []
        watch = asyncio.create_task(_watch(stalls))
        with Meter() as meter:
            await node.client.raise_workflow_event("long", "go")
            await finish(node.client, "long")
        watch.cancel()
        return {"replay s": meter.wall, "longest stall ms": max(stalls) * 1000, "memory MB": memory_mb()}


async def _watch(stalls: list[float]) -> None:
    """How late the loop wakes whoever wants to be woken at once."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        stalls.append(time.perf_counter() - begin - 0.001)


TASKS: dict[str, Callable[[Spec], Coroutine[Any, Any, Any]]] = {
    "fill-finished": fill_finished,
    "fill-suspended": fill_suspended,
    "serve-suspended": serve_suspended,
    "grow-history": grow_history,
    "replay-history": replay_history,
}
