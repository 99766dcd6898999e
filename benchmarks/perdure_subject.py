"""The workloads on Perdure: one node in this process, driven by its own client on the same event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from benchmarks.commits import CommitCount, counting
from benchmarks.meter import Meter, latency_ms
from benchmarks.result import Figures
from perdure import ActivityContext, App, RuntimeStatus, WorkflowClient, WorkflowContext, when_all

Payload = dict[str, Any]
PAYLOAD: Payload = {"id": 1, "text": "x" * 20}

app = App("benchmark")

#: When the code of W4 came by, how late that of W6 did. Code that is replayed for a check comes by again: the first
#: time counts.
_seen: dict[object, float] = {}


def _came_by(mark: object) -> None:
    _seen.setdefault(mark, time.perf_counter())


@app.activity
async def echo(ctx: ActivityContext, value: Payload) -> Payload:
    return value


@app.workflow
async def chain(ctx: WorkflowContext, spec: dict[str, Any]) -> Payload:
    value: Payload = spec["value"]
    for _ in range(spec["count"]):
        value = await ctx.call_activity(echo, input=value)
    return value


@app.workflow
async def sequence(ctx: WorkflowContext, count: int) -> Payload:
    value = PAYLOAD
    for at in range(count):
        value = await ctx.call_activity(echo, input=value)
        _came_by(at)
    return value


@app.workflow
async def fan_out(ctx: WorkflowContext, count: int) -> int:
    return len(await when_all([ctx.call_activity(echo, input=PAYLOAD) for _ in range(count)]))


@app.workflow
async def wait_for_event(ctx: WorkflowContext) -> Payload:
    return await ctx.wait_for_external_event("go", type=dict[str, Any])


@app.workflow
async def timer(ctx: WorkflowContext, seconds: float) -> None:
    due = ctx.current_utc_datetime + timedelta(seconds=seconds)
    await ctx.create_timer(due)
    _seen.setdefault(ctx.instance_id, time.time() - due.timestamp())


async def finish(client: WorkflowClient, instance_id: str) -> None:
    """Waits for an instance and does not accept a failed one as work done."""
    state = await client.wait_for_workflow_completion(instance_id, timeout=600)
    if state.runtime_status is not RuntimeStatus.COMPLETED:
        raise RuntimeError(f"{instance_id} is {state.runtime_status}: {state.failure_details}")


async def w1(client: WorkflowClient, count: int, commits: CommitCount) -> Figures:
    spec = {"count": 10, "value": PAYLOAD}
    taken: list[float] = []
    commits.reset()
    with Meter() as meter:
        for _ in range(count):
            begin = time.perf_counter()
            await finish(client, await client.schedule_new_workflow(chain, input=spec))
            taken.append(time.perf_counter() - begin)
    return {
        **latency_ms(taken),
        "CPU ms/activity": meter.cpu * 1000 / (10 * count),
        "commits/activity": commits.commits / (10 * count),
    }


async def w2(client: WorkflowClient, count: int, commits: CommitCount) -> Figures:
    spec = {"count": 5, "value": PAYLOAD}

    async def one() -> None:
        await finish(client, await client.schedule_new_workflow(chain, input=spec))

    commits.reset()
    with Meter() as meter:
        await asyncio.gather(*(one() for _ in range(count)))
    return {
        "activities/s": 5 * count / meter.wall,
        "workflows/s": count / meter.wall,
        "CPU ms/activity": meter.cpu * 1000 / (5 * count),
        "commits/activity": commits.commits / (5 * count),
        "commits/batch": commits.commits / max(1, commits.batches),
    }


async def w3(client: WorkflowClient, count: int, commits: CommitCount) -> Figures:
    commits.reset()
    with Meter() as meter:
        await finish(client, await client.schedule_new_workflow(fan_out, input=count))
    return {
        "wall s": meter.wall,
        "activities/s": count / meter.wall,
        "CPU ms/activity": meter.cpu * 1000 / count,
        "commits/activity": commits.commits / count,
    }


async def w4(client: WorkflowClient, count: int, commits: CommitCount) -> Figures:
    _seen.clear()
    commits.reset()
    with Meter() as meter:
        await finish(client, await client.schedule_new_workflow(sequence, input=count))
    part = min(200, count // 4)
    return {
        "wall s": meter.wall,
        "first ms/activity": (_seen[part] - _seen[0]) * 1000 / part,
        "last ms/activity": (_seen[count - 1] - _seen[count - 1 - part]) * 1000 / part,
        "CPU ms/activity": meter.cpu * 1000 / count,
        "commits/activity": commits.commits / count,
    }


async def w5(client: WorkflowClient, count: int, in_flight: int, commits: CommitCount) -> Figures:
    taken: list[float] = []
    for _ in range(count):
        instance = await client.schedule_new_workflow(wait_for_event)
        begin = time.perf_counter()
        await client.raise_workflow_event(instance, "go", data=PAYLOAD)
        await finish(client, instance)
        taken.append(time.perf_counter() - begin)
    instances = await asyncio.gather(
        *(client.schedule_new_workflow(wait_for_event) for _ in range(in_flight))
    )
    waiting = iter(instances)

    async def clerk() -> None:
        for instance in waiting:
            await client.raise_workflow_event(instance, "go", data=PAYLOAD)
            await finish(client, instance)

    commits.reset()
    with Meter() as meter:
        await asyncio.gather(*(clerk() for _ in range(32)))
    return {
        **latency_ms(taken),
        "events/s, 32 in flight": in_flight / meter.wall,
        "CPU ms/event": meter.cpu * 1000 / in_flight,
        "commits/event": commits.commits / in_flight,
    }


async def w6(client: WorkflowClient, count: int, commits: CommitCount) -> Figures:
    _seen.clear()

    async def one() -> str:
        instance = await client.schedule_new_workflow(timer, input=1.0)
        await finish(client, instance)
        return instance

    commits.reset()
    with Meter() as meter:
        instances = await asyncio.gather(*(one() for _ in range(count)))
    late = [_seen[instance] for instance in instances]
    return {
        "total s": meter.wall,
        "latest s": max(late),
        "early": sum(value < 0 for value in late),
        "CPU ms/timer": meter.cpu * 1000 / count,
        "commits/timer": commits.commits / count,
    }


async def run(workload: str, count: int, in_flight: int, store: str) -> Figures:
    """One workload once, on a node of this process."""
    async with app.serve(store=store, http_port=None) as node:
        client = node.client
        with counting() as commits:
            await w1(client, 20, commits)  # so that what is loaded and compiled only once is not measured
            workloads: dict[str, Callable[[], Coroutine[Any, Any, Figures]]] = {
                "W1": lambda: w1(client, count, commits),
                "W2": lambda: w2(client, count, commits),
                "W3": lambda: w3(client, count, commits),
                "W4": lambda: w4(client, count, commits),
                "W5": lambda: w5(client, count, in_flight, commits),
                "W6": lambda: w6(client, count, commits),
            }
            return await workloads[workload]()
