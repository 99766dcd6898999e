"""Stopping a node in good order, and what the next one finds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, WorkflowContext


class Ledger:
    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.go = asyncio.Event()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def app(ledger: Ledger) -> App:
    app = App("s")

    @app.activity
    async def slow(ctx: ActivityContext) -> str:
        ledger.began.append(ctx.idempotency_key)
        await ledger.go.wait()
        ledger.ended.append(ctx.idempotency_key)
        return "done"

    @app.workflow
    async def work(ctx: WorkflowContext) -> list[str]:
        return [await ctx.call_activity(slow), await ctx.call_activity(slow)]

    return app


async def test_an_activity_that_ends_within_the_drain_time_is_committed(
    app: App, place: Any, ledger: Ledger, eventually: Any
) -> None:
    async with place.serve(app) as node:
        await node.client.schedule_new_workflow("work", instance_id="w")
        await eventually(lambda: ledger.began)
        stopping = asyncio.ensure_future(node.stop(drain_seconds=10))
        await asyncio.sleep(0)
        assert node.ready() is not None
        ledger.go.set()
        await stopping
    assert len(ledger.began) == 1, "nothing new begins while a node stops"
    async with place.serve(app) as node:
        state = await node.client.wait_for_workflow_completion("w", timeout=30)
        assert state.output == ["done", "done"]
    assert len(ledger.began) == 2
    assert len(set(ledger.began)) == 2


async def test_an_activity_that_takes_longer_runs_again_with_the_same_key(
    app: App, place: Any, ledger: Ledger, eventually: Any
) -> None:
    async with place.serve(app, drain_seconds=0.01) as node:
        await node.client.schedule_new_workflow("work", instance_id="w")
        await eventually(lambda: ledger.began)
    assert not ledger.ended
    ledger.go.set()
    async with place.serve(app) as node:
        await node.client.wait_for_workflow_completion("w", timeout=30)
    assert ledger.began[0] == ledger.began[1]
    assert len(ledger.ended) == 2


async def test_nothing_counts_as_crashed_after_a_stop(
    app: App, place: Any, ledger: Ledger, eventually: Any
) -> None:
    async with place.serve(app, drain_seconds=0) as node:
        await node.client.schedule_new_workflow("work", instance_id="w")
        await eventually(lambda: ledger.began)
    async with place.serve(app, drain_seconds=0) as node:
        assert not any(owned.crashed for owned in node.runtime.host.owned.values())
        await eventually(lambda: len(ledger.began) == 2)
        assert not place.last.of("w"), "a clean hand-over needs no commit to go on"


async def test_a_stop_can_be_repeated_and_ends_waits(app: App, place: Any, eventually: Any) -> None:
    async with place.serve(app, drain_seconds=0) as node:
        await node.client.schedule_new_workflow("work", instance_id="w")
        waiting = asyncio.ensure_future(node.client.wait_for_workflow_completion("w"))
        await asyncio.sleep(0)
        await node.stop()
        await node.stop()
        with pytest.raises(Exception, match=r"stop|owns"):
            await asyncio.wait_for(waiting, 30)


async def test_a_node_says_when_its_store_gives_no_answer(app: App, place: Any, eventually: Any) -> None:
    from perdure.errors import StoreUnavailable

    async with place.serve(app, drain_seconds=0) as node:
        assert node.ready() is None

        def away(_: Any) -> None:
            raise StoreUnavailable("the disk is on holiday")

        place.last.before = away
        start = asyncio.ensure_future(node.client.schedule_new_workflow("work", instance_id="w"))
        await eventually(node.ready)
        assert "on holiday" in node.ready()
        assert not start.done()
        place.last.before = lambda _: None
        assert await asyncio.wait_for(start, 30) == "w"
        assert node.ready() is None
        assert (await node.client.get_workflow_state("w")).runtime_status is RuntimeStatus.RUNNING
