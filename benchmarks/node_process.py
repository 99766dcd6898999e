"""One of several nodes that are measured together: does what it is told on its standard input, line by line.

`python -m benchmarks.node_process STORE` prints one line of JSON for each task when it is done.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.meter import memory_mb
from benchmarks.perdure_subject import PAYLOAD, app, chain, finish, wait_for_event
from benchmarks.result import Figures
from perdure import WorkflowClient
from perdure.app import loop_factory, tune
from perdure.node import Node, NodeOptions
from perdure.runtime import RuntimeOptions

#: Starts under way at a time, where very many are wanted.
STARTS = 500


async def work(node: Node, count: int) -> Figures:
    """W2: so many workflows of 5 activities, all at once, by this node's client."""
    client, cpu = node.client, time.process_time()
    spec = {"count": 5, "value": PAYLOAD}

    async def one() -> None:
        await finish(client, await client.schedule_new_workflow(chain, input=spec))

    begin = time.time()
    await asyncio.gather(*(one() for _ in range(count)))
    return {"begin": begin, "end": time.time(), "cpu": time.process_time() - cpu}


async def suspend(node: Node, count: int) -> Figures:
    """So many instances that wait for an event. The figures are those of memory, with them in it and not."""
    before = memory_mb()
    numbers = iter(range(count))

    async def some(client: WorkflowClient) -> None:
        for number in numbers:
            await client.schedule_new_workflow(wait_for_event, instance_id=f"waits-{node.node_id}-{number}")

    await asyncio.gather(*(some(node.client) for _ in range(STARTS)))
    return {"before": before, "after": memory_mb()}


async def owned(node: Node, count: int) -> Figures:
    """Waits until this node has all the partitions that the table gives it, and those are `count`."""
    placement, host = node.runtime.placement, node.runtime.host
    while True:
        table = placement.table
        assert table is not None
        held = table.held(placement.node)
        if len(held) == count and len(host.owned) == count:
            return {"at": time.time(), "active": len(host.activations)}
        await asyncio.sleep(0.001)


async def memory(node: Node, count: int) -> Figures:
    """Memory when at most `count` instances are left in it."""
    while len(node.runtime.host.activations) > count:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.1)
    return {"memory": memory_mb()}


TASKS: dict[str, Callable[[Node, int], Coroutine[Any, Any, Figures]]] = {
    task.__name__: task for task in (work, suspend, owned, memory)
}


async def serve(store: str, idle: float) -> None:
    options = NodeOptions(
        store=store, runtime=RuntimeOptions(workflow_idle=idle, max_active=1_000_000, replay_check="off")
    )
    began = time.time()
    node = app.node(options)
    await node.start()
    print(json.dumps({"began": began, "ready": time.time()}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, count = line.split()
        print(json.dumps(await TASKS[name](node, int(count))), flush=True)
    await node.stop()


def main() -> None:
    tune()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(sys.argv[1], float(sys.argv[2])))


if __name__ == "__main__":
    main()
