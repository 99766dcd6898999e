"""What becomes of reminders whose handlers raise, as their failure policies say."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure.actors.actor import Actor, ReminderInfo
from perdure.actors.schedule import ENDLESS, FailurePolicy
from perdure.errors import ActorMethodFailed, InvalidInput


class Nervous(Actor):
    fired: list[float] = []  # noqa: RUF012
    policy: FailurePolicy | None = None
    period: str | None = None
    calm_from = float("inf")
    clock: Any = None

    async def remind(self) -> None:
        await self.set_reminder("r", "1s", self.period, failure_policy=self.policy)

    async def look(self) -> ReminderInfo | None:
        return await self.get_reminder("r")

    async def on_reminder(self, name: str, data: object) -> None:
        self.fired.append(round(self.clock.time, 1))
        if self.clock.time < self.calm_from:
            raise ValueError("not now")


@pytest.fixture
async def rig(start: Any) -> Any:
    Nervous.fired, Nervous.calm_from, Nervous.period = [], float("inf"), None
    rig = await start(Nervous)
    Nervous.clock = rig.clock
    return rig


async def test_dropped_at_the_first_failure(rig: Any) -> None:
    Nervous.policy = FailurePolicy.drop()
    await rig.actor(Nervous, "a").remind()
    await rig.advance(30)
    assert Nervous.fired == [1.0]
    assert await rig.reminders(Nervous, "a") == []


async def test_a_dropped_tick_leaves_the_next_one(rig: Any) -> None:
    Nervous.policy, Nervous.period = FailurePolicy.drop(), "R3/PT5S"
    await rig.actor(Nervous, "a").remind()
    await rig.advance(30)
    assert Nervous.fired == [1.0, 6.0, 11.0]
    assert await rig.reminders(Nervous, "a") == []


async def test_tried_again_as_often_as_the_policy_says(rig: Any) -> None:
    Nervous.policy = FailurePolicy.constant(timedelta(seconds=4), 2)
    await rig.actor(Nervous, "a").remind()
    await rig.advance(3)
    info = await rig.actor(Nervous, "a").look()
    assert info is not None
    assert info.failures == 1
    await rig.advance(30)
    assert Nervous.fired == [1.0, 5.0, 9.0]
    assert await rig.reminders(Nervous, "a") == []


async def test_tried_until_it_succeeds_also_over_a_crash(rig: Any, start: Any) -> None:
    Nervous.policy, Nervous.calm_from = FailurePolicy.constant("5s", None), 40.0
    await rig.actor(Nervous, "a").remind()
    await rig.advance(12)
    assert Nervous.fired == [1.0, 6.0, 11.0]
    await rig.crash()
    after = await start(Nervous)
    Nervous.clock = after.clock
    await after.advance(60)
    assert Nervous.fired[3:] == [16.0, 21.0, 26.0, 31.0, 36.0, 41.0]
    assert await after.reminders(Nervous, "a") == []


async def test_an_interval_longer_than_the_period_skips_ticks(rig: Any) -> None:
    Nervous.policy, Nervous.period, Nervous.calm_from = FailurePolicy.constant("12s", 1), "5s", 10.0
    await rig.actor(Nervous, "a").remind()
    await rig.advance(25)
    assert Nervous.fired == [1.0, 13.0, 16.0, 21.0, 26.0][: len(Nervous.fired)]
    assert len(Nervous.fired) >= 4


@pytest.mark.parametrize(
    ("interval", "retries"),
    [("soon", 1), ("-1s", 1), (timedelta(seconds=-1), 1), (1.5, 1), ("1s", -1), ("1s", True), ("0.9s", None)],
)
def test_what_is_no_policy(interval: Any, retries: Any) -> None:
    with pytest.raises(InvalidInput, match=r"interval|max_retries|a duration is written"):
        FailurePolicy.constant(interval, retries)


def test_policies_are_values() -> None:
    assert FailurePolicy.constant() == FailurePolicy.constant("1s", 3) != FailurePolicy.drop()
    assert FailurePolicy.constant("1m", None).retries == ENDLESS
    with pytest.raises(InvalidInput, match="interval"):
        FailurePolicy(0, ENDLESS).checked()


async def test_anything_else_is_refused(rig: Any) -> None:
    Nervous.policy = 3  # type: ignore[assignment]
    with pytest.raises(ActorMethodFailed, match=r"FailurePolicy\.drop"):
        await rig.actor(Nervous, "a").remind()
