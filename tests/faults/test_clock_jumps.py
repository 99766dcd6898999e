"""The wall clock jumps while timers are set: by the workflow's own time none fires early, and all fire in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

import perdure.node
from perdure import App, Node, WorkflowContext
from perdure.clock import LoopClock

app = App("jumps", replay_check="always")
SECOND = 1_000_000
HOUR = 3600 * SECOND


class Jumping(LoopClock):
    """The system's clock, moved by whoever tests."""

    offset = 0

    def now(self) -> int:
        return super().now() + Jumping.offset


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Jumping]]:
    Jumping.offset = 0
    monkeypatch.setattr(perdure.node, "LoopClock", Jumping)
    yield Jumping
    Jumping.offset = 0


@app.workflow
async def sleeps(ctx: WorkflowContext, delays: list[float]) -> list[list[str]]:
    """When each timer was set, was due, and fired, by the workflow's own time."""
    times = []
    for delay in delays:
        began = ctx.current_utc_datetime
        due = began + timedelta(seconds=delay)
        await ctx.create_timer(due)
        times.append([began.isoformat(), due.isoformat(), ctx.current_utc_datetime.isoformat()])
    return times


@app.workflow
async def counts(ctx: WorkflowContext, events: int) -> list[str]:
    times = []
    for _ in range(events):
        await ctx.wait_for_external_event("tick")
        times.append(ctx.current_utc_datetime.isoformat())
    return times


async def result_of(node: Node, id: str) -> Any:
    return (await node.client.wait_for_workflow_completion(id, timeout=60)).output


async def check_history(node: Node, id: str) -> None:
    """The times of turns strictly grow; events of one turn share theirs."""
    events = [event for _, event in (await node.client.history(id)).items]
    times = [event.at for event in events]
    assert times == sorted(times)
    # Each timer is a turn of its own.
    fired = [event.at for event in events if type(event).__name__ == "TimerFired"]
    assert len(set(fired)) == len(fired)


def check_times(times: list[list[str]]) -> None:
    last = datetime.fromisoformat(times[0][0])
    for began, due, fired in (map(datetime.fromisoformat, each) for each in times):
        assert last <= began < due <= fired
        last = fired


@pytest.mark.parametrize(
    "jumps",
    [[HOUR], [-2 * SECOND], [HOUR, -HOUR], [-HOUR, HOUR], [30 * SECOND, -31 * SECOND, 2 * SECOND, -SECOND]],
    ids=["forward", "backward", "there and back", "back and there", "shaken"],
)
async def test_timers(tmp_path: Path, jumps: list[int]) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    async with asyncio.timeout(90), app.serve(store=store) as node:
        client = node.client
        for number in range(20):
            await client.schedule_new_workflow(sleeps, input=[0.2, 0.3, 0.1], instance_id=f"sleeps-{number}")
        await client.schedule_new_workflow(sleeps, input=[1800.0], instance_id="long")
        for jump in jumps:
            Jumping.offset += jump
            # Something happens at each of the times.
            await client.schedule_new_workflow(sleeps, input=[0.1], instance_id=f"after-{jump}")
        # Whoever was told a later time than it is now waits until it is that late: the clock gets there in the end.
        Jumping.offset = max(0, *accumulate(jumps)) + SECOND
        for id in [*(f"sleeps-{number}" for number in range(20)), *(f"after-{jump}" for jump in jumps)]:
            check_times(await result_of(node, id))
            await check_history(node, id)
        Jumping.offset += HOUR
        check_times(await result_of(node, "long"))


async def test_events(tmp_path: Path) -> None:
    """Turns that follow each other while the clock goes back have later times all the same."""
    async with asyncio.timeout(60), app.serve(store=f"sqlite:///{tmp_path}/state.db") as node:
        client = node.client
        await client.schedule_new_workflow(counts, input=10, instance_id="counts")
        for number in range(10):
            Jumping.offset -= (number % 3) * 60 * SECOND
            await client.raise_workflow_event("counts", "tick")
        times = await result_of(node, "counts")
        assert times == sorted(set(times))
        assert len(times) == 10
        await check_history(node, "counts")


async def test_restart_in_the_past(tmp_path: Path) -> None:
    """A process that starts with an earlier time than the last one ended with."""
    store = f"sqlite:///{tmp_path}/state.db"
    async with asyncio.timeout(60):
        Jumping.offset = 5 * SECOND
        async with app.serve(store=store) as node:
            await node.client.schedule_new_workflow(sleeps, input=[0.1, 0.1], instance_id="one")
            await node.client.schedule_new_workflow(counts, input=1, instance_id="two")
        Jumping.offset = 3 * SECOND
        async with app.serve(store=store) as node:
            check_times(await result_of(node, "one"))
            await node.client.raise_workflow_event("two", "tick")
            await result_of(node, "two")
            await check_history(node, "one")
            await check_history(node, "two")
