"""A client that asks the node that does not have the instance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from perdure import App, Node, RuntimeStatus, WorkflowClient
from perdure.errors import AlreadyExists, InstanceNotFound, InvalidState, KeyReused
from perdure.placement.hashing import partition_of
from perdure.statestore import MemoryStore

WORKFLOW = "dapr.internal.default.shop.workflow"


@pytest.fixture
async def two(app: App, eventually: Any) -> AsyncIterator[list[Node]]:
    store = MemoryStore(partitions=16, shared=True)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(app.serve(store=store, http_port=0)) for _ in range(2)]
        await eventually(
            lambda: all(len(node.runtime.host.owned) == 8 for node in nodes), "each has its half"
        )
        yield nodes


def id_on(node: Node) -> str:
    """An instance id that this node owns."""
    table = node.runtime.placement.table
    assert table is not None
    return next(
        id
        for id in (f"w-{number}" for number in range(1000))
        if table.owner(WORKFLOW, partition_of(id, table.partitions)) == node.node_id
    )


async def test_a_whole_life_on_the_other_node(two: list[Node]) -> None:
    one, other = two
    id = id_on(other)
    async with WorkflowClient(str(one.url)) as client:
        await client.schedule_new_workflow("listen", instance_id=id, idempotency_key="k", tags={"a": "b"})
        assert other.runtime.engine.actor(id) in other.runtime.host.activations
        assert (
            await client.schedule_new_workflow("listen", instance_id=id, idempotency_key="k", tags={"a": "b"})
            == id
        )
        assert (await client.wait_for_workflow_start(id, timeout=30)).tags == {"a": "b"}
        with pytest.raises(AlreadyExists):
            await client.schedule_new_workflow("listen", instance_id=id)
        with pytest.raises(KeyReused):
            await client.schedule_new_workflow("listen", instance_id=id, idempotency_key="k", input=1)
        with pytest.raises(InvalidState):
            await client.purge_workflow(id)
        await client.pause_workflow(id)
        await client.resume_workflow(id)
        await client.raise_workflow_event(id, "go", data="ä", event_id="e")
        await client.raise_workflow_event(id, "go", data="ä", event_id="e")
        state = await client.wait_for_workflow_completion(id, timeout=30)
        assert (state.runtime_status, state.output) == (RuntimeStatus.COMPLETED, "ä")
        assert await client.history(id) == await other.client.history(id)
        assert [found.instance_id for found in (await client.list()).items] == [id]
        await client.purge_workflow(id)
        with pytest.raises(InstanceNotFound):
            await client.wait(id, timeout=20)
