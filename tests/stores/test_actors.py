"""What users' actors can do, over each store."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from perdure import Actor, ActorProxy, App, FailurePolicy
from perdure.actors import expiry, user_behaviour
from perdure.errors import ActorMethodFailed, AlreadyExists, KeyReused
from perdure.statestore.contract import ActorId


class Account(Actor):
    ran = 0

    async def deposit(self, amount: int) -> int:
        type(self).ran += 1
        balance = await self.state.get("balance", int, default=0) + amount
        self.state.set("balance", balance)
        return balance

    async def refuse(self, amount: int) -> int:
        type(self).ran += 1
        self.state.set("balance", 1_000_000)
        raise ValueError(f"not {amount}")

    async def balance(self) -> int:
        return await self.state.get("balance", int, default=0)


class Session(Actor):
    async def put(self, call: dict[str, Any]) -> None:
        self.state.set(call["key"], call["value"], ttl=call.get("ttl"))

    async def get(self, key: str) -> Any:
        return await self.state.get(key)


class Order(Actor):
    """Reentrant: the shop calls it back."""

    async def place(self, item: str) -> str:
        self.state.set("item", item)
        priced = await self.proxy(Shop, self.id).price(item)
        return f"{priced}, {await self.state.get('calls', int, default=0)} call back"

    async def item(self) -> str:
        self.state.set("calls", await self.state.get("calls", int, default=0) + 1)
        return await self.state.get("item", str, default="")

    async def broken(self) -> None:
        self.state.set("item", "nobody ordered this")
        raise ValueError("broken")


class Shop(Actor):
    async def price(self, item: str) -> str:
        order = self.proxy(Order, self.id)
        with pytest.raises(ActorMethodFailed, match="broken"):
            await order.broken()
        return f"{await order.item()}: {len(item)}"


class Closed(Actor):
    """Not reentrant."""

    async def around(self) -> None:
        await self.proxy(Through, self.id).back()


class Through(Actor):
    async def back(self) -> None:
        await self.proxy(Closed, self.id).around()


class Alarm(Actor):
    fired: dict[str, int] = {}  # noqa: RUF012
    #: By name, how often a reminder's handler raises before it does no more.
    raises: dict[str, int] = {}  # noqa: RUF012

    async def remind(self, call: dict[str, Any]) -> None:
        retries = call.get("retries", -1)
        policy = (
            None
            if retries == -1
            else (FailurePolicy.drop() if retries == 0 else FailurePolicy.constant("1s", retries))
        )
        await self.set_reminder(
            call["name"],
            call.get("due"),
            call.get("period"),
            ttl=call.get("ttl"),
            data={"of": call["name"]},
            overwrite=call.get("overwrite", True),
            failure_policy=policy,
        )

    async def stop(self, name: str) -> None:
        await self.delete_reminder(name)

    async def on_reminder(self, name: str, data: object) -> None:
        assert data == {"of": name}
        count = self.fired[name] = self.fired.get(name, 0) + 1
        if count <= self.raises.get(name, 0):
            raise ValueError("not now")
        self.state.set(name, await self.state.get(name, int, default=0) + 1)

    async def stored(self, name: str) -> int:
        return await self.state.get(name, int, default=0)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Account.ran = 0
    Alarm.fired, Alarm.raises = {}, {}


def app() -> App:
    app = App("actors")
    for cls in (Account, Session, Shop, Closed, Through, Alarm):
        app.actor(cls)
    app.actor(reentrant=True)(Order)
    return app


async def names_of_reminders(node: Any, actor: ActorId) -> list[str]:
    return sorted(one.name for one in await node.store.reminders(actor))


async def test_the_same_key_again_also_by_another_node(place: Any) -> None:
    async with place.serve(app()) as node:
        assert await node.actor(Account, "a", idempotency_key="k").deposit(5) == 5
        assert await node.actor(Account, "a").deposit(1) == 6
        assert await node.actor(Account, "a", idempotency_key="k").deposit(5) == 5
        with pytest.raises(ActorMethodFailed, match="not 1"):
            await node.actor(Account, "a", idempotency_key="failed").refuse(1)
    assert Account.ran == 3
    async with place.serve(app()) as node:
        assert await node.actor(Account, "a", idempotency_key="k").deposit(5) == 5
        assert Account.ran == 3
        with pytest.raises(KeyReused):
            await node.actor(Account, "a", idempotency_key="k").deposit(6)
        # A call that failed is not kept.
        with pytest.raises(ActorMethodFailed, match="not 1"):
            await node.actor(Account, "a", idempotency_key="failed").refuse(1)
        assert Account.ran == 4
        assert await node.actor(Account, "b", idempotency_key="k").deposit(7) == 7
        assert await node.actor(Account, "a").balance() == 6


async def test_a_workflow_pays_once(place: Any, run: Any) -> None:
    paid = app()

    @paid.activity
    async def deposit(ctx: Any, amount: int) -> int:
        account = ActorProxy.create(Account, "eve", idempotency_key=ctx.idempotency_key)
        assert await account.deposit(amount) == amount
        return await account.deposit(amount)

    @paid.workflow
    async def payday(ctx: Any, amount: int) -> int:
        return await ctx.call_activity(deposit, input=amount)

    async with place.serve(paid) as node:
        assert (await run(node.client, payday, 5)).output == 5
        assert await node.actor(Account, "eve").balance() == 5


async def test_values_expire_one_by_one(place: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else what has expired lies in the store for a minute.
    for module in (expiry, user_behaviour):
        monkeypatch.setattr(module, "SLACK", 100_000)
    actor = ActorId("Session", "a")
    async with place.serve(app()) as node:
        session = node.actor(Session, "a")
        await session.put({"key": "stays", "value": "ä"})
        await session.put({"key": "long", "value": [1, None], "ttl": "1h"})
        await session.put({"key": "soon", "value": 1, "ttl": "500ms"})
        assert await names_of_reminders(node, actor) == [expiry.EXPIRE]
    async with place.serve(app()) as node:
        session = node.actor(Session, "a")

        async def gone() -> bool:
            return await session.get("soon") is None

        await eventually(gone, "the value expires")
        assert [await session.get(key) for key in ("stays", "long")] == ["ä", [1, None]]

        async def swept() -> bool:
            found = await node.store.load(actor)
            assert found is not None
            return "soon" not in " ".join(found.values)

        await eventually(swept, "the value leaves the store")
        # What is set anew without a time stays.
        await session.put({"key": "long", "value": 2})
        assert await session.get("long") == 2


async def test_an_actor_of_which_nothing_is_left_is_gone(
    place: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (expiry, user_behaviour):
        monkeypatch.setattr(module, "SLACK", 100_000)
    actor = ActorId("Session", "short")
    async with place.serve(app()) as node:
        await node.actor(Session, "short").put({"key": "k", "value": 1, "ttl": "100ms"})

        async def gone() -> bool:
            return await node.store.load(actor) is None and not await names_of_reminders(node, actor)

        await eventually(gone, "the actor leaves the store")
        assert await node.actor(Session, "short").get("k") is None
        await node.actor(Session, "short").put({"key": "k", "value": 2})
        assert await node.actor(Session, "short").get("k") == 2


async def _none(found: Awaitable[Sequence[Any]]) -> bool:
    return not await found


async def test_calls_that_come_back(place: Any) -> None:
    async with place.serve(app()) as node:
        assert await node.actor(Order, "o").place("cars") == "cars: 4, 1 call back"
        with pytest.raises(
            ActorMethodFailed, match="InvalidState: the call of 'around' would never be answered"
        ):
            await node.actor(Closed, "o").around()
    async with place.serve(app()) as node:
        # What the inner call that failed had set was not stored.
        assert await node.actor(Order, "o").item() == "cars"


async def test_reminders_go_on_where_another_node_left_them(place: Any, eventually: Any) -> None:
    actor = ActorId("Alarm", "a")
    Alarm.raises = {"dropped": 1, "again": 2, "given up": 9, "later": 0}
    async with place.serve(app()) as node:
        alarm = node.actor(Alarm, "a")
        await alarm.remind({"name": "dropped", "retries": 0})
        await alarm.remind({"name": "again", "retries": 3})
        await alarm.remind({"name": "given up", "retries": 2})
        await alarm.remind({"name": "often", "period": "R3/PT0.1S"})
        await alarm.remind({"name": "later", "due": "1s"})
        await alarm.remind({"name": "far", "due": "1h"})
        with pytest.raises(ActorMethodFailed, match="far") as refused:
            await alarm.remind({"name": "far", "overwrite": False})
        assert refused.value.error_type == AlreadyExists.__name__
        await alarm.stop("far")

        async def left() -> bool:
            return await names_of_reminders(node, actor) in (["later"], [])

        await eventually(left, "all that is due has fired")
    fired = dict(Alarm.fired)
    assert {name: fired[name] for name in ("dropped", "again", "given up", "often")} == {
        "dropped": 1,
        "again": 3,
        "given up": 3,
        "often": 3,
    }
    async with place.serve(app()) as node:
        alarm = node.actor(Alarm, "a")
        await eventually(lambda: Alarm.fired.get("later"), "the last one fires")
        await eventually(lambda: _none(names_of_reminders(node, actor)), "none is left")
        stored = {
            name: await alarm.stored(name) for name in ("dropped", "again", "given up", "often", "later")
        }
        assert stored == {"dropped": 0, "again": 1, "given up": 0, "often": 3, "later": 1}


async def test_a_failing_tick_is_tried_again_by_another_node(place: Any, eventually: Any) -> None:
    Alarm.raises = {"stubborn": 10_000}
    async with place.serve(app()) as node:
        await node.actor(Alarm, "b").remind({"name": "stubborn", "retries": 100_000})
        await eventually(lambda: Alarm.fired.get("stubborn", 0) > 1, "it fails more than once")
    tried = Alarm.fired["stubborn"]
    Alarm.raises = {"stubborn": tried + 1}
    async with place.serve(app()) as node:
        await eventually(lambda: _none(names_of_reminders(node, ActorId("Alarm", "b"))), "it succeeds")
        assert await node.actor(Alarm, "b").stored("stubborn") == 1
    assert Alarm.fired["stubborn"] == tried + 2


async def test_a_reminder_with_a_ttl_ends(place: Any, eventually: Any) -> None:
    actor = ActorId("Alarm", "c")
    async with place.serve(app()) as node:
        alarm = node.actor(Alarm, "c")
        await alarm.remind({"name": "brief", "period": "100ms", "ttl": "450ms"})
        await alarm.remind({"name": "missed", "due": "600ms", "period": "100ms", "ttl": "700ms"})
        await eventually(lambda: Alarm.fired.get("brief", 0) > 0, "it fires")
    async with place.serve(app()) as node:
        await eventually(lambda: _none(names_of_reminders(node, actor)), "both have ended")
        assert 1 <= await node.actor(Alarm, "c").stored("brief") <= 5
        assert await node.actor(Alarm, "c").stored("missed") <= 1
