"""Messages between nodes, over real links."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.actors import conversation, peers
from perdure.actors import peer_messages as wire
from perdure.actors.codec import Codec
from perdure.actors.messages import Identity, Message
from perdure.actors.peers import PATH, PeerLinks
from perdure.clock import LoopClock
from perdure.errors import InvalidInput, Moved, NotFound, PayloadTooLarge, PerdureError, Unavailable
from perdure.links import Link, LinkOptions, LinkServer, connect
from perdure.security import Security
from perdure.statestore.contract import ActorId
from tests.links.certificates import Authority
from tests.servers.proxy import CuttingProxy, Way
from tests.waiting import eventually

MB = 1024 * 1024
TARGET = ActorId("Counter", "1")


class Answer:
    """Takes the answer of one message, exactly once."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, value: Any) -> None:
        self.values.append(value)
        assert len(self.values) == 1

    async def get(self) -> Any:
        await eventually(lambda: self.values)
        return self.values[0]


class Node:
    """One incarnation of a node: its links, and what arrives."""

    def __init__(self, cluster: Cluster, name: str, security: Security, options: LinkOptions) -> None:
        self.name = name
        self.clock = LoopClock()
        self.server = LinkServer("127.0.0.1", 0, security=security, clock=self.clock, options=options)
        self.links = PeerLinks(
            name,
            self.clock,
            self,
            cluster.table.get,
            Codec(),
            security=security,
            apps=cluster.apps.get if cluster.apps else None,
            options=options,
        )
        self.links.attach(self.server)
        self.messages: list[Message] = []
        #: What is done with what arrives: by default it is answered with its body.
        self.handle: Callable[[Message], object] = lambda message: message.answer(message.body)

    def arrived(self, message: Message) -> None:
        self.messages.append(message)
        self.handle(message)

    def send(self, node: str, body: Any = b"body", method: str = "do", **options: Any) -> Answer:
        answer = Answer()
        self.links.send(node, Message(options.pop("target", TARGET), method, body, answer, **options))
        return answer

    async def stop(self) -> None:
        self.links.close()
        await self.server.stop()

    def keep(self) -> list[Message]:
        """Answers nothing from here on."""
        kept: list[Message] = []
        self.handle = kept.append
        return kept


class Cluster:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        #: What the placement table says, to all.
        self.table: dict[str, str] = {}
        self.apps: dict[str, str] = {}

    async def node(
        self, name: str, *, security: Security | None = None, options: LinkOptions | None = None
    ) -> Node:
        node = Node(self, name, security or Security(), options or LinkOptions())
        await node.server.start()
        self.nodes.append(node)
        self.table[name] = node.server.address
        return node

    async def two(self, **options: Any) -> tuple[Node, Node]:
        return await self.node("a", **options), await self.node("b", **options)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    yield cluster
    for node in cluster.nodes:
        await node.stop()


def events(caplog: pytest.LogCaptureFixture, name: str = "perdure.peers") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]


# --- there and back ----------------------------------------------------------------------------------------------------


async def test_a_message_arrives_as_it_was_sent(cluster: Cluster) -> None:
    a, b = await cluster.two()
    identity = Identity("edge-1", 12, 10)
    chain = (ActorId("Outer", "o"), ActorId("Inner", "ü"))
    answer = a.send(
        "b",
        b'{"x": 1}',
        "increment",
        target=ActorId("Counter", "id ü"),
        identity=identity,
        repeatable=False,
        redelivered=True,
        chain=chain,
        key="pay ä/7",
        tickets=("", "5f0a"),
        deadline=a.clock.monotonic() + 60,
    )
    assert await answer.get() == b'{"x": 1}'
    (message,) = b.messages
    assert (message.target, message.method, message.body) == (
        ActorId("Counter", "id ü"),
        "increment",
        b'{"x": 1}',
    )
    assert (message.identity, message.chain) == (identity, chain)
    assert (message.key, message.tickets) == ("pay ä/7", ("", "5f0a"))
    assert (message.repeatable, message.redelivered) == (False, True)
    assert message.deadline is not None
    assert 0 < message.deadline - b.clock.monotonic() <= 60
    assert type(message.target) is ActorId
    assert all(type(actor) is ActorId for actor in message.chain)


