"""An order, step by step: stock, approval, payment, shipping; and everything undone when a step fails.

perdure run examples/order_processing.py:app

The README walks through it with curl. Kill the process at any moment and start it again: orders go on where they
were, and since every change of the shop's own books carries the activity's idempotency key, an activity that runs
twice changes them once.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from perdure import (
    ActivityContext,
    App,
    NonRetriableError,
    RetryPolicy,
    TaskFailedError,
    WorkflowContext,
)

app = App("orders")

#: Orders of this much and more need somebody's approval…
APPROVAL_FROM = 1000
#: …within this time; a demonstration may not want to wait a day.
APPROVAL_TIME = timedelta(seconds=float(os.environ.get("ORDER_APPROVAL_SECONDS", "86400")))
#: How long payment and shipping take, for whoever wants to watch.
STEP_SECONDS = float(os.environ.get("ORDER_STEP_SECONDS", "0"))
#: The shop's own books: a SQLite file that has nothing to do with Perdure's.
SHOP = os.environ.get("ORDER_SHOP", "shop.db")

#: What the shop has when it opens.
STOCK = {"Paperclips": 100, "Cars": 5, "Pianos": 2}
#: No card is charged more than this.
CARD_LIMIT = 50_000
#: Goods that nobody carries.
NOT_SHIPPED = {"Pianos"}

RETRY = RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=3,
    backoff_coefficient=2,
)


# What crosses the API is named there as its callers know it: {"Name": "Paperclips", "Quantity": 1, "TotalCost": 9.95}


class Order(msgspec.Struct, rename="pascal"):
    name: str
    quantity: int
    total_cost: float


class Approval(msgspec.Struct, rename="pascal"):
    """The data of the event `approval_received`."""

    approver: str
    approved: bool = True


class OrderResult(msgspec.Struct, rename="pascal", omit_defaults=True):
    processed: bool
    reason: str = ""


@dataclass(frozen=True)
class Payment:
    order_id: str
    amount: float
    currency: str = "USD"


@dataclass(frozen=True)
class Shipment:
    order_id: str
    name: str
    quantity: int


@app.workflow(name="OrderProcessingWorkflow")
async def process_order(ctx: WorkflowContext, order: Order) -> OrderResult:
    """Each step has a status that anybody can ask for, and leaves on `undo` what takes it back."""
    undo: list[tuple[Callable[[ActivityContext, str], None], str]] = []
    await ctx.call_activity(
        notify, input=f"Received order {ctx.instance_id} for {order.quantity} {order.name}"
    )
    try:
        ctx.set_custom_status("reserving stock")
        reservation = await ctx.call_activity(reserve_inventory, input=order, retry_policy=RETRY)
        undo.append((release_inventory, reservation))

        if order.total_cost >= APPROVAL_FROM:
            refusal = await wait_for_approval(ctx, order)
            if refusal:
                await take_back(ctx, undo)
                return OrderResult(processed=False, reason=refusal)

        ctx.set_custom_status("charging the card")
        payment = await ctx.call_activity(
            pay, input=Payment(ctx.instance_id, order.total_cost), retry_policy=RETRY
        )
        undo.append((refund, payment))

        ctx.set_custom_status("shipping")
        await ctx.call_activity(
            ship, input=Shipment(ctx.instance_id, order.name, order.quantity), retry_policy=RETRY
        )
    except TaskFailedError as error:
        await take_back(ctx, undo)
        await ctx.call_activity(notify, input=f"Order {ctx.instance_id} failed: {error.details.message}")
        return OrderResult(processed=False, reason=error.details.message)

    ctx.set_custom_status("shipped")
    await ctx.call_activity(notify, input=f"Order {ctx.instance_id} processed successfully!")
    return OrderResult(processed=True)


async def wait_for_approval(ctx: WorkflowContext, order: Order) -> str:
    """Why the order may not go on; empty when it may."""
    ctx.set_custom_status("waiting for approval")
    await ctx.call_activity(
        notify, input=f"Order {ctx.instance_id} over {order.total_cost:,.2f} needs approval"
    )
    try:
        approval = await ctx.wait_for_external_event(
            "approval_received", type=Approval, timeout=APPROVAL_TIME
        )
    except TimeoutError:
        return "not approved in time"
    return "" if approval.approved else f"refused by {approval.approver}"


async def take_back(
    ctx: WorkflowContext, undo: list[tuple[Callable[[ActivityContext, str], None], str]]
) -> None:
    """Undoes the steps done so far, in reverse order. One that cannot be undone does not keep the others from it,
    but fails the order in the end, so that somebody looks."""
    ctx.set_custom_status("undoing")
    failure: TaskFailedError | None = None
    for activity, receipt in reversed(undo):
        try:
            await ctx.call_activity(activity, input=receipt, retry_policy=RETRY)
        except TaskFailedError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    ctx.set_custom_status("undone")


# --- activities: plain functions run in a thread, where they may block ---------------------------------------------


@app.activity
def notify(ctx: ActivityContext, message: str) -> None:
    print(message, flush=True)


@app.activity
def reserve_inventory(ctx: ActivityContext, order: Order) -> str:
    """Takes goods out of stock; the receipt names the reservation."""
    with shop() as books:
        if is_new(books, ctx, f"reserve {order.quantity} {order.name}"):
            taken = books.execute(
                "UPDATE stock SET quantity = quantity - :wanted WHERE name = :name AND quantity >= :wanted",
                {"name": order.name, "wanted": order.quantity},
            )
            if order.quantity < 1 or taken.rowcount == 0:
                raise NonRetriableError(f"not in stock: {order.quantity} {order.name}")
            books.execute(
                "INSERT INTO reservations VALUES (?, ?, ?)", (ctx.idempotency_key, order.name, order.quantity)
            )
    return ctx.idempotency_key


@app.activity
def release_inventory(ctx: ActivityContext, receipt: str) -> None:
    """Puts reserved goods back."""
    with shop() as books:
        found = books.execute(
            "DELETE FROM reservations WHERE receipt = ? RETURNING name, quantity", (receipt,)
        ).fetchone()
        if found:
            books.execute("UPDATE stock SET quantity = quantity + ? WHERE name = ?", (found[1], found[0]))


@app.activity
def pay(ctx: ActivityContext, payment: Payment) -> str:
    """Charges the customer's card; the receipt names the charge."""
    time.sleep(STEP_SECONDS)
    if payment.amount > CARD_LIMIT:
        raise NonRetriableError(f"card declined: {payment.amount:,.2f} {payment.currency}")
    with shop() as books:
        if is_new(books, ctx, f"charge {payment.amount:.2f} {payment.currency}"):
            books.execute("INSERT INTO charges VALUES (?, ?)", (ctx.idempotency_key, payment.amount))
    return ctx.idempotency_key


