"""The order example, in process: every way an order can go, seen in the shop's own books."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perdure import RuntimeStatus

PAPERCLIPS = {"Name": "Paperclips", "Quantity": 1, "TotalCost": 9.95}
CAR = {"Name": "Cars", "Quantity": 1, "TotalCost": 15_000}


class Shop:
    """The example, served, with its books."""

    def __init__(self, example: ModuleType, client: Any, books: Path) -> None:
        self.example = example
        self.client = client
        self.books = books

    async def start(self, order: dict[str, Any], instance_id: str) -> str:
        return str(
            await self.client.schedule_new_workflow(
                self.example.process_order, input=order, instance_id=instance_id
            )
        )

    async def finished(self, instance_id: str) -> Any:
        return await self.client.wait_for_workflow_completion(instance_id, timeout=30)

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.books)) as books:
            return books.execute(query).fetchall()

    def stock(self, name: str) -> int:
        return int(self.rows(f"SELECT quantity FROM stock WHERE name = '{name}'")[0][0])


@pytest.fixture
async def shop(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    books = tmp_path / "shop.db"
    monkeypatch.setenv("ORDER_SHOP", str(books))
    example = load("order_processing")
    async with example.app.serve(store="memory://", http_port=None) as node:
        yield Shop(example, node.client, books)


async def test_a_small_order_is_paid_and_shipped(shop: Shop) -> None:
    state = await shop.finished(await shop.start(PAPERCLIPS, "small"))
    assert state.runtime_status is RuntimeStatus.COMPLETED
    assert state.output == {"Processed": True}
    assert state.custom_status == "shipped"
    assert shop.stock("Paperclips") == 99
    assert shop.rows("SELECT amount FROM charges") == [(9.95,)]


async def test_a_large_order_waits_for_approval(shop: Shop) -> None:
    await shop.start(CAR, "large")
    await shop.client.raise_workflow_event("large", "approval_received", data={"Approver": "Jane Doe"})
    state = await shop.finished("large")
    assert state.output == {"Processed": True}
    assert shop.stock("Cars") == 4


async def test_a_refused_order_gives_its_stock_back(shop: Shop) -> None:
    await shop.start(CAR, "refused")
    refusal = {"Approver": "Jane Doe", "Approved": False}
    await shop.client.raise_workflow_event("refused", "approval_received", data=refusal)
    state = await shop.finished("refused")
    assert state.output == {"Processed": False, "Reason": "refused by Jane Doe"}
    assert shop.stock("Cars") == 5
    assert shop.rows("SELECT * FROM charges") == []


async def test_an_order_that_nobody_approves_ends_when_its_time_is_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.example, "APPROVAL_TIME", timedelta(milliseconds=50))
    state = await shop.finished(await shop.start(CAR, "late"))
    assert state.output == {"Processed": False, "Reason": "not approved in time"}
    assert shop.stock("Cars") == 5


async def test_what_is_not_in_stock_is_not_sold(shop: Shop) -> None:
    state = await shop.finished(await shop.start({**PAPERCLIPS, "Quantity": 101}, "many"))
    assert state.output == {"Processed": False, "Reason": "not in stock: 101 Paperclips"}
    assert shop.stock("Paperclips") == 100


async def test_a_declined_card_gives_the_stock_back(shop: Shop) -> None:
    await shop.start({**CAR, "TotalCost": 60_000}, "dear")
    await shop.client.raise_workflow_event("dear", "approval_received", data={"Approver": "Jane Doe"})
    state = await shop.finished("dear")
    assert state.output == {"Processed": False, "Reason": "card declined: 60,000.00 USD"}
    assert state.custom_status == "undone"
    assert shop.stock("Cars") == 5


async def test_what_cannot_be_shipped_is_refunded_and_put_back(shop: Shop) -> None:
    order = {"Name": "Pianos", "Quantity": 1, "TotalCost": 900}
    state = await shop.finished(await shop.start(order, "heavy"))
    assert state.output == {"Processed": False, "Reason": "no carrier takes Pianos"}
    assert shop.stock("Pianos") == 2
    assert shop.rows("SELECT * FROM charges") == []


async def test_a_wrong_order_fails_with_the_name_of_the_field(shop: Shop) -> None:
    state = await shop.finished(await shop.start({"Name": "Paperclips", "Quantity": 1}, "wrong"))
    assert state.runtime_status is RuntimeStatus.FAILED
    assert "TotalCost" in state.failure_details.message


async def test_an_activity_that_runs_twice_takes_from_stock_once(shop: Shop) -> None:
    """What happens after a crash between the shop's commit and the workflow's."""

    class Delivery:
        idempotency_key = "the-same"

    order = shop.example.Order("Paperclips", 10, 50.0)
    for _ in range(2):
        assert shop.example.reserve_inventory(Delivery(), order) == "the-same"
    assert shop.stock("Paperclips") == 90
    for _ in range(2):
        shop.example.release_inventory(Delivery(), "the-same")
    assert shop.stock("Paperclips") == 100
