"""Timers: they fire while the actor is in memory, one tick at a time, and go on after errors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.actors.actor import Actor
from perdure.errors import ActorMethodFailed


class Ticker(Actor):
    ticks: list[tuple[str, float]] = []  # noqa: RUF012
    failing = False
    clock: Any = None
    gate: asyncio.Event | None = None

    async def set(self, options: dict[str, Any]) -> None:
        self.set_timer(**options)

    async def set_bound(self) -> None:
        self.set_timer("bound", "1s", None, self._tick, "bound")

    async def set_foreign(self) -> None:
        self.set_timer("bound", "1s", None, print)

    async def set_then_fail(self) -> None:
        self.set_timer("t", "1s", None, "_tick", "t")
        raise ValueError("no")

    async def unset(self, name: str) -> None:
        self.delete_timer(name)

    async def fail(self) -> None:
        raise ValueError("no")

    async def _tick(self, data: str) -> None:
        self.ticks.append((data, round(self.clock.time, 3)))
        self.state.set("ticks", await self.state.get("ticks", int, default=0) + 1)
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise ValueError("no")

    def _plain(self) -> None:
        self.ticks.append(("plain", round(self.clock.time, 3)))

    async def count(self) -> int:
        return await self.state.get("ticks", int, default=0)


@pytest.fixture
async def rig(start: Any) -> Any:
    Ticker.ticks = []
    Ticker.failing = False
    Ticker.gate = None
    rig = await start(Ticker, idle_timeout=60)
    Ticker.clock = rig.clock
    return rig


async def test_a_timer_ticks_and_commits(rig: Any) -> None:
    ticker = rig.actor(Ticker, "a")
    await ticker.set({"name": "t", "due": "1s", "period": "2s", "callback": "_tick", "data": "x"})
    await rig.advance(7.5)
    assert Ticker.ticks == [("x", 1.0), ("x", 3.0), ("x", 5.0), ("x", 7.0)]
    assert await ticker.count() == 4
    await ticker.unset("t")
    await ticker.unset("never there")
    await rig.advance(10)
    assert len(Ticker.ticks) == 4


async def test_forms_of_callbacks(rig: Any) -> None:
    ticker = rig.actor(Ticker, "a")
    await ticker.set_bound()
    await ticker.set({"name": "p", "due": "2s", "callback": "_plain"})
    await rig.advance(5)
    assert Ticker.ticks == [("bound", 1.0), ("plain", 2.0)]
    with pytest.raises(ActorMethodFailed, match="callback is a method of Ticker"):
        await ticker.set_foreign()
    with pytest.raises(ActorMethodFailed, match="callback is a method of Ticker"):
        await ticker.set({"name": "t", "due": "1s", "callback": "nope"})
    with pytest.raises(ActorMethodFailed, match="timer 't': a duration"):
        await ticker.set({"name": "t", "due": "soon", "callback": "_plain"})


async def test_repeats_ttl_and_replacing(rig: Any) -> None:
    ticker = rig.actor(Ticker, "a")
    await ticker.set({"name": "r", "period": "R2/PT1S", "callback": "_tick", "data": "r"})
    await ticker.set(
        {"name": "t", "due": "1s", "period": "1s", "callback": "_tick", "data": "t", "ttl": "2.5s"}
    )
    await ticker.set({"name": "x", "due": "1s", "callback": "_tick", "data": "old"})
    await ticker.set({"name": "x", "due": "4s", "callback": "_tick", "data": "new"})
    await rig.advance(10)
    assert sorted(Ticker.ticks) == [("new", 4.0), ("r", 0.0), ("r", 1.0), ("t", 1.0), ("t", 2.0)]


async def test_the_next_tick_waits_for_the_callback(rig: Any) -> None:
    Ticker.gate = asyncio.Event()
    await rig.actor(Ticker, "a").set(
        {"name": "t", "due": "1s", "period": "1s", "callback": "_tick", "data": "x"}
    )
    await rig.clock.advance(5.5, rig.spin)
    assert len(Ticker.ticks) == 1
    Ticker.gate.set()
    await rig.settle()
    await rig.advance(1)
    assert Ticker.ticks == [("x", 1.0), ("x", 6.0)]


async def test_a_failing_tick_is_logged_and_the_timer_goes_on(rig: Any, caplog: Any) -> None:
    ticker = rig.actor(Ticker, "a")
    Ticker.failing = True
    await ticker.set({"name": "t", "due": "1s", "period": "1s", "callback": "_tick", "data": "x"})
    await rig.advance(2.5)
    assert "timer.failed" in caplog.text
    assert await ticker.count() == 0
    Ticker.failing = False
    await rig.advance(1)
    assert len(Ticker.ticks) == 3
    assert await ticker.count() == 1


async def test_a_failed_method_keeps_timers_but_sets_none(rig: Any) -> None:
    ticker = rig.actor(Ticker, "a")
    await ticker.set({"name": "s", "due": "2s", "callback": "_tick", "data": "s"})
    for method in (ticker.set_then_fail, ticker.fail):
        with pytest.raises(ActorMethodFailed):
            await method()
    await rig.advance(5)
    assert Ticker.ticks == [("s", 2.0)]


async def test_timers_are_lost_with_the_activation(rig: Any) -> None:
    ticker = rig.actor(Ticker, "a")
    await ticker.set({"name": "t", "due": "1s", "period": "1s", "callback": "_tick", "data": "x"})
    assert rig.evict(Ticker, "a")
    assert await ticker.count() == 0
    await rig.advance(5)
    assert Ticker.ticks == []


async def test_ticks_keep_the_actor_in_memory_waiting_does_not(rig: Any) -> None:
    await rig.actor(Ticker, "busy").set({"name": "t", "due": "10s", "period": "10s", "callback": "_plain"})
    await rig.actor(Ticker, "idle").set({"name": "t", "due": "1h", "callback": "_plain"})
    await rig.advance(120)
    assert rig.activation(Ticker, "busy") is not None
    assert rig.activation(Ticker, "idle") is None
