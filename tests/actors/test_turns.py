"""One message, one turn, one commit: what callers get, and what is stored, when things go well and when not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from perdure.actors.actor import Actor
from perdure.actors.proxy import ActorProxy
from perdure.errors import (
    ActorMethodFailed,
    DeadlineExceeded,
    InvalidInput,
    InvalidState,
    LoopBlocked,
    NotFound,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
)
from perdure.statestore.contract import ActorId


@dataclass
class Item:
    name: str
    count: int = 1


class Counter(Actor):
    made = 0

    async def on_activate(self) -> None:
        type(self).made += 1
        self.calls = 0

    async def increment(self, by: int) -> int:
        self.calls += 1
        value = await self.state.get("n", int, default=0) + by
        self.state.set("n", value)
        return value

    async def read(self) -> int:
        return await self.state.get("n", int, default=0)

    async def seen(self) -> int:
        return self.calls

    async def fail(self) -> None:
        self.calls += 100
        self.state.set("n", 1_000_000)
        await self.set_reminder("late", "1h")
        raise ValueError("not like this")

    async def on_reminder(self, name: str, data: object) -> None:
        pass

    async def block(self) -> None:
        raise LoopBlocked

    async def cancelled(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def big(self) -> None:
        self.state.set("big", "x" * 100)

    async def unwritable(self) -> object:
        self.state.set("n", 5)
        return object()

    async def add_item(self, item: Item) -> list[Item]:
        items = await self.state.get("items", list[Item], default=[])
        items.append(item)
        self.state.set("items", items)
        return items

    def plain(self, text: str = "nothing") -> str:
        self.state.set("plain", text)
        return text

    async def call_self(self) -> int:
        return await self.proxy(Counter, self.id).increment(1)

    async def call_other(self, other: str) -> int:
        return await self.proxy(Counter, other).increment(1)

    async def _hidden(self) -> None: ...


class Gate(Actor):
    """Its methods wait for the test."""

    entered = 0
    gates: dict[str, asyncio.Event] = {}  # noqa: RUF012
    log: list[str] = []  # noqa: RUF012

    async def enter(self, name: str) -> str:
        type(self).entered += 1
        self.log.append(f"+{name}")
        self.state.set(name, True)
        try:
            await self.gates.setdefault(name, asyncio.Event()).wait()
        finally:
            self.log.append(f"-{name}")
        return name

    async def save_then_wait(self, name: str) -> str:
        type(self).entered += 1
        self.state.set("saved", name)
        await self.state.save()
        self.state.set("after", name)
        await self.gates.setdefault(name, asyncio.Event()).wait()
        return name

    async def stubborn(self, name: str) -> str:
        self.log.append(f"+{name}")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self.gates.setdefault(name, asyncio.Event()).wait()
            try:
                self.state.set("late", 1)
            except InvalidState:
                self.log.append("refused")
        return name


@pytest.fixture(autouse=True)
def _anew() -> None:
    Counter.made = Gate.entered = 0
    Gate.gates = {}
    Gate.log = []


async def test_a_call_changes_state_and_answers(start: Any) -> None:
    rig = await start(Counter)
    counter = rig.actor(Counter, "a")
    assert await counter.increment(2) == 2
    assert await counter.increment(by=3) == 5
    assert await rig.actor(Counter, "b").read() == 0
    assert await rig.stored(Counter, "a") == {"n": b"5"}


async def test_the_answer_comes_after_the_commit(start: Any, store: Any) -> None:
    rig = await start(Counter)
    counter = rig.actor(Counter, "a")
    seen: list[bool] = []
    call = asyncio.ensure_future(counter.increment(1))
    store.on_commit = lambda batch: seen.append(call.done())
    await call
    assert seen == [False]
    assert store.commits == 1


async def test_a_read_needs_no_commit_while_placement_is_fresh(start: Any, store: Any) -> None:
    rig = await start(Counter)
    counter = rig.actor(Counter, "a")
    await counter.increment(1)
    await counter.read()
    assert store.commits == 1
    rig.is_fresh = False
    await counter.read()
    assert store.commits == 2


async def test_values_are_typed(start: Any) -> None:
    rig = await start(Counter)
    items = await rig.actor(Counter, "a").add_item(Item("tea", 2))
    assert items == [Item("tea", 2)]
    again = await ActorProxy(rig.caller, "Counter", "a").call("add_item", {"name": "milk", "count": 1})
    assert again == [{"name": "tea", "count": 2}, {"name": "milk", "count": 1}]


async def test_plain_methods_and_defaults(start: Any) -> None:
    rig = await start(Counter)
    proxy = ActorProxy(rig.caller, "Counter", "a")
    assert await proxy.call("plain") == "nothing"
    assert await proxy.call("plain", "tea") == "tea"
    assert await rig.stored(Counter, "a") == {"plain": b'"tea"'}


async def test_an_unknown_method_names_those_that_exist(start: Any) -> None:
    rig = await start(Counter)
    proxy = ActorProxy(rig.caller, "Counter", "a")
    for name in ("nope", "_hidden", "on_activate", "set_reminder", "state", "proxy"):
        with pytest.raises(NotFound, match=r"no method .*add_item.*increment.*read"):
            await proxy.call(name)


async def test_wrong_input_names_the_field_and_runs_nothing(start: Any) -> None:
    rig = await start(Counter)
    proxy = ActorProxy(rig.caller, "Counter", "a")
    with pytest.raises(InvalidInput, match=r"Counter\.add_item.*field `count`.*int"):
        await proxy.call("add_item", {"name": "tea", "count": "two"})
    with pytest.raises(InvalidInput, match=r"Counter\.increment is missing: expected int"):
        await proxy.call("increment")
    with pytest.raises(InvalidInput, match=r"Counter\.read takes no input"):
        await proxy.call("read", 7)
    assert Counter.made == 0


async def test_a_failed_method_discards_the_turn_and_the_object(start: Any) -> None:
    rig = await start(Counter)
    counter = rig.actor(Counter, "a")
    await counter.increment(1)
    with pytest.raises(ActorMethodFailed, match=r"Counter\.fail raised ValueError: not like this") as caught:
        await counter.fail()
    assert (caught.value.error_type, caught.value.error_message) == ("ValueError", "not like this")
    assert await counter.read() == 1
    assert await counter.seen() == 0
    assert Counter.made == 2
    assert await rig.reminders(Counter, "a") == []


@pytest.mark.parametrize(("method", "error"), [("block", "LoopBlocked"), ("cancelled", "CancelledError")])
async def test_what_else_a_method_can_raise(start: Any, method: str, error: str) -> None:
    rig = await start(Counter)
    with pytest.raises(ActorMethodFailed, match=error):
        await ActorProxy(rig.caller, "Counter", "a").call(method)
    assert await rig.actor(Counter, "a").increment(1) == 1


async def test_a_result_that_is_not_json_is_the_methods_failure(start: Any) -> None:
    rig = await start(Counter)
    with pytest.raises(ActorMethodFailed, match=r"result of Counter\.unwritable has type object"):
        await rig.actor(Counter, "a").unwritable()
    assert await rig.stored(Counter, "a") == {}


async def test_one_turn_at_a_time_in_order_of_arrival(start: Any) -> None:
    rig = await start(Gate)
    gate = rig.actor(Gate, "a")
    calls = [asyncio.ensure_future(gate.enter(name)) for name in "abc"]
    await rig.until(lambda: Gate.log == ["+a"])
    await rig.spin()
    assert Gate.entered == 1
    for name in "abc":
        Gate.gates.setdefault(name, asyncio.Event()).set()
    assert await asyncio.gather(*calls) == ["a", "b", "c"]
    assert Gate.log == ["+a", "-a", "+b", "-b", "+c", "-c"]


async def test_actors_run_beside_each_other(start: Any) -> None:
    rig = await start(Gate)
    calls = [asyncio.ensure_future(rig.actor(Gate, name).enter(name)) for name in "ab"]
    await rig.until(lambda: sorted(Gate.log) == ["+a", "+b"])
    for name in "ab":
        Gate.gates[name].set()
    await asyncio.gather(*calls)


async def test_an_actor_that_calls_itself_is_told(start: Any) -> None:
    rig = await start(Counter)
    with pytest.raises(ActorMethodFailed, match="calls itself from its own turn"):
        await rig.actor(Counter, "a").call_self()
    assert await rig.actor(Counter, "a").call_other("b") == 1


async def test_a_call_that_takes_too_long(start: Any) -> None:
    rig = await start(Gate)
    call = asyncio.ensure_future(rig.actor(Gate, "a", timeout=5).enter("x"))
    await rig.until(lambda: Gate.entered == 1)
    await rig.clock.advance(5, rig.spin)
    with pytest.raises(DeadlineExceeded, match=r"no answer to 'enter' within 5 s"):
        await call
    Gate.gates["x"].set()
    await rig.settle()


# --- the store and ownership --------------------------------------------------------------------------------------


async def test_a_commit_without_answer_is_tried_again(start: Any, store: Any) -> None:
    rig = await start(Counter)
    errors = [StoreUnavailable(), StoreUnavailable()]
    store.on_commit = lambda batch: _raise(errors.pop()) if errors else None
    call = asyncio.ensure_future(rig.actor(Counter, "a").increment(1))
    await rig.spin()
    assert not call.done()
    await rig.advance(10)
    assert await call == 1
    assert Counter.made == 1


async def test_a_rejected_commit_changes_nothing_and_says_so(start: Any, store: Any) -> None:
    rig = await start(Counter)
    counter = rig.actor(Counter, "a")
    await counter.increment(1)
    store.on_commit = lambda batch: _raise(StoreError("too large")) if "big" in batch[0].put else None
    with pytest.raises(StoreError, match="too large"):
        await counter.big()
    assert await counter.increment(1) == 2
    assert Counter.made == 2


async def test_a_conflict_runs_the_call_again_on_the_stored_state(start: Any, store: Any) -> None:
    rig = await start(Counter)
    counter = rig.actor(Counter, "a")
    await counter.increment(1)
    record = store.actors[ActorId("Counter", "a")]
    record.values["n"] = b"10"
    record.version = b"another"
    assert await counter.increment(1) == 11
    assert Counter.made == 2


async def test_a_lost_partition_cancels_the_turn_and_the_call_runs_again(start: Any) -> None:
    rig = await start(Gate)
    call = asyncio.ensure_future(rig.actor(Gate, "a").enter("x"))
    await rig.until(lambda: Gate.entered == 1)
    rig.lose()
    await rig.until(lambda: Gate.log == ["+x", "-x"])
    assert await rig.stored(Gate, "a") == {}
    await rig.own()
    Gate.gates["x"].set()
    await rig.advance(1)
    assert await call == "x"
    assert Gate.entered == 2


async def test_a_stubborn_turn_neither_holds_its_caller_nor_changes_anything(start: Any) -> None:
    rig = await start(Gate)
    call = asyncio.ensure_future(rig.actor(Gate, "a", timeout=3).stubborn("x"))
    await rig.until(lambda: Gate.log == ["+x"])
    rig.lose()
    await rig.clock.advance(4, rig.spin)
    with pytest.raises(DeadlineExceeded):
        await call
    Gate.gates["x"].set()
    await rig.until(lambda: "refused" in Gate.log)
    await rig.own()
    assert await rig.stored(Gate, "a") == {}


async def test_a_turn_lost_before_its_first_step_is_answered(start: Any) -> None:
    rig = await start(Counter)
    counter = rig.actor(Counter, "a")
    await counter.increment(1)
    activation = rig.activation(Counter, "a")
    call = asyncio.ensure_future(counter.increment(1))
    await rig.until(lambda: activation.phase.value == "turn")
    rig.lose()
    await rig.own()
    await rig.advance(1)
    assert await call == 2


async def test_a_fenced_commit_is_not_acknowledged(start: Any) -> None:
    """Two nodes: the first does not know yet that it lost everything."""
    old = await start(Counter)
    await old.actor(Counter, "a").increment(1)
    new = await start(Counter)
    call = asyncio.ensure_future(old.actor(Counter, "a", timeout=3).increment(1))
    await old.settle()
    assert old.host.activations == {}
    assert await new.actor(Counter, "a").increment(1) == 2
    await old.clock.advance(5, old.spin)
    with pytest.raises(DeadlineExceeded):
        await call


# --- save ---------------------------------------------------------------------------------------------------------


async def test_save_stores_what_was_changed_so_far(start: Any, store: Any) -> None:
    rig = await start(Gate)
    call = asyncio.ensure_future(rig.actor(Gate, "a").save_then_wait("x"))
    await rig.until(lambda: "x" in Gate.gates)
    assert await rig.stored(Gate, "a") == {"saved": b'"x"'}
    second = asyncio.ensure_future(rig.actor(Gate, "a").enter("y"))
    await rig.spin()
    assert Gate.entered == 1  # nobody's call runs in between
    Gate.gates["x"].set()
    assert await call == "x"
    assert (await rig.stored(Gate, "a"))["after"] == b'"x"'
    await rig.until(lambda: "y" in Gate.gates)
    Gate.gates["y"].set()
    await second


async def test_a_call_lost_after_save_has_an_unknown_outcome(start: Any) -> None:
    rig = await start(Gate)
    call = asyncio.ensure_future(rig.actor(Gate, "a").save_then_wait("x"))
    await rig.until(lambda: "x" in Gate.gates)
    rig.lose()
    with pytest.raises(OutcomeUnknown):
        await call
    assert Gate.entered == 1


async def test_a_call_whose_last_commit_meets_another_version_does_not_run_again(
    start: Any, store: Any
) -> None:
    rig = await start(Gate)
    call = asyncio.ensure_future(rig.actor(Gate, "a").save_then_wait("x"))
    await rig.until(lambda: "x" in Gate.gates)
    store.actors[ActorId("Gate", "a")].version = b"another"
    Gate.gates["x"].set()
    with pytest.raises(OutcomeUnknown):
        await call
    assert Gate.entered == 1
    assert await rig.stored(Gate, "a") == {"saved": b'"x"'}


async def test_a_call_whose_last_commit_is_fenced_does_not_run_again(start: Any) -> None:
    rig = await start(Gate)
    call = asyncio.ensure_future(rig.actor(Gate, "a").save_then_wait("x"))
    await rig.until(lambda: "x" in Gate.gates)
    await start(Gate)
    Gate.gates["x"].set()
    with pytest.raises(OutcomeUnknown):
        await call
    assert Gate.entered == 1


async def test_a_save_that_is_rejected_raises_in_the_method(start: Any, store: Any) -> None:
    rig = await start(Gate)
    store.on_commit = lambda batch: _raise(StoreError("too large")) if "saved" in batch[0].put else None
    with pytest.raises(ActorMethodFailed, match="StoreError: too large"):
        await rig.actor(Gate, "a").save_then_wait("x")
    assert await rig.stored(Gate, "a") == {}
    rig.activation(Gate, "a")
    Gate.gates["z"] = asyncio.Event()
    Gate.gates["z"].set()
    assert await rig.actor(Gate, "a").enter("z") == "z"


async def test_a_save_that_meets_another_version_runs_the_call_again(start: Any, store: Any) -> None:
    rig = await start(Gate)
    for name in "zx":
        Gate.gates[name] = asyncio.Event()
        Gate.gates[name].set()
    await rig.actor(Gate, "a").enter("z")
    store.actors[ActorId("Gate", "a")].version = b"another"
    assert await rig.actor(Gate, "a").save_then_wait("x") == "x"
    assert Gate.entered == 3


def _raise(error: Exception) -> None:
    raise error
