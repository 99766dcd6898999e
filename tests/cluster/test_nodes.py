"""Several nodes in one process, over a store that they share: real links, real placement, no server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from perdure import ActivityContext, Actor, App, WorkflowContext
from perdure.clustered import Clustered
from perdure.errors import ConfigurationError, NotRegistered
from perdure.membership import ClusterOptions
from perdure.node import Node
from perdure.security import Security
from perdure.statestore import MemoryStore
from perdure.statestore.partitions import partition_of
from tests.waiting import eventually

PATIENCE = 30.0
TYPE = "dapr.internal.default.shop.workflow"


def shop(namespace: str = "default") -> App:
    app = App("shop", namespace=namespace)

    @app.activity
    async def charge(ctx: ActivityContext, amount: int) -> int:
        return amount * 2

    @app.workflow
    async def order(ctx: WorkflowContext, amount: int) -> int:
        total: int = await ctx.call_activity(charge, input=amount)
        await ctx.wait_for_external_event("go")
        return total

    @app.actor
    class Counter(Actor):
        async def add(self, number: int) -> int:
            count: int = (await self.state.get("count", int, default=0)) + number
            self.state.set("count", count)
            return count

        async def kind(self) -> str:
            return self.type

    return app


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(partitions=32, shared=True)


def owned(node: Node) -> int:
    return len(node.runtime.host.owned)


async def test_two_nodes_share_the_work(store: MemoryStore) -> None:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(shop().serve(store=store)) for _ in range(2)]
        # Two types: workflows and the counter.
        await eventually(lambda: owned(one) == owned(two) == 32, "each has its half")
        ids = [f"order-{number}" for number in range(40)]
        await asyncio.gather(
            *(one.client.schedule_new_workflow("order", instance_id=id, input=4) for id in ids)
        )
        await asyncio.gather(*(two.client.raise_workflow_event(id, "go") for id in ids))
        states = await asyncio.gather(
            *(one.client.wait_for_workflow_completion(id, timeout=PATIENCE) for id in ids)
        )
        assert {state.serialized_output for state in states} == {"8"}
        both = [node.describe()["activations"]["dapr.internal.default.shop.workflow"] for node in (one, two)]
        assert min(both) > 5, "both had some of them"


async def test_who_stops_in_good_order_is_missed_by_nobody(store: MemoryStore) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(shop().serve(store=store))
        async with shop().serve(store=store) as two:
            await eventually(lambda: owned(one) == owned(two) == 32, "each has its half")
            ids = [f"order-{number}" for number in range(20)]
            for id in ids:
                await one.client.schedule_new_workflow("order", instance_id=id, input=1)
            table = one.runtime.placement.table
            assert table is not None
            before = table.name
        await eventually(lambda: owned(one) == 64, "the other one has everything")
        # It was given back: what is woken here is not suspected of having killed anybody. (On a machine that is very
        # busy some may have been taken before.)
        assert sum(held.crashed for held in one.runtime.host.owned.values()) < 32
        table = one.runtime.placement.table
        assert table is not None
        assert table.name > before
        for id in ids:
            await one.client.raise_workflow_event(id, "go")
            await one.client.wait_for_workflow_completion(id, timeout=PATIENCE)


async def test_the_first_node_leads_and_hands_on(store: MemoryStore) -> None:
    async with AsyncExitStack() as stack:
        async with shop().serve(store=store) as one:
            two = await stack.enter_async_context(shop().serve(store=store))
            assert (one.figures().leads, two.figures().leads) == (True, False)
        await eventually(lambda: two.figures().leads, "the other one leads")
        await eventually(lambda: owned(two) == 64, "and has everything")
        await two.client.schedule_new_workflow("order", instance_id="after", input=1)


async def test_namespaces_do_not_see_each_other(store: MemoryStore) -> None:
    async with AsyncExitStack() as stack:
        default, other = [
            await stack.enter_async_context(shop(namespace).serve(store=store))
            for namespace in ("default", "prod")
        ]
        assert await default.call_actor(_counter("x"), "add", b"1") == b"1"
        assert await other.call_actor(_counter("x"), "add", b"5") == b"5"
        assert await default.call_actor(_counter("x"), "add", b"1") == b"2"
        assert await other.call_actor(_counter("x"), "kind", None) == b'"Counter"'
        assert other.describe()["actor_types"] == ["Counter", "dapr.internal.prod.shop.workflow"]
        page = await other.actors.keys(_counter("x"))
        assert [key for key, _ in page.items if key == "count"] == ["count"]
        for node in (default, other):
            await node.client.schedule_new_workflow("order", instance_id="same", input=1)
        assert (await default.client.get_workflow_state("same")) is not None


def _counter(id: str) -> Any:
    from perdure.statestore import ActorId

    return ActorId("Counter", id)


async def test_an_actor_of_another_app_is_called_where_it_is(store: MemoryStore) -> None:
    front = App("front")
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(front.serve(store=store))
        with pytest.raises(NotRegistered, match="registered are: none"):
            await node.call_actor(_counter("x"), "add", b"1")
        await stack.enter_async_context(shop().serve(store=store))
        await eventually(
            lambda: (
                "Counter" in (node.runtime.placement.table.owners if node.runtime.placement.table else ())
            ),
            "the table tells of the other app",
        )
        assert await node.call_actor(_counter("x"), "add", b"3") == b"3"


async def test_whoever_has_not_the_token_is_refused(store: MemoryStore) -> None:
    secret = ClusterOptions(security=Security(token="secret"))
    async with shop().serve(store=store, cluster=secret) as one:
        stranger = shop().node(one.options)
        wrong = ClusterOptions(security=Security(token="guess"))
        stranger.options = type(one.options)(store=store, cluster=wrong)
        with pytest.raises(ConfigurationError, match="does not accept this node's cluster token"):
            await stranger.start()
        assert owned(one) == 64


async def test_activities_go_past_a_node_that_has_just_died(store: MemoryStore) -> None:
    """Its death shows in the table a second later; who it has owned waits for that, but no other."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(shop().serve(store=store))
        two = shop().node(one.options)
        await two.start()
        await eventually(lambda: owned(one) == owned(two) == 32, "each has its half")
        mine = [
            f"order-{number}"
            for number in range(200)
            if one.runtime.router._locator.owner(TYPE, partition_of(f"order-{number}", 32)) == one.node_id
        ]
        assert isinstance(two._membership, Clustered)
        # As a killed process: the port and every link are gone, and placement has not been told.
        await two._membership._server.stop()
        table = one.runtime.placement.table
        await asyncio.gather(
            *(one.client.schedule_new_workflow("order", instance_id=id, input=4) for id in mine)
        )
        await asyncio.gather(*(one.client.raise_workflow_event(id, "go") for id in mine))
        await asyncio.gather(*(one.client.wait_for_workflow_completion(id, timeout=PATIENCE) for id in mine))
        assert one.runtime.placement.table is table, "all that was before anybody knew"
        await two.stop(drain_seconds=0)
