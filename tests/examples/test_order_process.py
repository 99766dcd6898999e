"""The order example as a real process over HTTP: what it acknowledged survives SIGKILL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.examples.node_process import NodeProcess

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "order_processing.py"
WORKFLOWS = "/v1.0/workflows/dapr"

Serve = Callable[..., NodeProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts the example on a SQLite store; ends it after the test."""
    nodes: list[NodeProcess] = []

    def start(**environment: str) -> NodeProcess:
        node = NodeProcess(f"{EXAMPLE}:app", tmp_path, store="sqlite:///orders.db", **environment)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.kill()


def order(node: NodeProcess, instance: str, cost: float = 9.95, name: str = "Paperclips") -> None:
    answer = node.call(
        "POST",
        f"{WORKFLOWS}/OrderProcessingWorkflow/start?instanceID={instance}",
        {"Name": name, "Quantity": 1, "TotalCost": cost},
    )
    assert answer == {"instanceID": instance}


def status(node: NodeProcess, instance: str) -> dict[str, Any]:
    answer: dict[str, Any] = node.call("GET", f"{WORKFLOWS}/{instance}")
    return answer


def custom_status(node: NodeProcess, instance: str) -> str:
    return str(status(node, instance)["properties"].get("dapr.workflow.custom_status", ""))


def finish(node: NodeProcess, instance: str) -> dict[str, Any]:
    ended = ("COMPLETED", "FAILED", "TERMINATED")
    node.until(lambda: status(node, instance)["runtimeStatus"] in ended, f"{instance} ends")
    return status(node, instance)


def books(folder: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "shop.db")) as shop:
        return shop.execute(query).fetchall()


def test_an_order_over_http(serve: Serve) -> None:
    node = serve()
    order(node, "order-1")
    ended = finish(node, "order-1")
    assert ended["runtimeStatus"] == "COMPLETED"
    assert ended["workflowName"] == "OrderProcessingWorkflow"
    assert ended["properties"]["dapr.workflow.output"] == '{"Processed":true}'


def test_an_order_that_waits_for_approval_survives_a_kill(serve: Serve, tmp_path: Path) -> None:
    node = serve()
    order(node, "order-2", 1500)
    node.until(lambda: "waiting for approval" in custom_status(node, "order-2"), "it waits for approval")
    node.kill()
    node.start()
    assert status(node, "order-2")["runtimeStatus"] == "RUNNING"
    node.call("POST", f"{WORKFLOWS}/order-2/raiseEvent/approval_received", {"Approver": "Jane Doe"})
    assert finish(node, "order-2")["properties"]["dapr.workflow.output"] == '{"Processed":true}'
    assert books(tmp_path, "SELECT quantity FROM stock WHERE name = 'Paperclips'") == [(99,)]


def test_orders_killed_while_they_are_paid_are_paid_once(serve: Serve, tmp_path: Path) -> None:
    node = serve(ORDER_STEP_SECONDS="0.3")
    names = [f"order-{number}" for number in range(5)]
    for name in names:
        order(node, name)
    node.until(lambda: "charging" in custom_status(node, names[-1]), "the last one is being paid")
    node.kill()
    node.start()
    for name in names:
        assert finish(node, name)["properties"]["dapr.workflow.output"] == '{"Processed":true}'
    assert books(tmp_path, "SELECT quantity FROM stock WHERE name = 'Paperclips'") == [(95,)]
    assert books(tmp_path, "SELECT count(*) FROM charges") == [(5,)]
