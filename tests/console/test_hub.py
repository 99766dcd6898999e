"""What is looked at is read once for all who look, and only while somebody does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.clock import LoopClock
from perdure.console import hub as hubs
from perdure.console.hub import Hub, Topic
from perdure.errors import StoreUnavailable


class Thing:
    """Something that changes when told to."""

    def __init__(self) -> None:
        self.value: Any = 0
        self.reads = 0
        self.version = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self._seen = asyncio.Event()

    async def read(self) -> Any:
        self.reads += 1
        self._seen.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.value

    async def reading(self) -> None:
        await self._seen.wait()

    async def read_again(self) -> None:
        """Returns after the next whole reading."""
        for _ in range(2):
            self._seen.clear()
            await self._seen.wait()

    def topic(self, interval: float = 0.01) -> Topic:
        return Topic("thing", self.read, interval, lambda: self.version)


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(hubs, "GAP", 0.005)
    monkeypatch.setattr(hubs, "TICK", 0.001)
    hub = Hub(LoopClock())
    async with asyncio.timeout(20):
        yield hub
        await hub.stop()


@pytest.fixture
def thing() -> Thing:
    return Thing()


async def value(stream: Any) -> Any:
    found = await stream.next()
    return None if found is None else json.loads(found)


async def test_each_change_once(hub: Hub, thing: Thing) -> None:
    stream = hub.open(thing.topic())
    assert await value(stream) == {"value": 0}
    thing.value = 1
    assert await value(stream) == {"value": 1}
    await thing.read_again()
    waiting = asyncio.ensure_future(value(stream))
    await thing.read_again()
    assert not waiting.done()
    thing.value = 2
    assert await waiting == {"value": 2}


async def test_many_who_look_cost_one_reading(hub: Hub, thing: Thing) -> None:
    topic = thing.topic(1000)
    streams = [hub.open(topic) for _ in range(50)]
    assert [await value(stream) for stream in streams] == [{"value": 0}] * 50
    # One who comes later has the newest at once, from memory.
    assert await value(hub.open(topic)) == {"value": 0}
    assert (thing.reads, hub.topics) == (1, 1)


async def test_nothing_is_read_when_nobody_looks(hub: Hub, thing: Thing) -> None:
    topic = thing.topic()
    first, second = hub.open(topic), hub.open(topic)
    await value(first)
    hub.close(topic, first)
    assert hub.topics == 1
    await thing.read_again()
    hub.close(topic, second)
    assert hub.topics == 0
    reads = thing.reads
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert thing.reads == reads


async def test_a_slow_one_gets_the_newest(hub: Hub, thing: Thing) -> None:
    stream = hub.open(thing.topic())
    for number in range(1, 5):
        thing.value = number
        await thing.read_again()
    await thing.read_again()
    assert await value(stream) == {"value": 4}


async def test_a_hint_is_followed_at_once(hub: Hub, thing: Thing) -> None:
    stream = hub.open(thing.topic(1000))
    assert await value(stream) == {"value": 0}
    thing.value = thing.version = 1
    assert await value(stream) == {"value": 1}
    assert thing.reads == 2


async def test_an_error_is_a_value_until_it_is_over(hub: Hub, thing: Thing) -> None:
    thing.error = StoreUnavailable()
    stream = hub.open(thing.topic())
    assert (await value(stream))["error"]["code"] == "ERR_STORE_UNAVAILABLE"
    thing.error = ZeroDivisionError("x")
    assert (await value(stream))["error"]["code"] == "ERR_INTERNAL"
    thing.error = None
    assert await value(stream) == {"value": 0}


async def test_what_is_slow_to_read_is_read_seldom(
    hub: Hub, thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hints or not: reading takes a small part of the time."""
    monkeypatch.setattr(hubs, "SPARING", 10**9)
    stream = hub.open(thing.topic())
    await value(stream)
    thing.value = thing.version = 1
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert thing.reads == 1


async def test_stop_ends_all(hub: Hub, thing: Thing) -> None:
    stream = hub.open(thing.topic())
    await value(stream)
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    await hub.stop()
    assert await waiting is None
    assert await stream.next() is None
    # Who comes while the server still closes ends at once, too.
    late = hub.open(thing.topic())
    assert await late.next() is None
    hub.close(thing.topic(), late)
    assert hub.topics == 0
    await hub.stop()


async def test_stop_in_the_middle_of_a_reading(hub: Hub, thing: Thing) -> None:
    thing.gate = asyncio.Event()
    stream = hub.open(thing.topic())
    await thing.reading()
    await hub.stop()
    assert await stream.next() is None


async def test_there_is_a_limit(hub: Hub, thing: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "MAX_STREAMS", 2)
    topic = thing.topic()
    streams = [hub.open(topic), hub.open(topic)]
    assert hub.full
    hub.close(topic, streams[0])
    assert not hub.full
