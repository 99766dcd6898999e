"""More messages than a node may have out."""

from __future__ import annotations

import asyncio

import pytest

from perdure.actors import conversation
from perdure.actors import peer_messages as wire
from perdure.actors.messages import Message
from perdure.actors.peers import PATH
from perdure.errors import Moved
from perdure.links import connect
from perdure.security import Security
from perdure.statestore.contract import ActorId
from tests.actors.peers_use import MB, Cluster, Impostor
from tests.servers.proxy import CuttingProxy
from tests.waiting import eventually


async def test_too_much_without_an_answer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await cluster.two()
    await a.send("b").get()
    kept = b.keep()
    monkeypatch.setattr(conversation, "OPEN_LIMIT", 10)
    answers = [a.send("b") for _ in range(15)]
    refused = [answer.values[0] for answer in answers if answer.values]
    assert [type(error) for error in refused] == [Moved] * 5
    assert "overloaded" in refused[0].message
    await eventually(lambda: len(kept) == 10)
    kept[0].answer(b"x")
    await answers[0].get()
    assert not a.send("b").values


async def test_messages_that_wait_do_not_keep_others_out(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await cluster.two()
    for node in (a, b):
        node.links.codec.bodies(int | str, prefix="dapr.internal.", suffix=".workflow")
        node.links.codec.waits(int)
    target = ActorId("dapr.internal.default.app.workflow", "1")
    await a.send("b").get()
    kept: list[Message] = []
    b.handle = lambda message: kept.append(message) if type(message.body) is int else message.answer(True)
    monkeypatch.setattr(conversation, "OPEN_LIMIT", 5)
    monkeypatch.setattr(conversation, "PATIENT_LIMIT", 20)
    waiting = [a.send("b", number, target=target) for number in range(22)]
    assert [type(answer.values[0]) for answer in waiting if answer.values] == [Moved, Moved]
    await eventually(lambda: len(kept) == 20)
    for _ in range(20):
        assert await a.send("b", "progress", target=target).get() is True
    for message in kept:
        message.answer(message.body)
    assert [await answer.get() for answer in waiting[:20]] == list(range(20))
    assert not a.send("b", 1, target=target).values


async def test_too_many_bytes_without_an_answer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await cluster.two()
    await a.send("b").get()
    kept = b.keep()
    monkeypatch.setattr(conversation, "OPEN_BYTES", 3 * MB)
    answers = [a.send("b", bytes(MB)) for _ in range(5)]
    assert [type(answer.values[0]) for answer in answers if answer.values] == [Moved, Moved]
    await eventually(lambda: len(kept) == 3)
    for message in kept:
        message.answer(None)
    await answers[2].get()
    assert not a.send("b", bytes(MB)).values


async def test_a_node_defends_itself_against_one_that_asks_too_much(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await cluster.node("a")
    a.keep()
    dialler = Impostor()
    link = await connect(a.server.address, PATH, dialler, security=Security(), clock=a.clock)
    link.send(wire.encode(wire.Hello(1, "x", "a")))
    await eventually(lambda: dialler.got)
    monkeypatch.setattr(conversation, "OPEN_LIMIT", 5)
    for number in range(8):
        link.send(wire.encode(wire.Request(number, "Counter", "1", "do", b"\xc0")))  # type: ignore[arg-type]
    await eventually(lambda: len(a.messages) == 5)
    await eventually(lambda: len([i for frame in dialler.got[1:] for i in wire.decode(frame)]) == 3)
    replies = [item for frame in dialler.got[1:] for item in wire.decode(frame)]
    assert [(r.number, r.names[0]) for r in replies] == [(5, "Moved"), (6, "Moved"), (7, "Moved")]  # type: ignore[union-attr]
    link.close()


async def test_memory_is_bounded_when_nobody_reads(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "BUFFERED_LIMIT", 4 * MB)
    a, b = await cluster.two()
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        await a.send("b").get()
        proxy.delay = 3600
        refused = 0
        while refused < 100:
            answer = a.send("b", bytes(100_000))
            refused += bool(answer.values)
            assert a.links.describe()["b"]["buffered"] < 5 * MB
            await asyncio.sleep(0)
