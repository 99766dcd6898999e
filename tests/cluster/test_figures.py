"""What nodes say of themselves to each other, and what is shown of one that says nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from perdure import ActivityContext, Actor, App, WorkflowContext
from perdure.cluster_view import ClusterView, NodeView
from perdure.figures import FIGURES
from perdure.membership import ClusterOptions
from perdure.node import Node
from perdure.statestore import MemoryStore
from tests.waiting import eventually

WORKFLOW = "dapr.internal.default.shop.workflow"


class Shop:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.app = App("shop")

        @self.app.activity
        async def ship(ctx: ActivityContext) -> None:
            await self.gate.wait()

        @self.app.workflow
        async def order(ctx: WorkflowContext) -> None:
            await ctx.call_activity(ship)

        @self.app.actor
        class Cart(Actor):
            async def add(self) -> None:
                self.state.set("n", 1)


@pytest.fixture
async def shops() -> list[Shop]:
    return [Shop(), Shop()]


@pytest.fixture
async def nodes(shops: list[Shop]) -> AsyncIterator[list[Node]]:
    store = MemoryStore(partitions=16, shared=True)
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for shop, weight in zip(shops, (1, 3), strict=True):
            serving = shop.app.serve(store=store, cluster=ClusterOptions(weight=weight))
            nodes.append(await stack.enter_async_context(serving))
        for shop in shops:
            stack.callback(shop.gate.set)
        one, two = nodes
        await eventually(
            lambda: len(one.runtime.host.owned) == 8 and len(two.runtime.host.owned) == 24, "both shares"
        )
        yield nodes


def of(found: ClusterView, node: Node) -> NodeView:
    return next(one for one in found.nodes if one.node == node.node_id)


async def test_every_node_is_asked(nodes: list[Node]) -> None:
    one, two = nodes
    for number in range(20):
        await one.client.schedule_new_workflow("order", instance_id=f"o-{number}")

    def busy() -> bool:
        return sum(node.runtime.engine.activities.running for node in nodes) == 20

    await eventually(busy, "all activities run")
    found = await one.cluster()
    assert [(of(found, node).this, of(found, node).weight) for node in nodes] == [(True, 1), (False, 3)]
    assert [of(found, node).leads for node in nodes] == [True, False]
    assert of(found, two).partitions == {"Cart": 12, WORKFLOW: 12}
    heard = [of(found, node).heard for node in nodes]
    assert all(heard)
    assert [one.figures.activities_running for one in heard if one] == [
        node.runtime.engine.activities.running for node in nodes
    ]
    assert sum(one.figures.activations[WORKFLOW] for one in heard if one) == 20
    types = {one.name: one for one in found.types}
    assert (types[WORKFLOW].activations, types[WORKFLOW].nodes) == (20, 2)
    other = heard[1]
    assert other is not None
    # One machine, one clock: what is left is no more than the question took.
    assert abs(other.clock_difference) <= other.round_trip
    assert other.figures.started <= other.figures.now
    assert found.handovers == ()
    # The same cluster, seen from the other side.
    there = await two.cluster()
    assert [(one.node, one.this) for one in there.nodes] == [(one.node, not one.this) for one in found.nodes]


async def test_a_node_without_an_answer_is_shown(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = nodes

    async def never(_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("perdure.figures.ANSWER_WITHIN", 0.1)
    monkeypatch.setitem(two.runtime.questions._handlers, FIGURES, never)
    found = await one.cluster()
    assert of(found, two).heard is None
    assert of(found, two).http == ""
    assert of(found, one).heard is not None


@pytest.mark.parametrize("answer", [None, 5, {"node": 1}, {"now": 1}, [], {"node": "x", "now": "late"}])
async def test_an_answer_that_cannot_be_read_is_none(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    one, two = nodes

    async def say(_: Any) -> Any:
        return answer

    monkeypatch.setitem(two.runtime.questions._handlers, FIGURES, say)
    assert of(await one.cluster(), two).heard is None


async def test_who_asks_at_the_same_time_shares_the_answers(nodes: list[Node]) -> None:
    one, two = nodes
    asked: list[Any] = []
    handler = two.runtime.questions._handlers[FIGURES]

    async def counted(body: Any) -> Any:
        asked.append(body)
        return await handler(body)

    two.runtime.questions._handlers[FIGURES] = counted
    views = [asyncio.ensure_future(one.cluster()) for _ in range(20)]
    await asyncio.sleep(0)
    # Whoever goes does not end it for the others.
    views[0].cancel()
    found = await asyncio.gather(*views[1:])
    assert all(of(view, two).heard for view in found)
    assert len(asked) == 1


async def test_what_changes_hands_is_shown(nodes: list[Node], shops: list[Shop]) -> None:
    """A third node gets its share; what it does not serve yet is told by itself."""
    one, _ = nodes
    third = Shop()
    seen: list[Any] = []
    async with third.app.serve(store=one.store, cluster=ClusterOptions(weight=4)) as node:

        async def served() -> bool:
            found = await one.cluster()
            seen.extend(found.handovers)
            return len(node.runtime.host.owned) == 16 and not found.handovers

        deadline = time.monotonic() + 30
        while not await served():
            assert time.monotonic() < deadline
    # It may be over before anybody looks; if it was seen, then rightly.
    assert all(change.after == node.node_id and change.partitions <= 8 for change in seen)
