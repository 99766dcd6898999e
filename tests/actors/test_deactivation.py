"""How actors leave memory: idle, moved or stopped, with their node or before it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.actors.actor import Actor
from perdure.actors.proxy import ActorProxy
from perdure.errors import ActorMethodFailed


class Guest(Actor):
    log: list[str] = []  # noqa: RUF012
    slow: asyncio.Event | None = None
    failing = ""

    async def on_activate(self) -> None:
        self.log.append(f"in {self.id}")
        self.state.set("visits", await self.state.get("visits", int, default=0) + 1)
        if self.failing == "in":
            raise ValueError("closed")

    async def on_deactivate(self) -> None:
        if self.failing == "out":
            raise ValueError("stuck")
        if self.failing == "state":
            self.state.set("visits", 100)
        if self.slow is not None:
            await self.slow.wait()
        self.log.append(f"out {self.id}")

    async def visits(self) -> int:
        return await self.state.get("visits", int, default=0)

    async def other(self, actor_id: str) -> int:
        return await ActorProxy.create(Guest, actor_id).visits()

    async def stay(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.log.append(f"left {self.id}")


@pytest.fixture
async def rig(start: Any) -> Any:
    Guest.log = []
    Guest.slow = None
    Guest.failing = ""
    return await start(Guest, idle_timeout=60)


async def test_idle_actors_leave_and_come_back(rig: Any) -> None:
    guest = rig.actor(Guest, "a")
    assert await guest.visits() == 1
    await rig.advance(100)
    assert rig.activation(Guest, "a") is None
    assert Guest.log == ["in a", "out a"]
    assert await guest.visits() == 2


async def test_calls_keep_an_actor_in_memory(rig: Any) -> None:
    guest = rig.actor(Guest, "a")
    for _ in range(5):
        await guest.visits()
        await rig.advance(40)
    assert Guest.log == ["in a"]


async def test_stopping_deactivates(rig: Any) -> None:
    await rig.actor(Guest, "a").visits()
    rig.host.close()
    await rig.spin()
    assert Guest.log == ["in a", "out a"]


async def test_a_moving_actor_ends_its_turn_before_it_is_deactivated(rig: Any) -> None:
    call = asyncio.ensure_future(rig.actor(Guest, "a", timeout=1).stay())
    await rig.until(lambda: Guest.log == ["in a"])
    await rig.spin()
    rig.lose()
    await rig.until(lambda: len(Guest.log) == 3)
    assert Guest.log == ["in a", "left a", "out a"]
    await rig.clock.advance(3, rig.spin)
    with pytest.raises(Exception, match=r"node|Another|answer"):
        await call


@pytest.mark.parametrize("failing", ["out", "state"])
async def test_errors_in_on_deactivate_are_logged(rig: Any, caplog: Any, failing: str) -> None:
    await rig.actor(Guest, "a").visits()
    Guest.failing = failing
    rig.evict(Guest, "a")
    await rig.spin()
    assert "deactivation.failed" in caplog.text
    Guest.failing = ""
    assert await rig.actor(Guest, "a").visits() == 2


async def test_a_slow_on_deactivate_holds_nobody(rig: Any) -> None:
    await rig.actor(Guest, "a").visits()
    Guest.slow = asyncio.Event()
    rig.evict(Guest, "a")
    assert await rig.actor(Guest, "a").visits() == 2
    Guest.slow.set()
    await rig.spin()
    assert Guest.log == ["in a", "in a", "out a"]


async def test_a_failed_on_activate_fails_the_call_and_stores_nothing(rig: Any) -> None:
    Guest.failing = "in"
    with pytest.raises(ActorMethodFailed, match="ValueError: closed"):
        await rig.actor(Guest, "a").visits()
    assert await rig.stored(Guest, "a") == {}
    rig.evict(Guest, "a")
    await rig.spin()
    assert Guest.log == ["in a"]  # never activated, so nothing to deactivate
    Guest.failing = ""
    assert await rig.actor(Guest, "a").visits() == 1


async def test_actors_reach_each_other_through_their_node(rig: Any) -> None:
    assert await rig.actor(Guest, "a").other("b") == 1


async def test_committed_state_survives_a_crash(rig: Any, start: Any) -> None:
    await rig.actor(Guest, "a").visits()
    await rig.crash()
    after = await start(Guest)
    assert await after.actor(Guest, "a").visits() == 2
    assert Guest.log == ["in a", "in a"]
