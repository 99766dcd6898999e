"""Nodes that cannot be reached, or not yet, and who is there in a node's place."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.actors import conversation, peers
from perdure.actors import peer_messages as wire
from perdure.actors.peers import PATH
from perdure.errors import Moved
from perdure.links import connect
from perdure.security import Security
from tests.actors.peers_use import Answer, Cluster, Impostor, Node, events, retried
from tests.links.certificates import Authority
from tests.servers.proxy import CuttingProxy
from tests.waiting import eventually


async def test_a_node_that_is_not_in_the_table(cluster: Cluster) -> None:
    a = await cluster.node("a")
    error = await a.send("nobody").get()
    assert type(error) is Moved
    assert "not in the placement table" in error.message
    assert a.links.describe() == {}


async def test_a_node_that_refuses_connections(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "RETRY_FIRST", 1.0)
    a, b = await cluster.two()
    await b.server.stop()
    answers = [a.send("b") for _ in range(10)]
    for answer in answers:
        error = await answer.get()
        assert type(error) is Moved
        assert "cannot be reached" in error.message
    # Not dialled again at once, and not logged again for each.
    assert a.send("b").values
    assert a.links.describe()["b"]["failures"] == 1
    again: list[Answer] = []
    await eventually(lambda: again.append(a.send("b")) or a.links.describe()["b"]["failures"] == 2)
    assert type(await again[-1].get()) is Moved
    assert events(caplog) == ["peer.unreachable"]


async def test_a_node_that_is_reached_again(cluster: Cluster) -> None:
    a, b = await cluster.two()
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        proxy.refusing = True
        assert type(await a.send("b").get()) is Moved
        proxy.refusing = False
        assert await retried(a, "b") == b"body"
        assert a.links.describe()["b"]["failures"] == 0


async def test_messages_wait_for_the_link_in_order(cluster: Cluster) -> None:
    a, b = await cluster.two()
    async with CuttingProxy(b.server.address) as proxy:
        proxy.delay = 0.1
        cluster.table["b"] = proxy.address
        answers = [a.send("b", b"%d" % number) for number in range(100)]
        await asyncio.sleep(0.05)
        assert a.links.describe()["b"]["waiting"] == 100
        answers += [a.send("b", b"%d" % number) for number in range(100, 150)]
        await answers[-1].get()
    assert [message.body for message in b.messages] == [b"%d" % number for number in range(150)]
    assert proxy.connections == 1


async def test_what_waits_for_a_link_is_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "WAITING_LIMIT", 10)
    a, b = await cluster.two()
    answers = [a.send("b") for _ in range(15)]
    refused = [answer.values[0] for answer in answers if answer.values]
    assert [type(error) for error in refused] == [Moved] * 5
    assert "overloaded" in refused[0].message
    for answer in answers[:10]:
        assert await answer.get() == b"body"
    assert len(b.messages) == 10


async def test_another_incarnation_at_the_address(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """A node was started anew on its port, and the table does not know yet: it must not get what was for the last."""
    a = await cluster.node("a")
    new = await cluster.node("b.2")
    cluster.table["b.1"] = new.server.address
    error = await a.send("b.1").get()
    assert type(error) is Moved
    assert "is node b.2, not b.1" in error.message
    assert new.messages == []
    assert await a.send("b.2").get() == b"body"


@pytest.mark.parametrize(
    "frames",
    [
        [wire.encode(wire.Welcome(1, "c"))],
        [wire.encode(wire.Refusal("not today"))],
        [wire.encode(wire.Hello(1, "b", "a"))],
        [wire.encode(wire.Value(1, b"not mine"))],
        [b"garbage"],
        [b"\x90"],
    ],
    ids=["another node", "refusal", "hello", "an answer", "garbage", "nothing"],
)
async def test_nothing_is_sent_to_who_does_not_agree(
    cluster: Cluster, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "HELLO_TIMEOUT", 0.3)
    a = await cluster.node("a")
    impostor = Impostor(*frames)
    server = await impostor.serve(cluster, "b")
    try:
        error = await a.send("b").get()
        assert type(error) is Moved
        await eventually(lambda: impostor.ended)
    finally:
        await server.stop()
    assert [wire.decode(frame) for frame in impostor.got] == [[wire.Hello(1, "a", "b")]]


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (wire.Hello(2, "x", "a"), "speaks version 1, not 2"),
        (wire.Hello(1, "x", "other"), "is node a, not other"),
    ],
)
async def test_who_is_refused_is_told_why(cluster: Cluster, hello: wire.Hello, reason: str) -> None:
    a = await cluster.node("a")
    dialler = Impostor()
    link = await connect(a.server.address, PATH, dialler, security=Security(), clock=a.clock)
    link.send(wire.encode(hello))
    link.send(wire.encode(wire.Request(1, "Counter", "1", "do", b"\xc0")))  # type: ignore[arg-type]
    await eventually(lambda: dialler.ended)
    (refusal,) = wire.decode(dialler.got[0])
    assert isinstance(refusal, wire.Refusal)
    assert reason in refusal.reason
    assert a.messages == []


async def test_a_link_over_which_nobody_says_anything(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "HELLO_TIMEOUT", 0.2)
    a = await cluster.node("a")
    dialler = Impostor()
    await connect(a.server.address, PATH, dialler, security=Security(), clock=a.clock)
    await eventually(lambda: dialler.ended)
    assert a.links.describe() == {}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    frames=st.lists(
        st.binary(max_size=60)
        | st.sampled_from(
            [
                wire.encode(wire.Hello(1, "x", "a")),
                wire.encode(wire.Welcome(1, "x")),
                wire.encode(wire.Value(99, b"x")),
                wire.encode(wire.Failure(1, ("Moved",), "m", {"term": "x"})),
                wire.encode(wire.Request(1, "Counter", "1", "do", b"\xc0")),  # type: ignore[arg-type]
                wire.encode(wire.Request(1, "t", "1", "do", b"\xa1x")),  # type: ignore[arg-type]
            ]
        ),
        max_size=5,
    )
)
def test_whatever_comes_a_node_goes_on(frames: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()

    async def run() -> None:
        cluster = Cluster()
        a = await cluster.node("a")
        dialler = Impostor()
        try:
            link = await connect(a.server.address, PATH, dialler, security=Security(), clock=a.clock)
            link.send(wire.encode(wire.Hello(1, "x", "a")))
            for frame in frames:
                link.send(frame)
            link.close()
            await eventually(lambda: dialler.ended)
            b = await cluster.node("b")
            assert await b.send("a").get() == b"body"
        finally:
            for node in cluster.nodes:
                await node.stop()

    asyncio.run(run())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert len(events(caplog, "perdure.links")) <= 1


async def test_garbage_from_a_peer_is_logged_once_with_its_address(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    a = await cluster.node("a")
    dialler = Impostor()
    link = await connect(a.server.address, PATH, dialler, security=Security(), clock=a.clock)
    link.send(wire.encode(wire.Hello(1, "x", "a")))
    for _ in range(3):
        link.send(b"garbage")
    await eventually(lambda: dialler.ended)
    (record,) = (r for r in caplog.records if r.name == "perdure.links")
    assert record.getMessage() == "link.garbage"
    assert record.perdure_fields["peer"].startswith("127.0.0.1:")  # type: ignore[attr-defined]
    await eventually(lambda: not a.links.describe())


async def test_a_wrong_token(cluster: Cluster) -> None:
    a = await cluster.node("a", security=Security(token="one"))
    b = await cluster.node("b", security=Security(token="two"))
    for sender, other in ((a, "b"), (b, "a")):
        error = await sender.send(other).get()
        assert type(error) is Moved
        assert "cluster token" in error.message
    assert a.messages == b.messages == []


async def test_certificates_of_apps(cluster: Cluster, tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cluster.apps = {"orders": "default/orders", "stock": "default/stock", "liar": "default/stock"}
    orders = await cluster.node("orders", security=ca.issue("orders", apps=["default/orders"]))
    stock = await cluster.node("stock", security=ca.issue("stock", apps=["default/stock"]))
    assert await orders.send("stock").get() == b"body"
    # Says that it is a node of another app than its certificate does.
    liar = await cluster.node("liar", security=ca.issue("liar", apps=["default/orders"]))
    for sender, other in ((liar, "stock"), (stock, "liar")):
        error = await sender.send(other).get()
        assert type(error) is Moved
        assert "does not allow it to speak for app default/stock" in error.message
    # One that the table does not have yet has to wait, as nobody can say what it may.
    del cluster.apps["liar"]
    error = await retried_until(liar, "stock", "yet")
    assert type(error) is Moved
    assert len(stock.messages) == 1
    assert liar.messages == []


async def retried_until(node: Node, other: str, text: str) -> Any:
    while True:
        error = await node.send(other).get()
        if text in str(error):
            return error
        await asyncio.sleep(0.02)