async def test_what_a_message_does_not_say(cluster: Cluster) -> None:
    a, b = await cluster.two()
    await a.send("b", None).get()
    (message,) = b.messages
    assert (message.body, message.identity, message.deadline, message.chain) == (None, None, None, ())
    assert (message.key, message.tickets) == (None, ())
    assert (message.repeatable, message.redelivered) == (True, False)


async def test_a_deadline_that_is_over_arrives_as_such(cluster: Cluster) -> None:
    a, b = await cluster.two()
    await a.send("b", deadline=a.clock.monotonic() - 5).get()
    deadline = b.messages[0].deadline
    assert deadline is not None
    assert deadline <= b.clock.monotonic()


async def test_messages_arrive_in_order_and_many_to_a_frame(cluster: Cluster) -> None:
    a, b = await cluster.two()
    frames = 0
    received = conversation.Conversation.received

    def counting(self: conversation.Conversation, frame: bytes) -> None:
        nonlocal frames
        frames += 1
        received(self, frame)

    conversation.Conversation.received = counting  # type: ignore[method-assign]
    try:
        answers = [a.send("b", b"%d" % number) for number in range(5000)]
        assert [await answer.get() for answer in answers] == [b"%d" % number for number in range(5000)]
    finally:
        conversation.Conversation.received = received  # type: ignore[method-assign]
    assert [message.body for message in b.messages] == [b"%d" % number for number in range(5000)]
    assert frames < 200
    assert a.links.describe()["b"]["unanswered"] == 0


async def test_one_link_serves_both_ways(cluster: Cluster) -> None:
    a, b = await cluster.two()
    await a.send("b").get()
    del cluster.table["a"]  # b could not dial
    assert await b.send("a", b"back").get() == b"back"
    assert len(a.messages) == len(b.messages) == 1


async def test_both_dial_at_once(cluster: Cluster) -> None:
    a, b = await cluster.two()
    there = [a.send("b", b"%d" % number) for number in range(100)]
    back = [b.send("a", b"%d" % number) for number in range(100)]
    for number in range(100):
        assert await there[number].get() == await back[number].get() == b"%d" % number
    assert len(a.messages) == len(b.messages) == 100


async def test_answers_come_whenever_they_are_ready(cluster: Cluster) -> None:
    a, b = await cluster.two()
    kept = b.keep()
    answers = [a.send("b", b"%d" % number) for number in range(10)]
    await eventually(lambda: len(kept) == 10)
    for message in reversed(kept):
        message.answer(message.body)
        message.answer(b"again")
    assert [await answer.get() for answer in answers] == [b"%d" % number for number in range(10)]


async def test_errors_come_back_as_they_are(cluster: Cluster) -> None:
    a, b = await cluster.two()
    b.handle = lambda message: message.answer(Moved("elsewhere", term=7, epoch=2))
    moved = await a.send("b").get()
    assert type(moved) is Moved
    assert (moved.message, moved.term, moved.epoch) == ("elsewhere", 7, 2)
    b.handle = lambda message: message.answer(NotFound("nothing here"))
    assert type(await a.send("b").get()) is NotFound


