"""The example of what is scarce: nothing is refused, although all want it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType

import pytest

from perdure.statestore import MemoryStore


@pytest.mark.parametrize("nodes", [1, 2])
async def test_nobody_is_refused_a_seat(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    monkeypatch.setenv("PRESS_LICENCE", str(tmp_path / "licence"))
    example = load("limits")
    store = MemoryStore(shared=True)
    async with AsyncExitStack() as stack:
        served = [await stack.enter_async_context(example.app.serve(store=store)) for _ in range(nodes)]
        client = served[0].client
        ids = [f"book-{number}" for number in range(5)]
        for id in ids:
            await client.schedule_new_workflow("book", input=8, instance_id=id)
        page = await client.list(statuses=["running"])
        assert len(page.items) <= 2
        states = await asyncio.gather(*(client.wait_for_workflow_completion(id, timeout=60) for id in ids))
        assert [state.output for state in states] == [8] * 5
        ends = [state.completed_at for state in states]
        starts = [state.started_at for state in states]
        for third in range(2, 5):
            # A slot has to be given back before it is taken again.
            assert starts[third] >= sorted(ends)[third - 2]


async def test_without_limits_it_is_refused(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above would fail if the limits did nothing."""
    monkeypatch.setenv("PRESS_LICENCE", str(tmp_path / "licence"))
    example = load("limits")
    example.app.registry.activities["render"].global_max_concurrent = None
    async with example.app.serve(store="memory://") as node:
        await node.client.schedule_new_workflow("book", input=30, instance_id="book")
        state = await node.client.wait_for_workflow_completion("book", timeout=60)
        assert "all seats of the licence are taken" in state.failure_details.message
