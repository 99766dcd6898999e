"""The program of docs/activities.md, put together as the page builds it, and run."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from perdure import App, RuntimeStatus, TaskFailedError, WorkflowContext
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "activities.md"


@pytest.fixture
def program() -> Any:
    parts = [block.text for block in blocks(PAGE) if block.info == "python activities.py"]
    assert len(parts) == 4
    module = types.ModuleType("activities")
    sys.modules["activities"] = module
    try:
        exec(compile("\n\n".join(parts), str(PAGE), "exec"), vars(module))  # noqa: S102 - it is what readers run
        yield module
    finally:
        del sys.modules["activities"]


async def test_what_the_page_says_is_so(program: Any) -> None:
    app: App = program.app

    @app.workflow
    async def pay(ctx: WorkflowContext, card: str) -> Any:
        try:
            return await ctx.call_activity(program.charge, input=card)
        except TaskFailedError as error:
            return error.details.type

    async with app.serve(store="memory://") as node:
        client = node.client

        async def run(workflow: Any, input: Any = None) -> Any:
            id = await client.schedule_new_workflow(workflow, input=input)
            return (await client.wait_for_workflow_completion(id, timeout=30)).output

        assert [await run(pay, card) for card in ("good", "busy", "stolen")] == [
            "good: attempt 1",
            "busy: attempt 2",
            "CardDeclined",
        ]
        assert await run(program.copy_all, 5) == [2, 2]
        assert await run(program.first_found) == "near"

        id = await client.schedule_new_workflow(program.trip)
        await client.wait_for_workflow_start(id)
        await client.cancel_workflow(id, reason="rain")
        state = await client.wait_for_workflow_completion(id, timeout=30)
        assert state.runtime_status is RuntimeStatus.TERMINATED
        assert "rain" in state.failure_details.message