@app.activity
def refund(ctx: ActivityContext, receipt: str) -> None:
    """Takes a charge back."""
    with shop() as books:
        books.execute("DELETE FROM charges WHERE receipt = ?", (receipt,))


@app.activity
def ship(ctx: ActivityContext, shipment: Shipment) -> None:
    """Hands the goods to a carrier."""
    time.sleep(STEP_SECONDS)
    if shipment.name in NOT_SHIPPED:
        raise NonRetriableError(f"no carrier takes {shipment.name}")
    with shop() as books:
        is_new(books, ctx, f"ship {shipment.quantity} {shipment.name}")


# --- the shop's books --------------------------------------------------------------------------------------------


BOOKS = """
CREATE TABLE IF NOT EXISTS stock (name TEXT PRIMARY KEY, quantity INTEGER);
CREATE TABLE IF NOT EXISTS reservations (receipt TEXT PRIMARY KEY, name TEXT, quantity INTEGER);
CREATE TABLE IF NOT EXISTS charges (receipt TEXT PRIMARY KEY, amount REAL);
CREATE TABLE IF NOT EXISTS done (idempotency_key TEXT PRIMARY KEY, what TEXT);
"""


@contextmanager
def shop() -> Generator[sqlite3.Connection]:
    """One transaction on the shop's books: all of it or nothing."""
    with closing(sqlite3.connect(SHOP, timeout=30)) as books:
        books.executescript(BOOKS)
        with books:
            books.executemany("INSERT OR IGNORE INTO stock VALUES (?, ?)", STOCK.items())
        with books:
            books.execute("BEGIN IMMEDIATE")
            yield books


def is_new(books: sqlite3.Connection, ctx: ActivityContext, what: str) -> bool:
    """Notes that this activity does something, in the same transaction in which it does; False: it did before."""
    noted = books.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (ctx.idempotency_key, what))
    return noted.rowcount == 1


if __name__ == "__main__":
    app.run()
