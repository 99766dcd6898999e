"""Starts for later, keys, and runs once more, over each store that nodes share, asked of whichever node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Node, RuntimeStatus, WorkflowContext
from perdure.errors import KeyReused
from perdure.statestore import MemoryStore
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_server

#: Instances of each kind, so that some are with each node.
COUNT = 8


@pytest.fixture(scope="module", params=["memory", "redis", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryStore(shared=True)
    elif request.param == "redis":
        with redis_server() as redis:
            yield redis.url()
    else:
        with postgres_server() as postgres:
            yield postgres.url()


def app() -> App:
    app = App("shop", replay_check="always")

    @app.activity
    async def double(ctx: Any, number: int) -> int:
        return 2 * number

    @app.workflow
    async def twice(ctx: WorkflowContext, number: int) -> int:
        return await ctx.call_activity(double, input=number)

    @app.workflow
    async def listen(ctx: WorkflowContext, count: int) -> list[Any]:
        return [await ctx.wait_for_external_event("x") for _ in range(count)]

    return app


@pytest.fixture
async def nodes(store: Any) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(app().serve(store=store)) for _ in range(2)]


async def test_starts_for_later(nodes: list[Node]) -> None:
    soon = timedelta(milliseconds=500)
    ids = await asyncio.gather(
        *(
            nodes[n % 2].client.schedule_new_workflow(
                "twice", input=n, start_at=soon, instance_id=f"later-{n}"
            )
            for n in range(COUNT)
        )
    )
    for n, id in enumerate(ids):
        state = await nodes[1 - n % 2].client.wait_for_workflow_completion(id, timeout=60)
        assert state.output == 2 * n
        assert state.scheduled_at is not None
        assert state.started_at is not None
        assert state.started_at >= state.scheduled_at


async def test_keys(nodes: list[Node]) -> None:
    for n in range(COUNT):
        found = {
            await node.client.schedule_new_workflow("listen", input=2, idempotency_key=f"key {n}")
            for node in [*nodes, *nodes]
        }
        (id,) = found
        for event in range(2):
            for node in nodes:
                await node.client.raise_workflow_event(id, "x", data=event, event_id=str(event))
        state = await nodes[n % 2].client.wait_for_workflow_completion(id, timeout=60)
        assert (state.output, state.generation) == ([0, 1], 1)
        await nodes[0].client.purge_workflow(id)
        for node in nodes:
            assert (
                await node.client.schedule_new_workflow("listen", input=2, idempotency_key=f"key {n}") == id
            )
            with pytest.raises(KeyReused):
                await node.client.schedule_new_workflow("listen", input=3, idempotency_key=f"key {n}")
        assert await nodes[1].client.get_workflow_state(id) is None


async def test_what_gives_way(nodes: list[Node]) -> None:
    for n in range(COUNT):
        id = f"place-{n}"
        await nodes[0].client.schedule_new_workflow("listen", input=1, instance_id=id)
        await nodes[1].client.schedule_new_workflow("twice", input=1, instance_id=id, if_exists="return")
        state = await nodes[0].client.get_workflow_state(id)
        assert state is not None
        assert (state.name, state.runtime_status.finished) == ("listen", False)
        await nodes[1].client.schedule_new_workflow("twice", input=n, instance_id=id, if_exists="replace")
        state = await nodes[0].client.wait_for_workflow_completion(id, timeout=60)
        assert (state.name, state.output, state.generation) == ("twice", 2 * n, 2)


async def test_running_again(nodes: list[Node]) -> None:
    for n in range(COUNT):
        id = f"first-{n}"
        await nodes[0].client.schedule_new_workflow("twice", input=n, instance_id=id)
        state = await nodes[0].client.wait_for_workflow_completion(id, timeout=60)
        assert state.runtime_status is RuntimeStatus.COMPLETED
        for number, node in enumerate(nodes):
            again = await node.client.rerun_workflow(
                id, from_event=1, new_instance_id=f"again-{n}-{number}", input=100
            )
            state = await node.client.wait_for_workflow_completion(again, timeout=60)
            assert (state.input, state.output) == (n, 200)
