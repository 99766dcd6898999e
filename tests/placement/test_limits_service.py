"""Shares in the service: with pulses, tables and what the store has."""

from __future__ import annotations

import pytest

from perdure.placement.member import Member
from perdure.placement.messages import Heartbeat, Pulse, decode, encode
from perdure.placement.service import Action, PlacementService, Publish, Send, StoreTable
from perdure.placement.shares import Holder
from perdure.placement.table import Table
from perdure.statestore.contract import Fence
from tests.placement.limits_use import BEAT, OPTIONS, member, table_of


class Service:
    """A service whose store accepts everything at once, and its nodes' ends."""

    def __init__(self, previous: Table | None = None, *, term: int = 1, unread: bool = False) -> None:
        self.term = term
        self.now = 0.0
        self.service = PlacementService(term, 4, previous, self.now, unread=unread, options=OPTIONS)
        self.tables: list[Table] = []
        self.holders: dict[str, Holder] = {}
        self.running: dict[str, int] = {}
        self.run(self.service.start())

    def run(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StoreTable):
                self.run(self.service.stored(action.table, self.now))
            elif isinstance(action, Publish):
                self.tables.append(action.table)
                for holder in self.holders.values():
                    holder.applied(action.table)
            elif isinstance(action, Send) and isinstance(action.message, Pulse):
                # As over a network.
                pulse = decode(encode(action.message))
                assert isinstance(pulse, Pulse)
                if pulse.shares is not None:
                    self.holders[action.node].given(pulse.shares, pulse.at, self.now)

    def join(self, me: Member) -> None:
        self.holders[me.node] = Holder(me, OPTIONS.share)
        self.run(self.service.join(me, self.now))

    def go(self, seconds: float, *nodes: str) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += BEAT
            self.run(self.service.tick(self.now))
            for node in nodes:
                holder = self.holders[node]
                usage = holder.report({"mail": (self.running.get(node, 0), 0)}, self.now)
                beat = decode(encode(Heartbeat(node, self.now, Fence(0, 0), holder.name, usage)))
                assert isinstance(beat, Heartbeat)
                self.run(
                    self.service.heard(
                        node, beat.at, beat.applied, self.now, shares=beat.shares, usage=beat.usage
                    )
                )

    def amounts(self) -> dict[str, int]:
        return {node: holder.amount("mail", self.now) for node, holder in self.holders.items()}


def test_shares_go_with_the_pulse_and_a_dead_nodes_share_with_the_table() -> None:
    service = Service()
    for name in "ab":
        service.join(member(name, 4, address=f"{name}:1"))
    service.go(1.5, "a", "b")
    assert service.amounts() == {"a": 2, "b": 2}
    service.go(OPTIONS.silence + 1.0, "b")
    assert list(service.tables[-1].members) == ["b"]
    assert service.tables[-1].loose
    service.go(OPTIONS.share + OPTIONS.share_grace, "b")
    assert service.amounts() == {"a": 0, "b": 4}
    # One table more, which moves nothing, tells the next leader that there is nothing to wait for.
    assert not service.tables[-1].loose
    count = len(service.tables)
    service.go(5.0, "b")
    assert len(service.tables) == count


def test_who_says_good_bye_with_activities_that_do_not_end() -> None:
    service = Service()
    for name in "ab":
        service.join(member(name, 4))
    service.go(1.5, "a", "b")
    service.run(service.service.leave("a", service.now, running={"mail": 1}))
    del service.holders["a"]
    service.go(1.0, "b")
    assert service.tables[-1].loose
    assert service.amounts() == {"b": 3}
    service.go(OPTIONS.share_grace, "b")
    assert service.amounts() == {"b": 4}


def test_a_restarted_process_takes_the_share_of_its_former_self() -> None:
    service = Service()
    for name in "ab":
        service.join(member(name, 4, address=f"{name}:1"))
    service.go(1.5, "a", "b")
    service.run(service.service.link_closed("a", service.now))
    service.join(member("a2", 4, address="a:1"))
    del service.holders["a"]
    service.go(2.0, "a2", "b")
    assert service.amounts() == {"a2": 2, "b": 2}


@pytest.mark.parametrize("unread", [False, True])
def test_a_new_leader_over_what_the_store_has(unread: bool) -> None:
    service = Service(None if unread else table_of([], loose=True), term=2, unread=unread)
    service.join(member("a", 4))
    service.go(OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace - 0.5, "a")
    assert service.amounts() == {"a": 0}
    service.go(1.0, "a")
    assert service.amounts() == {"a": 4}


def test_a_store_that_lost_tables_may_have_lost_nodes_with_shares() -> None:
    service = Service(table_of([member("a", 4)]), term=9)
    me = member("b", 4)
    service.holders["b"] = Holder(me, OPTIONS.share)
    service.run(service.service.join(me, service.now, applied=Fence(5, 1)))
    service.go(4.0, "b")
    assert service.amounts() == {"b": 0}
    service.go(OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace, "b")
    assert service.amounts() == {"b": 4}


def test_where_nothing_is_limited_nothing_is_said_of_it() -> None:
    service = Service(table_of([member("a", None), member("gone", None)]), term=2)
    service.join(member("a", None))
    service.go(10.0, "a")
    assert service.holders["a"].name == Fence(0, 0)
    assert list(service.tables[-1].members) == ["a"]
    assert not any(table.loose for table in service.tables)
