"""Calls that come back to an actor whose turn waits for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.actors.actor import Actor
from perdure.errors import (
    ActorMethodFailed,
    DeadlineExceeded,
    InvalidState,
    OutcomeUnknown,
    PerdureError,
    StoreError,
)

RUN: dict[str, asyncio.Event] = {}
LOG: list[str] = []


async def gate(name: str) -> None:
    LOG.append(f"+{name}")
    try:
        await RUN.setdefault(name, asyncio.Event()).wait()
    finally:
        LOG.append(f"-{name}")


def open_gate(name: str) -> None:
    RUN.setdefault(name, asyncio.Event()).set()


class Order(Actor):
    """Reentrant: whoever it asks may ask back."""

    made = 0

    async def on_activate(self) -> None:
        type(self).made += 1
        self.seen: list[str] = []

    async def add(self, item: str) -> int:
        items = [*await self.items(), item]
        self.state.set("items", items)
        self.seen.append(item)
        return len(items)

    async def items(self) -> list[str]:
        return await self.state.get("items", list[str], default=[])

    async def price(self) -> int:
        """Changes, asks the shop, which adds through this actor and reads, then changes again."""
        await self.add("before")
        total = await self.proxy(Shop, "s").price(self.id)
        await self.add("after")
        return total

    async def price_badly(self) -> str:
        """The shop's own change of this actor fails, and this one goes on."""
        await self.add("before")
        try:
            await self.proxy(Shop, "s").break_in(self.id)
        except ActorMethodFailed as error:
            await self.add("after")
            return error.error_message
        return "nothing failed"

    async def add_and_fail(self, item: str) -> int:
        await self.add(item)
        raise ValueError(item)

    async def add_and_wait(self, name: str) -> int:
        await self.add(name)
        await gate(name)
        return await self.add(f"{name} done")

    async def price_in_time(self, seconds: float) -> str:
        await self.add("before")
        try:
            async with asyncio.timeout(seconds):
                await self.proxy(Shop, "s").hold(self.id)
        except TimeoutError:
            await self.add("gave up")
            await gate("outer")
            return "gave up"
        return "in time"

    async def call_self(self, depth: int) -> int:
        await self.add(f"{depth}")
        if depth:
            return await self.proxy(Order, self.id).call_self(depth - 1)
        return len(await self.items())

    async def fail_after(self, item: str) -> None:
        await self.proxy(Order, self.id).add(item)
        self.state.set("items", ["never"])
        raise ValueError("after all")

    async def side_task(self) -> str:
        async def meddle() -> str:
            await RUN.setdefault("meddle", asyncio.Event()).wait()
            try:
                self.state.set("items", ["meddled"])
            except InvalidState as error:
                return error.message
            return "it could"

        task = asyncio.ensure_future(meddle())
        await self.proxy(Order, self.id).add_and_wait("inner")
        return await task

    async def from_a_task(self) -> str:
        """What a task of the turn calls the turn does not wait for, so it has to wait."""
        task = asyncio.ensure_future(self.proxy(Order, self.id, timeout=2).add("beside"))
        self.later = task
        return "went on"

    async def call_and_wait(self) -> None:
        await self.proxy(Order, self.id).add("inner")
        await gate("outer")

    async def charge(self, key: str) -> list[int]:
        return [await self.proxy(Order, self.id, idempotency_key=key).add(key) for _ in range(2)]


class Shop(Actor):
    async def price(self, order: str) -> int:
        count = await self.proxy(Order, order).add("by the shop")
        return count + len(await self.proxy(Order, order).items())

    async def break_in(self, order: str) -> None:
        await self.proxy(Order, order).add_and_fail("never")

    async def hold(self, order: str) -> str:
        try:
            return str(await self.proxy(Order, order).add_and_wait("held"))
        except PerdureError as error:
            LOG.append(type(error).__name__)
            raise

    async def twice(self, order: str) -> list[int]:
        return [await self.proxy(Order, order).add("1"), await self.proxy(Order, order).add("2")]


@pytest.fixture
async def rig(start: Any) -> Any:
    RUN.clear()
    LOG.clear()
    Order.made = 0
    return await start(Order, Shop, reentrant=[Order])


async def items(rig: Any, id: str = "o") -> list[str]:
    found: list[str] = await rig.actor(Order, id).items()
    return found


async def test_a_call_comes_back_and_both_see_each_others_changes(rig: Any) -> None:
    assert await rig.actor(Order, "o").price() == 4
    assert await items(rig) == ["before", "by the shop", "after"]
    assert Order.made == 1


async def test_the_inner_reply_follows_the_commit_of_all_that_was_changed(rig: Any, store: Any) -> None:
    stored: list[bytes] = []
    store.on_commit = lambda batch: stored.extend(
        commit.put["items"] for commit in batch if "items" in commit.put
    )
    await rig.actor(Order, "o").price()
    assert stored == [b'["before","by the shop"]', b'["before","by the shop","after"]']


async def test_without_it_a_circle_is_refused(start: Any) -> None:
    rig = await start(Order, Shop)
    with pytest.raises(ActorMethodFailed, match=r"turns wait for each other.*reentrant=True"):
        await rig.actor(Order, "o").price()
    with pytest.raises(ActorMethodFailed, match=r"calls itself.*reentrant=True"):
        await rig.actor(Order, "o").call_self(1)


