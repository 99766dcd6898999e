"""Reminders of user actors: they fire, repeat, survive, fail and end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.actors.actor import Actor, ReminderInfo
from perdure.errors import ActorMethodFailed, StoreError
from perdure.statestore.contract import ActorId, Commit, Fence, Reminder


class Alarm(Actor):
    fired: list[tuple[str, Any, float]] = []  # noqa: RUF012
    failing: set[str] = set()  # noqa: RUF012
    clock: Any = None

    async def remind(self, options: dict[str, Any]) -> None:
        await self.set_reminder(**options)

    async def forget(self, name: str) -> None:
        await self.delete_reminder(name)

    async def look(self, name: str) -> ReminderInfo | None:
        return await self.get_reminder(name)

    async def hold(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await self.delete_reminder("r")

    async def on_reminder(self, name: str, data: object) -> None:
        self.fired.append((name, data, self.clock.time))
        self.state.set("count", await self.state.get("count", int, default=0) + 1)
        if name in self.failing:
            raise ValueError("not now")
        if data == "replace":
            await self.set_reminder(name, "5s", data="replaced")
        if data == "delete":
            await self.delete_reminder(name)
        if data == "save":
            await self.state.save()

    async def count(self) -> int:
        return await self.state.get("count", int, default=0)


class Deaf(Actor):
    async def remind(self) -> None:
        await self.set_reminder("x")


@pytest.fixture
async def rig(start: Any) -> Any:
    Alarm.fired = []
    Alarm.failing = set()
    rig = await start(Alarm)
    Alarm.clock = rig.clock
    return rig


def times() -> list[float]:
    return [round(at, 2) for _, _, at in Alarm.fired]


async def test_a_reminder_fires_once_and_is_gone(rig: Any) -> None:
    alarm = rig.actor(Alarm, "a")
    await alarm.remind({"name": "r", "due": "2s", "data": {"k": [1]}})
    await rig.advance(1.9)
    assert Alarm.fired == []
    await rig.advance(1)
    assert [(name, data) for name, data, _ in Alarm.fired] == [("r", {"k": [1]})]
    assert times() == [2.0]
    assert await rig.reminders(Alarm, "a") == []
    assert await alarm.count() == 1
    await rig.advance(100)
    assert len(Alarm.fired) == 1


async def test_a_period_has_no_drift(rig: Any) -> None:
    await rig.actor(Alarm, "a").remind({"name": "r", "due": "1s", "period": "3s"})
    await rig.advance(31)
    assert times() == [1.0, 4.0, 7.0, 10.0, 13.0, 16.0, 19.0, 22.0, 25.0, 28.0, 31.0][: len(times())]
    assert len(times()) >= 10


async def test_repeats_and_ttl_end_it(rig: Any) -> None:
    alarm = rig.actor(Alarm, "a")
    await alarm.remind({"name": "r", "period": "R3/PT2S"})
    await rig.advance(20)
    assert times() == [0.0, 2.0, 4.0]
    Alarm.fired.clear()
    await alarm.remind({"name": "t", "due": "1s", "period": "2s", "ttl": "6s"})
    await rig.advance(20)
    assert [at - 20 for at in times()] == [1.0, 3.0, 5.0]
    assert await rig.reminders(Alarm, "a") == []


async def test_looking_replacing_and_deleting(rig: Any) -> None:
    alarm = rig.actor(Alarm, "a")
    assert await alarm.look("r") is None
    await alarm.remind({"name": "r", "due": "10s", "period": "R5/PT1M", "data": 7})
    info = await alarm.look("r")
    assert info is not None
    assert (info.name, info.period, info.left, info.data) == ("r", 60_000_000, 5, 7)
    assert info.due == rig.clock.now() + 10_000_000
    with pytest.raises(ActorMethodFailed, match="AlreadyExists"):
        await alarm.remind({"name": "r", "due": "1s", "overwrite": False})
    await alarm.remind({"name": "r", "due": "3s"})
    assert rig.evict(Alarm, "a")
    info = await alarm.look("r")
    assert info is not None
    assert info.period is None
    await alarm.forget("r")
    await alarm.forget("never there")
    await rig.advance(30)
    assert Alarm.fired == []


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": "a/b"}, {"name": "r", "due": "soon"}, {"name": "r", "period": "0s"}]
)
async def test_wrong_reminders_are_refused(rig: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ActorMethodFailed, match=r"InvalidInput.*reminder"):
        await rig.actor(Alarm, "a").remind(wrong)
    assert await rig.reminders(Alarm, "a") == []


async def test_a_class_without_on_reminder_cannot_set_one(start: Any) -> None:
    rig = await start(Deaf)
    with pytest.raises(ActorMethodFailed, match="has no on_reminder"):
        await rig.actor(Deaf, "a").remind()


async def test_the_handler_can_replace_or_delete_its_reminder(rig: Any) -> None:
    alarm = rig.actor(Alarm, "a")
    await alarm.remind({"name": "r", "due": "1s", "period": "1s", "data": "replace"})
    await alarm.remind({"name": "d", "due": "1s", "period": "1s", "data": "delete"})
    await alarm.remind({"name": "s", "due": "1s", "data": "save"})
    await rig.advance(1.5)
    assert sorted(name for name, _, _ in Alarm.fired) == ["d", "r", "s"]
    assert await rig.reminders(Alarm, "a") == ["r"]
    await rig.advance(20)
    assert [data for name, data, _ in Alarm.fired if name == "r"] == ["replace", "replaced"]
    assert await alarm.count() == 4


async def test_a_failing_handler_is_tried_again_then_given_up(rig: Any) -> None:
    alarm = rig.actor(Alarm, "a")
    Alarm.failing = {"once", "often"}
    await alarm.remind({"name": "once", "due": "1s"})
    await rig.advance(20)
    assert times() == [1.0, 2.0, 3.0, 4.0]
    assert await rig.reminders(Alarm, "a") == []
    assert await alarm.count() == 0
    Alarm.fired.clear()
    await alarm.remind({"name": "often", "due": "10s", "period": "10s"})
    await rig.advance(14.5)
    assert [at - 20 for at in times()] == [10.0, 11.0, 12.0, 13.0]
    Alarm.failing = set()
    await rig.advance(10)
    assert [at - 20 for at in times()] == [10.0, 11.0, 12.0, 13.0, 20.0]
    assert await alarm.count() == 1


async def test_a_retry_can_succeed_and_the_grid_stays(rig: Any) -> None:
    Alarm.failing = {"r"}
    await rig.actor(Alarm, "a").remind({"name": "r", "due": "1s", "period": "5s"})
    await rig.advance(2.5)
    Alarm.failing = set()
    await rig.advance(5)
    assert times() == [1.0, 2.0, 3.0, 6.0]


async def test_failures_are_counted_over_a_crash(rig: Any, start: Any) -> None:
    Alarm.failing = {"r"}
    await rig.actor(Alarm, "a").remind({"name": "r", "due": "1s"})
    await rig.advance(2.5)
    assert len(Alarm.fired) == 2
    await rig.crash()
    after = await start(Alarm)
    Alarm.clock = after.clock
    await after.advance(20)
    assert len(Alarm.fired) == 4
    assert await after.reminders(Alarm, "a") == []


async def test_reminders_survive_a_crash_and_missed_ticks_fire_once(rig: Any, start: Any) -> None:
    alarm = rig.actor(Alarm, "a")
    await alarm.remind({"name": "r", "due": "1s", "period": "2s"})
    await alarm.remind({"name": "late", "due": "3s"})
    await rig.advance(1.5)
    await rig.crash()
    rig.clock.time = 10.5
    after = await start(Alarm)
    Alarm.clock = after.clock
    Alarm.fired.clear()
    await after.advance(5)
    assert sorted((name, round(at, 1)) for name, _, at in Alarm.fired) == [
        ("late", 10.5),
        ("r", 10.5),
        ("r", 11.0),
        ("r", 13.0),
        ("r", 15.0),
    ]
    assert await after.actor(Alarm, "a").count() == 6


async def test_a_crash_in_the_handlers_turn_fires_it_again(rig: Any, start: Any) -> None:
    await rig.actor(Alarm, "a").remind({"name": "r", "due": "1s"})

    rig.cut()
    await rig.clock.advance(1.5, rig.spin)
    assert len(Alarm.fired) == 1
    await rig.crash()
    after = await start(Alarm)
    Alarm.clock = after.clock
    await after.advance(1)
    assert len(Alarm.fired) == 2
    assert await after.actor(Alarm, "a").count() == 1
    assert await after.reminders(Alarm, "a") == []


async def test_a_reminder_deleted_by_a_turn_before_it_does_not_fire(rig: Any) -> None:
    alarm = rig.actor(Alarm, "a")
    await alarm.remind({"name": "r", "due": "1s"})
    await rig.clock.advance(0.9999, rig.spin)
    held = asyncio.ensure_future(alarm.hold())
    await asyncio.sleep(0)
    rig.clock.time = 1.1
    rig.host.reminders._fire()
    await held
    await rig.advance(5)
    assert Alarm.fired == []
    assert rig.host.reminders._in_flight == 0


async def test_a_reminder_whose_commit_is_rejected_is_not_fired_for_ever(rig: Any, store: Any) -> None:
    await rig.actor(Alarm, "a").remind({"name": "r", "due": "1s"})

    def refuse(batch: Any) -> None:
        if any(b"1" in commit.put.get("count", b"") for commit in batch):
            raise StoreError("too large")

    store.on_commit = refuse
    await rig.advance(30)
    assert len(Alarm.fired) == 4
    assert await rig.reminders(Alarm, "a") == []


async def test_an_unreadable_reminder_is_put_off_and_kept(rig: Any, store: Any) -> None:
    actor = ActorId("Alarm", "a")
    fence: Fence = store.fences[next(iter(store.fences))][0]
    reminder = Reminder(actor, "r", rig.clock.now(), b"\xc1")
    commit = Commit(actor, rig.partition("a"), fence, None, b"v" * 16, {"k": b"1"}, reminders=[reminder])
    await store.commit([commit])
    rig.host.reminders.owned()
    await rig.advance(30)
    assert Alarm.fired == []
    assert [one.data for one in await store.reminders(actor)] == [b"\xc1"]
    assert await rig.actor(Alarm, "a").count() == 0
    assert store.commits <= 3
