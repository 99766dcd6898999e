"""The console of one node of two: what lives on the other one is told as if it lived here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from perdure.placement.hashing import partition_of
from perdure.statestore import MemoryStore
from perdure.workflow.explain import EXPLAIN

WORKFLOW = "dapr.internal.default.shop.workflow"


@pytest.fixture
async def two(serve: Any, eventually: Any) -> AsyncIterator[list[Any]]:
    store = MemoryStore(partitions=16, shared=True)
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(serve(store)) for _ in range(2)]

        async def shared() -> bool:
            return all(len(served.node.runtime.host.owned) == 16 for served in found)

        await eventually(shared, "each has its half")
        yield found


def id_on(served: Any) -> str:
    """An instance id that this node owns."""
    table = served.node.runtime.placement.table
    return next(
        id
        for id in (f"w-{number}" for number in range(1000))
        if table.owner(WORKFLOW, partition_of(id, table.partitions)) == served.node.node_id
    )


async def test_an_instance_of_the_other_node(two: list[Any]) -> None:
    one, other = two
    id = id_on(other)
    await one.start("waits", id)
    found = await one.until(
        lambda value: value["waiting"]["total"] == 6 and value["waiting"]["events"],
        "all",
        view="instance",
        id=id,
    )
    assert (found["owner"], found["inMemory"], found["waiting"]["events"]) == (
        other.node.node_id,
        True,
        ["go"],
    )
    ship = next(item for item in found["waiting"]["items"] if item["name"] == "ship")
    assert ship["node"] in {served.node.node_id for served in two}
    assert ship["state"] in ("running", "sent")
    there = await other.view("instance", id=id)
    # But for how often either has looked.
    assert {**there, "version": 0} == {**found, "version": 0}
    steps = await one.get("/console/steps", id=id)
    assert steps == await other.get("/console/steps", id=id)


async def test_an_owner_that_gives_no_answer(two: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is here, too, and so is the table."""
    one, other = two
    id = id_on(other)
    await one.start("waits", id)
    monkeypatch.delitem(other.node.runtime.questions._handlers, EXPLAIN)
    found = await one.until(lambda value: value["waiting"]["events"], "the event", view="instance", id=id)
    assert (found["inMemory"], found["waiting"]["events"]) == (False, ["go"])
    ship = next(item for item in found["waiting"]["items"] if item["name"] == "ship")
    assert ship["state"] in ("expected", "running")


@pytest.mark.parametrize("answer", [None, 5, {}, {"waits": {}, "places": []}, {"waits": 1, "places": [1]}])
async def test_an_answer_that_cannot_be_read(
    two: list[Any], monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    async def say(_: Any) -> Any:
        return answer

    one, other = two
    id = id_on(other)
    await one.start("waits", id)
    monkeypatch.setitem(other.node.runtime.questions._handlers, EXPLAIN, say)
    found = await one.until(lambda value: value["waiting"]["events"], "the event", view="instance", id=id)
    assert found["waiting"]["events"] == ["go"]


async def test_a_question_that_cannot_be_read(two: list[Any]) -> None:
    one, other = two
    ask = one.node.runtime.questions.ask
    assert await ask(other.node.node_id, EXPLAIN, {"type": 1}) is None
    bad = {"type": WORKFLOW, "id": "x", "metadata": b"\xc1", "tasks": []}
    assert await ask(other.node.node_id, EXPLAIN, bad) is None
    assert await ask(other.node.node_id, EXPLAIN, {**bad, "type": "Cart"}) is None


async def test_lists_and_streams_tell_of_both(two: list[Any]) -> None:
    one, other = two
    ids = {id_on(one), id_on(other)}
    for id in ids:
        await one.start("listener", id)
    for served in two:
        assert {row["id"] for row in (await served.view("instances"))["items"]} == ids
        assert (await served.view("instances"))["counts"] == {"running": {"count": 2, "more": False}}
    id = id_on(other)
    await one.node.client.raise_workflow_event(id, "first")
    await one.until(
        lambda value: value["waiting"]["events"] == ["second"], "the wait", view="instance", id=id
    )
    nodes = (await one.view("cluster"))["nodes"]
    assert [node["answered"] for node in nodes] == [True, True]
