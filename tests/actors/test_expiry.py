"""State values that are there for a time only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.actors.actor import Actor
from perdure.actors.expiry import EXPIRE, SLACK, bare, expires_at, expiring, visible
from perdure.errors import ActorMethodFailed
from perdure.statestore.contract import SNAPSHOT_LIMIT, ActorId

#: Longer than any value lies in the store after its time.
SWEPT = 2 * SLACK / 1e6 + 5


class Session(Actor):
    ran = 0

    async def on_activate(self) -> None:
        type(self).ran += 1

    async def put(self, call: dict[str, Any]) -> None:
        self.state.set(call["key"], call.get("value", 1), ttl=call.get("ttl"))
        if call.get("read"):
            assert await self.state.contains(call["key"])

    async def put_until(self, seconds: float) -> None:
        self.state.set(
            "until", 1, ttl=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC) + timedelta(seconds=seconds)
        )

    async def put_many(self, call: dict[str, Any]) -> None:
        for number in range(call["count"]):
            self.state.set(f"{call['prefix']}{number:04d}", number, ttl=call.get("ttl"))

    async def put_then_fail(self) -> None:
        self.state.set("k", 1, ttl="10s")
        raise ValueError("no")

    async def get(self, key: str) -> Any:
        return await self.state.get(key)

    async def has(self, key: str) -> bool:
        return await self.state.contains(key)

    async def drop(self, key: str) -> None:
        self.state.delete(key)

    async def remind(self) -> None:
        await self.set_reminder("mine", "1h")

    async def on_reminder(self, name: str, data: object) -> None: ...


@pytest.fixture
async def rig(start: Any) -> Any:
    Session.ran = 0
    return await start(Session)


@given(st.binary(), st.integers(0, 2**63 - 1))
def test_a_value_and_its_time_come_back(value: bytes, at: int) -> None:
    stored = expiring(value, at)
    assert (bare(stored), expires_at(stored)) == (value, at)
    assert visible(stored, at - 1) == value
    assert visible(stored, at) is None


@given(
    st.one_of(
        st.none(),
        st.integers(-99, 2**63),
        st.text(),
        st.lists(st.text()),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_values_that_do_not_expire_are_as_they_always_were(value: Any) -> None:
    for encoded in (msgspec.json.encode(value), msgspec.msgpack.encode({"a": value})):
        assert expires_at(encoded) is None
        assert visible(encoded, 2**63) == bare(encoded) == encoded


async def test_gone_at_its_time_and_not_before(rig: Any) -> None:
    session = rig.actor(Session, "a")
    await session.put({"key": "k", "value": {"n": 1}, "ttl": "10s", "read": True})
    await rig.advance(9.9)
    assert await session.get("k") == {"n": 1}
    await rig.advance(0.1)
    assert await session.get("k") is None
    assert not await session.has("k")


async def test_a_time_as_ttl(rig: Any) -> None:
    session = rig.actor(Session, "a")
    await session.put_until(20)
    await rig.advance(19)
    assert await session.has("until")
    await rig.advance(2)
    assert not await session.has("until")


async def test_set_again_it_lives_on(rig: Any) -> None:
    session = rig.actor(Session, "a")
    await session.put({"key": "k", "ttl": "10s"})
    await rig.advance(8)
    await session.put({"key": "k", "ttl": "10s", "value": 2})
    await rig.advance(8)
    assert await session.get("k") == 2
    await session.put({"key": "k", "value": 3})
    await rig.advance(SWEPT)
    assert await session.get("k") == 3
    assert await rig.reminders(Session, "a") == []


async def test_it_holds_over_a_crash(rig: Any, start: Any) -> None:
    await rig.actor(Session, "a").put({"key": "k", "ttl": "10s"})
    await rig.crash()
    rig.clock.time = 11
    after = await start(Session)
    assert not await after.actor(Session, "a").has("k")
    await after.advance(SWEPT)
    assert await after.stored(Session, "a") == {}


async def test_what_is_over_leaves_the_store_without_the_users_code(rig: Any, store: Any) -> None:
    session = rig.actor(Session, "a")
    for number in range(5):
        await session.put({"key": f"short{number}", "ttl": f"{10 + number}s"})
    await session.put({"key": "long", "ttl": "1h"})
    await session.put({"key": "kept"})
    assert await rig.reminders(Session, "a") == [EXPIRE]
    assert rig.evict(Session, "a")
    ran, commits = Session.ran, store.commits
    await rig.advance(SWEPT)
    assert sorted(await rig.stored(Session, "a")) == ["kept", "long"]
    assert (Session.ran, store.commits) == (ran, commits + 1)
    await rig.advance(3600 + SWEPT)
    assert sorted(await rig.stored(Session, "a")) == ["kept"]
    assert await rig.reminders(Session, "a") == []


async def test_an_actor_of_which_nothing_is_left_is_gone(rig: Any, store: Any) -> None:
    session = rig.actor(Session, "a")
    await session.put({"key": "k", "ttl": "10s"})
    await rig.advance(SWEPT)
    assert await store.load(ActorId("Session", "a")) is None
    assert await rig.reminders(Session, "a") == []
    await session.put({"key": "k", "ttl": "10s", "value": 5})
    assert await session.get("k") == 5


async def test_an_actor_with_a_reminder_of_its_own_stays(rig: Any, store: Any) -> None:
    session = rig.actor(Session, "a")
    await session.remind()
    await session.put({"key": "k", "ttl": "10s"})
    await rig.advance(SWEPT)
    assert await rig.stored(Session, "a") == {}
    assert await rig.reminders(Session, "a") == ["mine"]


async def test_more_values_than_a_load_brings(rig: Any) -> None:
    session = rig.actor(Session, "a")
    await session.put_many({"prefix": "b", "count": SNAPSHOT_LIMIT})
    await session.put_many({"prefix": "a", "count": 50, "ttl": "20s"})
    await session.put_many({"prefix": "c", "count": 50, "ttl": "10s"})
    await session.put({"key": "d", "ttl": "1h"})
    assert rig.evict(Session, "a")
    await rig.advance(21)
    assert not await session.has("a0001")
    assert not await session.has("c0001")
    await rig.advance(2 * SWEPT)
    left = await rig.store.keys(ActorId("Session", "a"), "", None, 5000)
    assert len(left.items) == SNAPSHOT_LIMIT + 1
    assert await rig.reminders(Session, "a") == [EXPIRE]


async def test_a_failed_turn_leaves_nothing(rig: Any) -> None:
    with pytest.raises(ActorMethodFailed):
        await rig.actor(Session, "a").put_then_fail()
    assert await rig.reminders(Session, "a") == []


@pytest.mark.parametrize("ttl", ["0s", "soon", "-1s", "2001-01-01T00:00:00Z"])
async def test_a_ttl_that_is_none(rig: Any, ttl: str) -> None:
    with pytest.raises(ActorMethodFailed, match=r"InvalidInput.*the state key 'k'"):
        await rig.actor(Session, "a").put({"key": "k", "ttl": ttl})
    assert await rig.stored(Session, "a") == {}


async def test_the_runtimes_names_are_reserved(rig: Any) -> None:
    session = rig.actor(Session, "a")
    with pytest.raises(ActorMethodFailed, match="reserved"):
        await session.put({"key": "~reply/x"})
