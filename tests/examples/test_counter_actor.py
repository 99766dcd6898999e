"""The actor example: state, failed calls, the reminder, the timer and the workflow that calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perdure import ActorProxy, RuntimeStatus


@pytest.fixture
async def example(load: Callable[[str], ModuleType]) -> AsyncIterator[Any]:
    module: Any = load("counter_actor")
    async with module.app.serve(store="memory://", http_port=None) as node:
        module.node = node
        yield module


async def becomes_zero(counter: Any) -> None:
    """The reminder is the actor's own affair: from outside there is only its value to look at."""
    async with asyncio.timeout(30):
        while True:
            if await counter.value() == 0:
                return
            await asyncio.sleep(0.01)


async def test_each_counter_has_a_number_of_its_own(example: Any) -> None:
    lobby, garden = (ActorProxy.of(example.node, example.Counter, name) for name in ("lobby", "garden"))
    assert await lobby.add(3) == 3
    assert await lobby.add() == 4
    assert await garden.value() == 0


async def test_concurrent_calls_do_not_lose_an_addition(example: Any) -> None:
    counter = ActorProxy.of(example.node, example.Counter, "busy")
    await asyncio.gather(*(counter.add(1) for _ in range(50)))
    assert await counter.value() == 50


async def test_a_call_that_fails_changes_nothing(example: Any) -> None:
    counter = ActorProxy.of(example.node, example.Counter, "low")
    await counter.add(1)
    with pytest.raises(Exception, match="does not go below 0"):
        await counter.add(-2)
    assert await counter.value() == 1


async def test_the_reminder_resets_it(example: Any) -> None:
    counter = ActorProxy.of(example.node, example.Counter, "forgetful")
    await counter.add(5)
    await counter.reset_in(0.05)
    await becomes_zero(counter)


async def test_the_reminder_outlives_the_node(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module: Any = load("counter_actor")
    store = f"sqlite:///{tmp_path}/counters.db"
    async with module.app.serve(store=store, http_port=None) as node:
        counter = ActorProxy.of(node, module.Counter, "durable")
        await counter.add(5)
        await counter.reset_in(0.2)
    async with module.app.serve(store=store, http_port=None) as node:
        counter = ActorProxy.of(node, module.Counter, "durable")
        await becomes_zero(counter)


async def test_a_workflow_counts_visits(example: Any) -> None:
    client = example.node.client
    instance = await client.schedule_new_workflow(example.visit, input=["lobby", "bar", "lobby"])
    state = await client.wait_for_workflow_completion(instance, timeout=timedelta(seconds=30))
    assert state.runtime_status is RuntimeStatus.COMPLETED
    assert state.output == {"lobby": 2, "bar": 1}
