"""Calls with an idempotency key: executed once, whoever sends them again, and whenever."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure.actors.actor import Actor
from perdure.actors.expiry import SLACK
from perdure.actors.proxy import ActorProxy
from perdure.errors import ActorMethodFailed, InvalidInput, KeyReused, OutcomeUnknown


class Account(Actor):
    ran = 0
    gate: asyncio.Event | None = None
    broken = False

    async def deposit(self, amount: int) -> int:
        type(self).ran += 1
        balance = await self.state.get("balance", int, default=0) + amount
        self.state.set("balance", balance)
        return balance

    async def nothing(self) -> None:
        type(self).ran += 1

    async def fail(self, amount: int) -> int:
        type(self).ran += 1
        self.state.set("balance", 1_000_000)
        if self.broken:
            raise ValueError("not now")
        return amount

    async def in_parts(self, amount: int) -> int:
        type(self).ran += 1
        self.state.set("balance", amount)
        await self.state.save()
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise ValueError("half way")
        return amount

    async def balance(self) -> int:
        return await self.state.get("balance", int, default=0)


@pytest.fixture
async def rig(start: Any) -> Any:
    Account.ran, Account.gate, Account.broken = 0, None, False
    return await start(Account)


def keyed(rig: Any, key: str, id: str = "a") -> Account:
    found: Account = rig.actor(Account, id, idempotency_key=key)
    return found


async def test_the_same_call_again_is_not_executed_and_has_the_same_answer(rig: Any) -> None:
    assert await keyed(rig, "k").deposit(5) == 5
    assert await rig.actor(Account, "a").deposit(1) == 6
    assert await keyed(rig, "k").deposit(5) == 5
    assert await keyed(rig, "other").deposit(5) == 11
    assert Account.ran == 3
    assert await rig.actor(Account, "a").balance() == 11


async def test_the_reply_is_in_the_commit_of_the_turn(rig: Any, store: Any) -> None:
    await keyed(rig, "k").deposit(5)
    assert store.commits == 1
    await keyed(rig, "k").deposit(5)
    assert store.commits == 1


async def test_no_result_is_an_answer_too(rig: Any) -> None:
    for _ in range(3):
        assert await keyed(rig, "k").nothing() is None
    assert Account.ran == 1


async def test_actors_have_keys_of_their_own(rig: Any) -> None:
    assert await keyed(rig, "k", "a").deposit(5) == 5
    assert await keyed(rig, "k", "b").deposit(7) == 7


async def test_over_a_crash_and_before_the_first_load(rig: Any, start: Any) -> None:
    await keyed(rig, "k").deposit(5)
    await rig.crash()
    after = await start(Account)
    assert await keyed(after, "k").deposit(5) == 5
    assert Account.ran == 1


async def test_both_at_once(rig: Any) -> None:
    answers = await asyncio.gather(*(keyed(rig, "k").deposit(5) for _ in range(10)))
    assert answers == [5] * 10
    assert Account.ran == 1


async def test_another_call_with_the_key_is_refused(rig: Any) -> None:
    await keyed(rig, "k").deposit(5)
    with pytest.raises(KeyReused, match="'k' was used with another input"):
        await keyed(rig, "k").deposit(6)
    with pytest.raises(KeyReused, match="another method, 'deposit'"):
        await keyed(rig, "k").nothing()
    assert Account.ran == 1


async def test_a_call_that_failed_may_be_made_again(rig: Any) -> None:
    Account.broken = True
    with pytest.raises(ActorMethodFailed):
        await keyed(rig, "k").fail(3)
    Account.broken = False
    assert await keyed(rig, "k").fail(3) == 3
    assert Account.ran == 2


async def test_a_call_that_failed_with_a_part_saved_stays_failed(rig: Any, start: Any) -> None:
    Account.broken = True
    for node in (rig, rig):
        with pytest.raises(
            ActorMethodFailed, match=r"Account\.in_parts raised ValueError: half way"
        ) as caught:
            await keyed(node, "k").in_parts(3)
        assert (caught.value.error_type, caught.value.error_message) == ("ValueError", "half way")
    assert Account.ran == 1
    assert await rig.actor(Account, "a").balance() == 3


async def test_saved_in_parts_and_done(rig: Any) -> None:
    assert [await keyed(rig, "k").in_parts(3) for _ in range(2)] == [3, 3]
    assert Account.ran == 1


async def test_lost_after_a_part_was_saved_nobody_knows(rig: Any, start: Any) -> None:
    Account.gate = asyncio.Event()
    call = asyncio.ensure_future(keyed(rig, "k").in_parts(3))
    await rig.until(lambda: rig.store.commits == 1)
    await rig.spin()
    await rig.crash()
    call.cancel()
    after = await start(Account)
    with pytest.raises(OutcomeUnknown, match="a part of the call with the key 'k' was saved"):
        await keyed(after, "k").in_parts(3)
    assert Account.ran == 1


async def test_a_lost_turn_is_executed_again(rig: Any) -> None:
    """The partition goes away and comes back while the commit is under way."""
    await keyed(rig, "first").deposit(1)
    call = asyncio.ensure_future(keyed(rig, "k").deposit(5))
    await rig.until(lambda: Account.ran == 2)
    rig.lose()
    await rig.own()
    await rig.advance(2)
    assert await call == 6
    assert await rig.actor(Account, "a").balance() == 6


async def test_replies_are_forgotten_after_their_time(start: Any) -> None:
    Account.ran = 0
    rig = await start(Account, keep_replies=timedelta(seconds=30))
    await keyed(rig, "k").deposit(5)
    await rig.advance(29)
    assert await keyed(rig, "k").deposit(5) == 5
    await rig.advance(2)
    assert await keyed(rig, "k").deposit(5) == 10
    await rig.advance(2 * SLACK / 1e6 + 40)
    assert list(await rig.stored(Account, "a")) == ["balance"]


@pytest.mark.parametrize("key", ["", "x" * 257, "a\x00b", 5])
async def test_what_is_no_key(rig: Any, key: Any) -> None:
    with pytest.raises(InvalidInput, match="idempotency key"):
        await keyed(rig, key).deposit(1)


async def test_by_name(rig: Any) -> None:
    proxy = ActorProxy(rig.caller, "Account", "a", idempotency_key="k")
    assert [await proxy.call("deposit", 5) for _ in range(2)] == [5, 5]
