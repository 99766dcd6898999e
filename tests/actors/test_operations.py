"""State, reminders and timers changed from outside: turns like any other, without the user's code."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from perdure.actors import operations
from perdure.actors.actor import Actor
from perdure.actors.operations import DeleteKey, Named, ReminderRequest, SetKey, TimerRequest
from perdure.actors.schedule import FailurePolicy
from perdure.errors import AlreadyExists, ConfigurationError, InvalidInput, NotFound, StoreError
from perdure.statestore.contract import ActorId


class Lamp(Actor):
    made = 0
    fired: list[tuple[str, Any]] = []  # noqa: RUF012

    async def on_activate(self) -> None:
        type(self).made += 1
        self.level = await self.state.get("level", int, default=0)

    async def read(self) -> list[int]:
        return [self.level, await self.state.get("level", int, default=0)]

    async def glow(self, level: int) -> None:
        self.fired.append(("glow", level))

    async def off(self) -> None:
        self.fired.append(("off", None))

    async def wait(self) -> None:
        await GATE["gate"].wait()

    async def on_reminder(self, name: str, data: object) -> None:
        self.fired.append((name, data))
        if data == "fail":
            raise ValueError("no")

    async def _secret(self) -> None: ...


class Deaf(Actor):
    async def nothing(self) -> None: ...


GATE: dict[str, asyncio.Event] = {}


@pytest.fixture
async def rig(start: Any) -> Any:
    Lamp.made, Lamp.fired = 0, []
    GATE["gate"] = asyncio.Event()
    return await start(Lamp, Deaf)


async def ask(rig: Any, operation: str, request: Any, kind: str = "Lamp") -> None:
    body = operations.encode(request)
    assert await rig.caller.call_actor(ActorId(kind, "a"), operation, body) is None


def put(key: str, value: Any, ttl: str | None = None) -> SetKey:
    return SetKey(key, msgspec.Raw(msgspec.json.encode(value)), ttl)


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


async def test_all_changes_of_state_are_one_commit(rig: Any, store: Any) -> None:
    await ask(rig, operations.CHANGE_STATE, [put("a", 1), put("b", {"x": [None]}), put("level", 3)])
    assert store.commits == 1
    await ask(rig, operations.CHANGE_STATE, [DeleteKey("a"), DeleteKey("never"), put("b", "new")])
    assert await rig.stored(Lamp, "a") == {"b": b'"new"', "level": b"3"}
    assert Lamp.made == 0


async def test_none_of_the_changes_when_one_cannot_be(rig: Any, store: Any) -> None:
    for wrong in (put("~reply/x", 1), put("", 1), put("inbox-000001", 1), put("b", 1, "soon")):
        with pytest.raises(InvalidInput):
            await ask(rig, operations.CHANGE_STATE, [put("a", 1), wrong])
    assert await rig.stored(Lamp, "a") == {}


async def test_a_rejected_commit_is_said(rig: Any, store: Any) -> None:
    def refuse(batch: Any) -> None:
        raise StoreError("too large")

    store.on_commit = refuse
    with pytest.raises(StoreError, match="too large"):
        await ask(rig, operations.CHANGE_STATE, [put("a", 1)])


async def test_a_value_with_a_ttl(rig: Any) -> None:
    await ask(rig, operations.CHANGE_STATE, [put("level", 3, "10s")])
    assert await rig.actor(Lamp, "a").read() == [3, 3]
    await rig.advance(10)
    assert await rig.actor(Lamp, "a").read() == [3, 0]


async def test_the_object_does_not_go_on_with_what_it_knew(rig: Any) -> None:
    lamp = rig.actor(Lamp, "a")
    assert await lamp.read() == [0, 0]
    await ask(rig, operations.CHANGE_STATE, [put("level", 7)])
    assert await lamp.read() == [7, 7]
    await ask(rig, operations.SET_REMINDER, ReminderRequest("r", "1h"))
    await lamp.read()
    assert Lamp.made == 2


async def test_it_takes_its_turn(rig: Any) -> None:
    call = asyncio.ensure_future(rig.actor(Lamp, "a").wait())
    await rig.spin()
    change = asyncio.ensure_future(ask(rig, operations.CHANGE_STATE, [put("level", 1)]))
    await rig.spin()
    assert not change.done()
    GATE["gate"].set()
    await asyncio.gather(call, change)


async def test_a_reminder_from_outside(rig: Any) -> None:
    request = ReminderRequest("r", "2s", "R2/PT3S", None, raw({"n": 1}))
    await ask(rig, operations.SET_REMINDER, request)
    await rig.advance(20)
    assert Lamp.fired == [("r", {"n": 1})] * 2
    await ask(rig, operations.SET_REMINDER, ReminderRequest("r", "5s", failure_policy=FailurePolicy.drop()))
    with pytest.raises(AlreadyExists):
        await ask(rig, operations.SET_REMINDER, ReminderRequest("r", "5s", overwrite=False))
    await ask(rig, operations.DELETE_REMINDER, Named("r"))
    await ask(rig, operations.DELETE_REMINDER, Named("r"))
    await rig.advance(20)
    assert len(Lamp.fired) == 2
    assert await rig.reminders(Lamp, "a") == []


async def test_its_failure_policy(rig: Any) -> None:
    policy = FailurePolicy.constant("2s", 1)
    await ask(rig, operations.SET_REMINDER, ReminderRequest("r", "1s", None, None, raw("fail"), True, policy))
    await rig.advance(20)
    assert len(Lamp.fired) == 2


@pytest.mark.parametrize(
    "request_",
    [
        ReminderRequest("a/b"),
        ReminderRequest("dapr.internal.expire"),
        ReminderRequest("r", "soon"),
        ReminderRequest("r", "1s", "P1Y"),
        ReminderRequest("r", "10s", None, "5s"),
        ReminderRequest("r", failure_policy=FailurePolicy(0, -1)),
    ],
)
async def test_what_is_no_reminder(rig: Any, request_: ReminderRequest) -> None:
    with pytest.raises(InvalidInput):
        await ask(rig, operations.SET_REMINDER, request_)
    assert await rig.reminders(Lamp, "a") == []


async def test_a_class_that_has_no_use_for_reminders(rig: Any) -> None:
    with pytest.raises(ConfigurationError, match="has no on_reminder"):
        await ask(rig, operations.SET_REMINDER, ReminderRequest("r", "1s"), "Deaf")


async def test_timers_from_outside(rig: Any) -> None:
    await ask(rig, operations.SET_TIMER, TimerRequest("t", "glow", "1s", "R2/PT1S", None, raw(5)))
    await ask(rig, operations.SET_TIMER, TimerRequest("o", "off", "1s", "1s"))
    await rig.advance(3.5)
    await ask(rig, operations.DELETE_TIMER, Named("o"))
    await rig.advance(5)
    assert sorted(Lamp.fired, key=str) == [("glow", 5)] * 2 + [("off", None)] * 3


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (TimerRequest("t", "none", "1s"), NotFound),
        (TimerRequest("t", "_secret", "1s"), NotFound),
        (TimerRequest("t", "glow", "1s"), InvalidInput),
        (TimerRequest("t", "glow", "1s", data=msgspec.Raw(b'"bright"')), InvalidInput),
        (TimerRequest("t", "off", "1s", data=msgspec.Raw(b"1")), InvalidInput),
        (TimerRequest("t", "off", "never"), InvalidInput),
        (TimerRequest("t/", "off"), InvalidInput),
    ],
)
async def test_what_is_no_timer(rig: Any, request_: TimerRequest, error: type[Exception]) -> None:
    with pytest.raises(error):
        await ask(rig, operations.SET_TIMER, request_)


@pytest.mark.parametrize("body", [None, b"", b"[]x", b'{"do":"set"}', b'[{"do":"turn"}]', b"\xff"])
async def test_what_cannot_be_read(rig: Any, body: bytes | None) -> None:
    for operation in operations.OPERATIONS:
        with pytest.raises(InvalidInput, match="cannot be read"):
            await rig.caller.call_actor(ActorId("Lamp", "a"), operation, body)
