"""Messages between nodes, over real links: there and back, and what cannot be sent."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.actors import conversation
from perdure.actors.messages import Identity, Message
from perdure.errors import InvalidInput, Moved, NotFound, PayloadTooLarge, PerdureError
from perdure.statestore.contract import ActorId
from tests.actors.peers_use import MB, TARGET, Cluster, events
from tests.waiting import eventually


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
