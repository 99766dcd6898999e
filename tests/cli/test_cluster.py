"""`perdure cluster` against a node, and against a store that nobody has open."""

from __future__ import annotations

import signal
from typing import Any

import pytest

WORKFLOW = "dapr.internal.default.shop.workflow"


def test_a_node(perdure: Any, node: Any) -> None:
    lines = perdure("cluster").out.splitlines()
    assert lines[0].split() == ["table", "term", "1,", "epoch", "1"]
    heading = next(number for number, line in enumerate(lines) if line.startswith("NODE"))
    row = lines[heading + 1]
    assert row.startswith("node-1 (this)")
    assert "16 of 16" in row
    kind = lines[-1].split()
    assert kind == ["Counter", "16", "1", "2"]


def test_json_is_that_of_the_api(perdure: Any, node: Any) -> None:
    found = perdure("cluster", "--json").json
    assert [(one["id"], one["this"], one["answered"]) for one in found["nodes"]] == [("node-1", True, True)]
    assert found["actorTypes"] == [{"name": "Counter", "partitions": 16, "nodes": 1, "activations": 2}]


def test_a_node_without_an_answer(perdure: Any, node: Any) -> None:
    node.node.silent.append("node-2")
    lines = perdure("cluster").out.splitlines()
    row = next(line for line in lines if line.startswith("node-2"))
    assert row.endswith("no answer")
    assert "(this)" not in row


def test_a_real_node_and_then_its_store(serve: Any, perdure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve()
    monkeypatch.setenv("PERDURE_SERVER", running.url)
    assert perdure("workflow", "start", "approval", "--id", "a").status == 0
    found = perdure("cluster", "--json").json
    [one] = found["nodes"]
    assert (one["this"], one["leads"], one["appID"]) == (True, True, "shop")
    assert one["workflows"] == ["approval", "twice"]
    assert one["partitions"] == {WORKFLOW: found["partitions"]}
    assert one["activations"] == {WORKFLOW: 1}
    assert found["handovers"] == []
    # The node that has the store is asked; when there is none, what it left is read.
    assert perdure("cluster", "--store", running.store, "--json").json["nodes"][0]["answered"]
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    left = perdure("cluster", "--store", running.store, "--json").json
    assert [(node["id"], node["answered"]) for node in left["nodes"]] == [(one["id"], False)]
    assert (left["term"], left["epoch"]) == (found["term"], found["epoch"])


def test_a_store_that_no_node_has_used(perdure: Any, tmp_path: Any, in_thread: Any) -> None:
    import asyncio

    from perdure.statestore import open_store

    store = f"sqlite:///{tmp_path}/state.db"

    async def make() -> None:
        await open_store(store).close()

    in_thread(lambda: asyncio.run(make()))
    assert "never been used" in perdure("cluster", "--store", store).error
