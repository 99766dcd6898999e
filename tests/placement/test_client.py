"""A node's view: the newest table, how fresh it is, and coming back."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import pytest

from perdure.errors import ConfigurationError, Unavailable
from perdure.placement.client import PlacementClient
from perdure.placement.member import Member
from perdure.placement.messages import (
    Bye,
    Heartbeat,
    Hello,
    Message,
    Pulse,
    Redirect,
    Refused,
    Renew,
    TableUpdate,
)
from perdure.placement.session import Receiver, Session
from perdure.placement.table import Table, assign
from perdure.statestore.contract import Fence, TypePartition

ME = Member("a", "a:1", "shop", "default", ("Cart",))
OTHER = Member("b", "b:1", "shop", "default", ("Cart",))


class Timer:
    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Goes on only when told. Coroutines run to their first real wait, of which these tests have none."""

    def __init__(self) -> None:
        self.time = 100.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()

    def now(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.time

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer:
        return self.call_later(0.0, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(callback, args)
        heapq.heappush(self._timers, (self.time + delay, next(self._numbers), timer))
        return timer

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        with pytest.raises(StopIteration):
            coroutine.send(None)
        return None  # type: ignore[return-value]

    def token(self, size: int = 16) -> bytes:
        return b"\xff" * size

    def advance(self, seconds: float) -> None:
        until = self.time + seconds
        while self._timers and self._timers[0][0] <= until:
            self.time, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback(*timer.args)
        self.time = until


class Link:
    """A session that notes what is sent."""

    def __init__(self, address: str, receiver: Receiver) -> None:
        self.address, self.receiver = address, receiver
        self.sent: list[Message] = []
        self.open = True

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.open = False

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.links: list[Link] = []
        self.attempts: list[float] = []
        self.away = False
        self.client = PlacementClient(ME, self.clock, self._connect, locate=self._locate)
        self.client.start()
        self.clock.advance(0.0)

    async def _locate(self) -> str:
        return "home"

    async def _connect(self, address: str, receiver: Receiver) -> Session:
        self.attempts.append(self.clock.time)
        if self.away:
            raise Unavailable
        self.links.append(Link(address, receiver))
        return self.links[-1]

    @property
    def link(self) -> Link:
        return self.links[-1]

    def receive(self, message: Message) -> None:
        self.link.receiver.received(message)

    def word(self, table: Table, at: float | None = None) -> None:
        self.receive(Pulse(table.name, self.clock.time if at is None else at))


def table(epoch: int, *members: Member, term: int = 1, previous: Table | None = None) -> Table:
    return assign(members or (ME, OTHER), previous, term, epoch, 8)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_says_hello_and_then_that_it_lives(rig: Rig) -> None:
    assert rig.link.address == "home"
    assert rig.link.sent == [Hello(ME)]
    rig.receive(TableUpdate(table(3)))
    rig.clock.advance(0.5)
    assert [beat.applied for beat in rig.link.of(Heartbeat)] == [Fence(1, 3)] * 3
    assert rig.link.of(Heartbeat)[0].at == pytest.approx(100.15)


def test_older_tables_are_ignored(rig: Rig) -> None:
    seen: list[tuple[Fence | None, Fence]] = []
    rig.client.on_table(lambda old, new: seen.append((old.name if old else None, new.name)))
    for term, epoch in ((1, 3), (1, 2), (1, 3), (2, 1), (1, 9)):
        rig.receive(TableUpdate(table(epoch, term=term)))
    assert seen == [(None, (1, 3)), ((1, 3), (2, 1))]


def test_a_callback_can_be_ended_and_its_fault_stays_its_own(rig: Rig) -> None:
    seen: list[int] = []

    def faulty(old: Table | None, new: Table) -> None:
        raise RuntimeError("mine")

    rig.client.on_table(faulty)
    end = rig.client.on_table(lambda old, new: seen.append(new.epoch))
    rig.receive(TableUpdate(table(1)))
    end()
    end()
    rig.receive(TableUpdate(table(2)))
    assert seen == [1]
    assert rig.client.table is not None
    assert rig.client.table.epoch == 2


def test_fresh_while_the_last_word_is_young_and_names_the_applied_table(rig: Rig) -> None:
    first, second = table(1), table(2)
    assert not rig.client.fresh()
    rig.word(first)
    assert not rig.client.fresh()
    rig.receive(TableUpdate(first))
    assert rig.client.fresh()
    rig.clock.advance(0.39)
    assert rig.client.fresh()
    rig.clock.advance(0.02)
    assert not rig.client.fresh()
    rig.word(first)
    assert rig.client.fresh()
    rig.word(second)
    assert not rig.client.fresh()
    rig.word(first)
    assert not rig.client.fresh(), "an older word that comes later takes nothing back"
    rig.receive(TableUpdate(second))
    assert rig.client.fresh()


def test_a_word_counts_from_when_it_was_asked_for(rig: Rig) -> None:
    """It may have lain in a buffer while this process stood still."""
    rig.receive(TableUpdate(table(1)))
    rig.word(table(1), at=rig.clock.time - 0.5)
    assert not rig.client.fresh()


def test_a_node_that_is_out_is_not_fresh_and_asks_to_be_in(rig: Rig) -> None:
    rig.receive(TableUpdate(table(1)))
    assert rig.client.in_table
    out = table(2, OTHER)
    rig.receive(TableUpdate(out))
    rig.word(out)
    assert not rig.client.in_table
    assert not rig.client.fresh()
    assert len(rig.link.of(Hello)) == 2
    for _ in range(20):
        rig.word(out)
        rig.clock.advance(0.15)
    assert len(rig.link.of(Hello)) in {4, 5}
    rig.receive(TableUpdate(table(3)))
    assert rig.client.in_table


def test_a_lost_link_is_replaced_at_once_then_with_back_off(rig: Rig) -> None:
    rig.receive(TableUpdate(table(1)))
    rig.away = True
    rig.attempts.clear()
    lost = rig.clock.time
    rig.link.receiver.closed()
    assert rig.client.table is not None
    assert rig.client.in_table, "it goes on with the table it has"
    rig.clock.advance(60)
    gaps = [later - earlier for earlier, later in zip([lost, *rig.attempts], rig.attempts, strict=False)]
    assert gaps[0] <= 0.05
    assert sum(gaps[:4]) < 1.0
    assert max(gaps) <= 1.0 + 1e-9
    assert gaps[-1] == pytest.approx(1.0)
    rig.away = False
    rig.clock.advance(1.0)
    assert rig.link.sent[0] == Hello(ME, applied=Fence(1, 1))


def test_what_an_earlier_link_still_brings_is_not_heard(rig: Rig) -> None:
    old = rig.link
    old.receiver.closed()
    rig.clock.advance(0.1)
    assert rig.link is not old
    old.receiver.received(TableUpdate(table(1)))
    old.receiver.closed()
    assert rig.client.table is None
    assert rig.client.connected


def test_a_link_that_brings_nothing_is_given_up(rig: Rig) -> None:
    first = rig.link
    rig.clock.advance(3.4)
    assert not first.open
    assert len(rig.links) == 2


def test_a_redirect_is_followed_and_forgotten_when_it_leads_nowhere(rig: Rig) -> None:
    rig.receive(Redirect("leader"))
    assert not rig.link.open
    rig.clock.advance(0.1)
    assert rig.link.address == "leader"
    rig.link.receiver.closed()
    rig.clock.advance(0.2)
    assert rig.link.address == "home"


def test_redirects_are_followed_at_once_but_not_in_circles(rig: Rig) -> None:
    began, count = rig.clock.time, len(rig.links)
    for number in range(3):
        rig.receive(Redirect(f"r{number}"))
        rig.clock.advance(0.0)
        assert rig.link.address == f"r{number}"
    assert (rig.clock.time, len(rig.links)) == (began, count + 3)
    for _ in range(10):
        rig.receive(Redirect("r0"))
        rig.clock.advance(1.0)
    assert rig.clock.time == began + 10
    assert len(rig.links) <= count + 13, "each further one with its wait"
    rig.receive(TableUpdate(table(1)))
    rig.receive(Redirect("leader"))
    rig.clock.advance(0.0)
    assert rig.link.address == "leader"


async def test_a_refused_node_is_told_why_and_comes_in_once_it_may(rig: Rig) -> None:
    rig.receive(Refused("its address is taken"))
    with pytest.raises(ConfigurationError, match="its address is taken"):
        await rig.client.joined()
    hellos = len(rig.link.of(Hello))
    for _ in range(8):
        rig.clock.advance(0.15)
        rig.receive(Refused("its address is taken"))
    assert len(rig.link.of(Hello)) == hellos + 1, "asked again from time to time"
    rig.receive(TableUpdate(table(1)))
    assert await rig.client.joined() == table(1)


def test_looks_anew_for_whoever_leads(rig: Rig) -> None:
    rig.receive(Redirect("leader"))
    rig.clock.advance(0.0)
    old = rig.link
    rig.client.reconnect()
    rig.clock.advance(0.0)
    assert not old.open
    assert rig.link.address == "home"
    rig.away = True
    rig.link.receiver.closed()
    rig.clock.advance(10)
    rig.away = False
    rig.client.reconnect()
    rig.clock.advance(0.0)
    assert rig.client.connected, "it does not wait for its next attempt"
    links = len(rig.links)
    rig.clock.advance(2.0)
    assert len(rig.links) == links, "which is off"


def test_is_led_while_words_come(rig: Rig) -> None:
    rig.receive(TableUpdate(table(1)))
    assert not rig.client.led(0.5)
    rig.word(table(9))
    rig.clock.advance(0.5)
    assert rig.client.led(0.5)
    rig.clock.advance(0.01)
    assert not rig.client.led(0.5)


def test_what_it_hosts_now_is_announced_until_a_table_shows_it(rig: Rig) -> None:
    rig.receive(TableUpdate(table(1)))
    more = Member("a", "a:1", "shop", "default", ("Cart", "Order"))
    rig.client.announce(more)
    assert rig.link.of(Hello)[-1] == Hello(more, applied=Fence(1, 1))
    for _ in range(10):
        rig.word(table(1))
        rig.clock.advance(0.15)
    assert len(rig.link.of(Hello)) == 3
    rig.receive(TableUpdate(table(2, more)))
    for _ in range(10):
        rig.word(table(2, more))
        rig.clock.advance(0.15)
    assert len(rig.link.of(Hello)) == 3
    with pytest.raises(ValueError, match="another"):
        rig.client.announce(OTHER)


def test_asks_for_new_fences(rig: Rig) -> None:
    rig.client.renew([TypePartition("Cart", 3)])
    assert rig.link.sent[-1] == Renew("a", (TypePartition("Cart", 3),))


def test_leaving_says_so_and_ends_everything(rig: Rig) -> None:
    rig.receive(TableUpdate(table(1)))
    rig.word(table(1))
    rig.client.leave()
    rig.client.leave()
    assert rig.link.sent[-1] == Bye("a")
    assert not rig.link.open
    assert not rig.client.fresh()
    rig.clock.advance(10)
    assert len(rig.links) == 1