async def test_a_node_that_fails_on_a_message_answers_it(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await cluster.two()
    b.handle = lambda message: 1 / 0
    error = await a.send("b").get()
    assert type(error) is PerdureError
    assert "ZeroDivisionError" in error.message
    b.handle = lambda message: message.answer(b"fine")
    assert await a.send("b").get() == b"fine"
    assert any("peer.message_failed" in event for event in events(caplog))


async def test_what_one_sender_makes_of_its_answer_is_its_own_affair(cluster: Cluster) -> None:
    a, _ = await cluster.two()

    def fail(answer: Any) -> None:
        raise RuntimeError("not mine")

    for body in (b"", object()):
        a.links.send("b", Message(TARGET, "do", body, fail))
    assert await a.send("b", b"next").get() == b"next"
    for name in ("nobody", "nowhere"):
        cluster.table[name] = "127.0.0.1:1"
        a.links.send(name, Message(TARGET, "do", b"", fail))
        assert type(await a.send(name).get()) is Moved


# --- what cannot be sent -----------------------------------------------------------------------------------------------


async def test_a_value_that_cannot_be_sent_fails_alone(cluster: Cluster) -> None:
    a, b = await cluster.two()
    first = a.send("b", b"1")
    wrong = [
        a.send("b", object()),
        a.send("b", "text for a user's actor"),
        a.send("b", target=ActorId("Counter", "\ud800")),
    ]
    last = a.send("b", b"2")
    for answer in wrong:
        assert isinstance(await answer.get(), InvalidInput)
    assert (await first.get(), await last.get()) == (b"1", b"2")
    assert len(b.messages) == 2


async def test_an_answer_that_cannot_be_sent_fails_alone(cluster: Cluster) -> None:
    a, b = await cluster.two()
    for answer in (object(), "\ud800", 1 << 70, bytearray(b"x")):
        b.handle = lambda message, answer=answer: message.answer(answer)  # type: ignore[misc]
        assert isinstance(await a.send("b").get(), InvalidInput)
    b.handle = lambda message: message.answer(b"fine")
    assert await a.send("b").get() == b"fine"


async def test_a_body_that_the_other_node_does_not_know(cluster: Cluster) -> None:
    a, b = await cluster.two()
    a.links.codec.bodies(str, prefix="dapr.internal.", suffix=".workflow")
    error = await a.send("b", "text", target=ActorId("dapr.internal.default.app.workflow", "1")).get()
    assert isinstance(error, InvalidInput)
    assert "no body" in error.message
    assert b.messages == []
    assert await a.send("b", b"next").get() == b"next"


async def test_messages_that_are_too_large(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await cluster.two()
    monkeypatch.setattr(conversation, "MESSAGE_LIMIT", MB)
    before, large, after = a.send("b", b"1"), a.send("b", bytes(2 * MB)), a.send("b", b"2")
    assert isinstance(await large.get(), PayloadTooLarge)
    assert (await before.get(), await after.get()) == (b"1", b"2")
    b.handle = lambda message: message.answer(bytes(2 * MB))
    assert isinstance(await a.send("b").get(), PayloadTooLarge)


async def test_large_bodies_next_to_small_ones(cluster: Cluster) -> None:
    a, _ = await cluster.two()
    await a.send("b").get()
    large = a.send("b", b"x" * 50 * MB)
    small = 0
    while not large.values:
        assert await a.send("b", b"%d" % small).get() == b"%d" % small
        small += 1
    assert large.values == [b"x" * 50 * MB]
    assert small > 3
    # Several at once, of all sizes around the limits.
    sizes = [0, 1, 16_000, 17_000, 33_000, 65_000, 66_000, 200_000, 3 * MB]
    answers = [a.send("b", bytes([size % 251]) * size) for size in sizes]
    for size, answer in zip(sizes, answers, strict=True):
        assert await answer.get() == bytes([size % 251]) * size


# --- nobody there ------------------------------------------------------------------------------------------------------


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


async def retried(node: Node, other: str) -> Any:
    """As a router does with `Moved`."""
    while True:
        answer = await node.send(other).get()
        if not isinstance(answer, Moved):
            return answer
        await asyncio.sleep(0.02)


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


class Impostor:
    """Whoever is at an address and says what a test wants."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = frames
        self.got: list[bytes] = []
        self.ended = False

    def accept(self, link: Link) -> Impostor:
        self.link = link
        return self

    def received(self, frame: bytes) -> None:
        self.got.append(frame)
        if len(self.got) == 1:
            for answer in self.frames:
                self.link.send(answer)

    def closed(self) -> None:
        self.ended = True

    async def serve(self, cluster: Cluster, name: str) -> LinkServer:
        server = LinkServer("127.0.0.1", 0, security=Security(), clock=LoopClock())
        server.accept(PATH, self.accept)
        await server.start()
        cluster.table[name] = server.address
        return server


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


# --- links that end ----------------------------------------------------------------------------------------------------


async def test_a_link_that_is_cut(cluster: Cluster) -> None:
    a, b = await cluster.two()
    kept = b.keep()
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        answers = [a.send("b", b"%d" % number) for number in range(10)]
        await eventually(lambda: len(kept) == 10)
        proxy.cut()
        for answer in answers:
            error = await answer.get()
            assert type(error) is Unavailable
        # Answers to what came over that link go nowhere, and do no harm.
        for message in kept:
            message.answer(b"late")
        b.handle = lambda message: message.answer(message.body)
        assert await retried(a, "b") == b"body"
    assert [type(answer.values[0]) for answer in answers] == [Unavailable] * 10


async def test_what_was_never_written_moves(cluster: Cluster) -> None:
    """The other end does not read: most of what is sent never leaves this node, and that is known when the link is
    lost, so that calls that must not come twice can be sent again."""
    a, b = await cluster.two()
    kept = b.keep()
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        a.send("b")
        await eventually(lambda: kept)
        proxy.delay = 3600
        answers = [a.send("b", bytes([number]) * MB, repeatable=False) for number in range(40)]
        buffered = a.links.describe()["b"]["buffered"]
        await eventually(lambda: 0 < a.links.describe()["b"]["buffered"] < buffered)
        proxy.cut()
        errors = [await answer.get() for answer in answers]
    kinds = [type(error) for error in errors]
    moved = kinds.index(Moved)
    assert 0 < moved < 40
    assert kinds == [Unavailable] * moved + [Moved] * (40 - moved)
    assert len(b.messages) == 1


async def test_a_node_that_ends_a_link_says_what_it_has_not_taken(cluster: Cluster) -> None:
    """What is on its way to a node that stops was surely not taken: calls that must not come twice can be sent
    elsewhere. What was answered, arrives."""
    a, b = await cluster.two()
    kept = b.keep()
    taken = [a.send("b", b"%d" % number, repeatable=False) for number in range(4)]
    await eventually(lambda: len(kept) == 4)
    kept[0].answer(b"answered")
    kept[1].answer(bytes(3 * MB))
    late = [a.send("b", b"late", repeatable=False) for _ in range(3)]
    b.links.close()
    assert await taken[0].get() == b"answered"
    assert await taken[1].get() == bytes(3 * MB)
    assert [type(await answer.get()) for answer in taken[2:]] == [Unavailable] * 2
    assert [type(await answer.get()) for answer in late] == [Moved] * 3
    assert len(b.messages) == 4


async def test_nothing_is_sent_to_a_node_that_has_ended_the_link(cluster: Cluster) -> None:
    a = await cluster.node("a")
    dialler = Impostor(wire.encode(wire.Welcome(1, "b")), wire.encode(wire.Bye(0)))
    server = await dialler.serve(cluster, "b")
    try:
        first = a.send("b", repeatable=False)
        await eventually(lambda: len(dialler.got) > 1)
        refused = a.send("b").values
        assert [type(answer) for answer in refused] == [Moved]
        dialler.link.close()
        assert type(await first.get()) is Moved
    finally:
        await server.stop()


async def test_what_was_not_even_given_to_the_link_moves(cluster: Cluster) -> None:
    a, b = await cluster.two()
    await a.send("b").get()
    answer = a.send("b", b"gathered", repeatable=False)
    a.links.close()
    assert type(await answer.get()) is Moved
    await b.stop()
    assert len(b.messages) == 1


def other_process() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER_NODE]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_node_that_is_paused(cluster: Cluster) -> None:
    """SIGSTOP: its sockets stay open, and nothing comes."""
    a = await cluster.node("a", options=LinkOptions(silence=2.0))
    process = other_process()
    try:
        assert process.stdout is not None
        cluster.table["b"] = (await asyncio.to_thread(process.stdout.readline)).strip()
        # Before the last thing that comes from it: it is silent from then on.
        begin = time.monotonic()
        assert await retried(a, "b") == b"body"
        os.kill(process.pid, signal.SIGSTOP)
        answer = a.send("b", b"while it stands still")
        assert type(await answer.get()) is Unavailable
        assert time.monotonic() - begin > 1.0
        os.kill(process.pid, signal.SIGCONT)
        assert await retried(a, "b") == b"body"
    finally:
        process.kill()
        process.communicate()


OTHER_NODE = """
import asyncio, sys
from perdure.actors.codec import Codec
from perdure.actors.peers import PeerLinks
from perdure.clock import LoopClock
from perdure.links import LinkServer
from perdure.security import Security

class Answering:
    def arrived(self, message):
        message.answer(message.body)

async def main():
    clock = LoopClock()
    server = LinkServer("127.0.0.1", 0, security=Security(), clock=clock)
    links = PeerLinks("b", clock, Answering(), lambda node: None, Codec(), security=Security())
    links.attach(server)
    await server.start()
    print(server.address, flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "ways", [{Way.THERE}, {Way.BACK}, {Way.THERE, Way.BACK}], ids=["there", "back", "both"]
)
async def test_a_network_that_swallows(cluster: Cluster, ways: set[Way]) -> None:
    a, b = await cluster.two(options=LinkOptions(silence=0.4))
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        assert await a.send("b").get() == b"body"
        proxy.swallowing |= ways
        assert type(await a.send("b").get()) is Unavailable
        proxy.swallowing.clear()
        assert await retried(a, "b") == b"body"


async def test_the_end_that_has_not_noticed_uses_the_new_link(cluster: Cluster) -> None:
    """One end has lost the link and dials anew; what the other sends then must not go into the old one."""
    a = await cluster.node("a", options=LinkOptions(silence=0.4))
    b = await cluster.node("b", options=LinkOptions(silence=3600))
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        await a.send("b").get()
        proxy.swallowing |= {Way.BACK}
        assert type(await a.send("b").get()) is Unavailable
        proxy.swallowing |= {Way.THERE}
        cluster.table["b"] = b.server.address
        assert await retried(a, "b") == b"body"
        assert await b.send("a", b"over the new one").get() == b"over the new one"


# --- tables ------------------------------------------------------------------------------------------------------------


async def test_a_node_that_leaves_the_table(cluster: Cluster) -> None:
    a, b = await cluster.two()
    c = await cluster.node("c")
    kept = b.keep()
    there, elsewhere = a.send("b"), a.send("c")
    assert await elsewhere.get() == b"body"
    await eventually(lambda: kept)
    a.links.table_changed()
    assert not there.values
    del cluster.table["b"]
    a.links.table_changed()
    assert type(await there.get()) is Unavailable
    assert list(a.links.describe()) == ["c"]
    assert type(await a.send("b").get()) is Moved
    assert await a.send("c").get() == b"body"
    # Its links are closed.
    await eventually(lambda: b.links.describe()["a"]["linked"] is False)
    kept[0].answer(b"late")
    assert c.messages


async def test_a_node_that_leaves_while_it_is_dialled(cluster: Cluster) -> None:
    a, b = await cluster.two()
    async with CuttingProxy(b.server.address) as proxy:
        proxy.delay = 3600
        cluster.table["b"] = proxy.address
        answer = a.send("b")
        await eventually(lambda: proxy.connections)
        del cluster.table["b"]
        a.links.table_changed()
        assert type(await answer.get()) is Moved
        assert a.links.describe() == {}
    assert b.messages == []


async def test_a_node_of_a_newer_table(cluster: Cluster) -> None:
    """It knows this node, which does not know it yet: it is served, and no older table cuts it off."""
    a, b = await cluster.two()
    del cluster.table["a"]
    await a.send("b").get()
    b.links.table_changed()
    assert await a.send("b", b"again").get() == b"again"
    # Its link can be used before its address is known.
    assert await b.send("a", b"back").get() == b"back"
    await a.stop()
    await eventually(lambda: b.links.describe() == {})


async def test_close(cluster: Cluster) -> None:
    a, b = await cluster.two()
    kept = b.keep()
    answer = a.send("b")
    await eventually(lambda: kept)
    a.links.close()
    a.links.close()
    assert type(await answer.get()) is Unavailable
    assert type(await a.send("b").get()) is Moved
    # Nor does it take anything.
    assert type(await b.send("a").get()) is Moved
    await eventually(lambda: not b.links.describe()["a"]["linked"])
    assert type(await b.send("a").get()) is Moved
    assert a.messages == []


# --- too much ----------------------------------------------------------------------------------------------------------


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


# --- who may -----------------------------------------------------------------------------------------------------------


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