async def test_calls_of_itself_to_some_depth(rig: Any) -> None:
    assert await rig.actor(Order, "o").call_self(5) == 6
    assert await items(rig) == ["5", "4", "3", "2", "1", "0"]
    with pytest.raises(ActorMethodFailed, match="32 deep"):
        await rig.actor(Order, "o").call_self(40)


async def test_an_inner_failure_undoes_its_own_changes_only(rig: Any) -> None:
    assert "never" in await rig.actor(Order, "o").price_badly()
    assert await items(rig) == ["before", "after"]
    # The object that the inner call left behind is not used again.
    assert Order.made == 2


async def test_an_outer_failure_leaves_what_the_inner_call_was_answered_for(rig: Any) -> None:
    with pytest.raises(ActorMethodFailed, match="after all"):
        await rig.actor(Order, "o").fail_after("inner")
    assert await items(rig) == ["inner"]


async def test_others_wait_until_the_outer_turn_is_over(rig: Any) -> None:
    outer = asyncio.ensure_future(rig.actor(Order, "o").price_in_time(100))
    await rig.until(lambda: "+held" in LOG)
    other = asyncio.ensure_future(rig.actor(Order, "o").add("other"))
    await rig.spin()
    assert not other.done()
    open_gate("held")
    assert await outer == "in time"
    assert await other == 4
    assert await items(rig) == ["before", "held", "held done", "other"]


async def test_an_outer_turn_that_goes_on_ends_the_inner_one(rig: Any) -> None:
    outer = asyncio.ensure_future(rig.actor(Order, "o").price_in_time(0.5))
    await rig.until(lambda: "+held" in LOG)
    for _ in range(1000):
        if "+outer" in LOG:
            break
        await asyncio.sleep(0.05)
    await rig.until(lambda: "DeadlineExceeded" in LOG)
    assert sorted(LOG) == ["+held", "+outer", "-held", "DeadlineExceeded"]
    open_gate("held")
    open_gate("outer")
    assert await outer == "gave up"
    assert await items(rig) == ["before", "gave up"]


async def test_who_comes_when_it_is_over_is_late(rig: Any) -> None:
    """The shop asks back for the second time when the order's turn was lost."""
    outer = asyncio.ensure_future(rig.actor(Order, "o").price_in_time(100))
    await rig.until(lambda: "+held" in LOG)
    rig.lose()
    await rig.own()
    open_gate("held")
    open_gate("outer")
    await rig.advance(2)
    assert await outer == "in time"
    assert (await items(rig)) == ["before", "held", "held done"]


async def test_a_store_that_refuses_the_inner_changes(rig: Any, store: Any) -> None:
    def refuse(batch: Any) -> None:
        if any(b"by the shop" in commit.put.get("items", b"") for commit in batch):
            raise StoreError("too large")

    store.on_commit = refuse
    with pytest.raises(ActorMethodFailed, match="too large"):
        await rig.actor(Order, "o").price()
    assert await items(rig) == []


async def test_the_turns_own_tasks_change_nothing_meanwhile(rig: Any) -> None:
    call = asyncio.ensure_future(rig.actor(Order, "o").side_task())
    await rig.until(lambda: "+inner" in LOG)
    open_gate("meddle")
    await rig.spin()
    open_gate("inner")
    assert "is in a call that its turn waits for" in await call
    assert await items(rig) == ["inner", "inner done"]


async def test_what_a_task_of_the_turn_calls_waits_for_its_end(rig: Any) -> None:
    assert await rig.actor(Order, "o").from_a_task() == "went on"
    await rig.settle()
    assert await items(rig) == ["beside"]


async def test_a_crash_before_the_inner_commit_leaves_nothing(rig: Any, start: Any) -> None:
    call = asyncio.ensure_future(rig.actor(Order, "o").price_in_time(100))
    await rig.until(lambda: "+held" in LOG)
    rig.cut()
    open_gate("held")
    await rig.spin()
    await rig.crash()
    call.cancel()
    after = await start(Order, Shop, reentrant=[Order])
    assert await items(after) == []


async def test_lost_after_the_inner_commit_the_outcome_is_not_known(rig: Any) -> None:
    call = asyncio.ensure_future(rig.actor(Order, "o").call_and_wait())
    await rig.until(lambda: "+outer" in LOG)
    rig.lose()
    with pytest.raises(OutcomeUnknown):
        await call
    await rig.own()
    assert await items(rig) == ["inner"]


async def test_an_inner_call_with_a_key(rig: Any) -> None:
    assert await rig.actor(Order, "o").charge("k") == [1, 1]
    assert await items(rig) == ["k"]


async def test_an_inner_call_has_no_more_time_than_its_caller(rig: Any) -> None:
    call = asyncio.ensure_future(rig.actor(Order, "o", timeout=3).price_in_time(100))
    await rig.until(lambda: "+held" in LOG)
    await rig.clock.advance(4, rig.spin)
    with pytest.raises(DeadlineExceeded):
        await call
    open_gate("outer")
    await rig.settle()
    assert "-held" in LOG
