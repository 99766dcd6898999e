"""Typed values, what a turn sees of its own changes, and actors with more keys than memory holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.actors.actor import Actor
from perdure.actors.proxy import ActorProxy
from perdure.errors import ActorMethodFailed, InvalidState
from perdure.statestore.contract import SNAPSHOT_LIMIT, ActorId


class Notes(Actor):
    escaped: Any = None

    async def put(self, items: dict[str, Any]) -> None:
        for key, value in items.items():
            self.state.set(key, value)

    async def drop(self, keys: list[str]) -> None:
        for key in keys:
            self.state.delete(key)

    async def get(self, key: str) -> Any:
        return await self.state.get(key)

    async def has(self, key: str) -> bool:
        return await self.state.contains(key)

    async def number(self, key: str) -> int | None:
        return await self.state.get(key, int)

    async def within_one_turn(self) -> list[Any]:
        seen: list[Any] = [await self.state.contains("a"), await self.state.get("a", default="none")]
        value = ["x"]
        self.state.set("a", value)
        value.append("changed after set")
        seen += [await self.state.contains("a"), await self.state.get("a", list[str])]
        self.state.delete("a")
        seen += [await self.state.contains("a"), await self.state.get("a")]
        self.state.set("none", None)
        seen += [await self.state.contains("none"), await self.state.get("none", int | None, default=5)]
        return seen

    async def bad_key(self, key: str) -> None:
        self.state.set(key, 1)

    async def bad_value(self) -> None:
        self.state.set("k", object())

    async def escape(self) -> None:
        type(self).escaped = self

    async def saves(self, count: int) -> None:
        for number in range(count):
            self.state.set("n", number)
            await self.state.save()
        await self.state.save()

    async def two_saves(self) -> None:
        self.state.set("n", 1)
        await asyncio.gather(self.state.save(), self.state.save())


async def test_a_turn_sees_its_own_changes(start: Any) -> None:
    rig = await start(Notes)
    seen = await rig.actor(Notes, "a").within_one_turn()
    assert seen == [False, "none", True, ["x"], False, None, True, None]
    assert await rig.stored(Notes, "a") == {"none": b"null"}


async def test_values_survive_eviction(start: Any) -> None:
    rig = await start(Notes)
    notes = rig.actor(Notes, "a")
    await notes.put({"a": {"b": [1, 2.5, "x", None]}, "gone": 1})
    await notes.drop(["gone", "never there"])
    for _ in range(2):
        assert await notes.get("a") == {"b": [1, 2.5, "x", None]}
        assert not await notes.has("gone")
        assert rig.evict(Notes, "a")


async def test_errors_name_the_key(start: Any) -> None:
    rig = await start(Notes)
    notes = rig.actor(Notes, "a")
    await notes.put({"text": "x"})
    with pytest.raises(ActorMethodFailed, match="the state key 'text': expected `int"):
        await notes.number("text")
    with pytest.raises(ActorMethodFailed, match="the value of the state key 'k' has type object"):
        await notes.bad_value()
    for key in ("", "inbox-000001", "x" * 257):
        with pytest.raises(ActorMethodFailed, match="the state key"):
            await notes.bad_key(key)


async def test_state_outside_of_a_turn_is_refused(start: Any) -> None:
    rig = await start(Notes)
    await rig.actor(Notes, "a").escape()
    escaped = Notes.escaped
    assert (escaped.id, escaped.type) == ("a", "Notes")
    with pytest.raises(InvalidState, match="no turn now"):
        escaped.state.set("a", 1)
    with pytest.raises(InvalidState, match="no turn now"):
        await escaped.state.get("a")
    with pytest.raises(InvalidState, match="no turn now"):
        await escaped.delete_reminder("x")
    with pytest.raises(InvalidState, match="no turn now"):
        escaped.delete_timer("x")


def test_an_actor_made_by_hand_says_what_is_wrong() -> None:
    with pytest.raises(InvalidState, match="made by hand"):
        _ = Notes().state


async def test_each_save_is_a_commit(start: Any, store: Any) -> None:
    rig = await start(Notes)
    await rig.actor(Notes, "a").saves(3)
    assert store.commits == 3
    assert await rig.stored(Notes, "a") == {"n": b"2"}


async def test_two_saves_at_once_are_refused(start: Any) -> None:
    rig = await start(Notes)
    with pytest.raises(ActorMethodFailed, match="no turn now"):
        await rig.actor(Notes, "a").two_saves()
    await rig.settle()
    assert await rig.actor(Notes, "a").get("n") in (None, 1)
    assert await rig.actor(Notes, "a").number("n") in (None, 1)


async def test_more_keys_than_a_snapshot_holds(start: Any) -> None:
    """The same answers with a complete snapshot, a cut one, and one that was complete and grew."""
    rig = await start(Notes)
    notes = rig.actor(Notes, "a")
    keys = [f"k{number}" for number in range(SNAPSHOT_LIMIT + 50)]
    await notes.put({key: index for index, key in enumerate(keys)})
    for _ in range(2):
        for index in (0, 1, 999, 1000, SNAPSHOT_LIMIT + 49):
            assert await notes.number(keys[index]) == index
        assert not await notes.has("k99999")
        await notes.put({"k1049": 7, "k0": 8, "new": 9})
        await notes.drop(["k1048", "k1"])
        assert [await notes.number(k) for k in ("k1049", "k0", "new", "k1048", "k1")] == [7, 8, 9, None, None]
        await notes.put({"k1049": 1049, "k0": 0, "k1048": 1048, "k1": 1})
        await notes.drop(["new"])
        assert rig.evict(Notes, "a")
    snapshot = await rig.store.load(ActorId("Notes", "a"))
    assert snapshot is not None
    assert not snapshot.complete


async def test_memory_holds_no_more_than_a_snapshot(start: Any) -> None:
    rig = await start(Notes)
    proxy = ActorProxy(rig.caller, "Notes", "a")
    await proxy.call("put", {f"k{number}": 0 for number in range(SNAPSHOT_LIMIT * 2)})
    await proxy.call("put", {f"j{number}": 0 for number in range(SNAPSHOT_LIMIT * 2)})
    assert len(rig.activation(Notes, "a").behaviour._stored._loaded) <= SNAPSHOT_LIMIT
    assert await proxy.call("number", "j1999") == 0
