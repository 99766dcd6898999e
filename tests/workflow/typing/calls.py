"""Read by the type checkers only (test_typing.py): calls have the types of the functions they call."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from perdure.workflow.context import WorkflowContext
from perdure.workflow.registry import Registry
from perdure.workflow.tasks import Task, when_all, when_any

app = Registry()


@dataclass
class Receipt:
    number: int


@app.activity
def pay(ctx: object, amount: int) -> Receipt:
    return Receipt(amount)


@app.activity(name="charge")
async def charge(ctx: object, amount: int) -> Receipt:
    return Receipt(amount)


@app.activity
async def note(ctx: object) -> None: ...


@app.workflow
async def child(ctx: WorkflowContext, input: str) -> list[int]:
    return [1]


@app.workflow
def steps(ctx: WorkflowContext) -> Generator[Task[None], None, str]:
    yield ctx.create_timer(timedelta(seconds=1))
    return "done"


@app.workflow
def plain(ctx: WorkflowContext) -> bytes:
    return b""


@app.workflow
async def parent(ctx: WorkflowContext, input: int) -> str:
    assert_type(ctx.call_activity(pay, input=1), Task[Receipt])
    assert_type(ctx.call_activity(charge, input=1), Task[Receipt])
    assert_type(await ctx.call_activity(charge, input=1), Receipt)
    assert_type(ctx.call_activity(note), Task[None])
    assert_type(ctx.call_activity("by name"), Task[Any])
    assert_type(ctx.call_child_workflow(child, input="a"), Task[list[int]])
    assert_type(ctx.call_child_workflow(steps), Task[str])
    assert_type(ctx.call_child_workflow(plain), Task[bytes])
    assert_type(ctx.call_child_workflow("by name"), Task[Any])
    assert_type(ctx.map(charge, [1, 2]), Task[list[Receipt]])
    assert_type(ctx.map(pay, [1, 2], max_concurrency=1), Task[list[Receipt]])
    assert_type(await ctx.create_timer(timedelta(seconds=1)), None)
    assert_type(ctx.wait_for_external_event("e", type=Receipt), Task[Receipt])
    assert_type(await ctx.wait_for_external_event("e"), Any)
    assert_type(await when_all([ctx.call_activity(pay), ctx.call_activity(charge)]), list[Receipt])
    winner = await when_any([ctx.call_activity(pay), ctx.call_activity(charge)])
    assert_type(winner, Task[Receipt])
    assert_type(winner.get_result(), Receipt)

    async def branch() -> int:
        return 1

    assert_type(await when_all([branch(), branch()]), list[int])
    return "done"


assert_type(pay(None, 1), Receipt)
