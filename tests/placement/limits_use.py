"""Nodes with limits and a leader, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.placement.limits import Limits
from perdure.placement.member import Limit, Member
from perdure.placement.options import PlacementOptions
from perdure.placement.shares import Holder, Usage
from perdure.placement.table import Table, assign
from perdure.statestore.contract import Fence

OPTIONS = PlacementOptions(share=2.0, share_grace=3.0)


BEAT = 0.15


def member(
    node: str, most: int | None = 4, *, address: str = "", activities: Sequence[str] = ("mail",)
) -> Member:
    limits = () if most is None else (Limit("mail", most),)
    return Member(node, address, "shop", "default", ("w",), (), tuple(activities), limits=limits)


def table_of(members: Sequence[Member], *, term: int = 1, loose: bool = False) -> Table:
    return assign(members, None, term, 1, 4, loose=loose)


class Node:
    """A node that runs what it may, and says so."""

    def __init__(self, me: Member, now: float = 0.0) -> None:
        self.me = me
        self.holder = Holder(me, OPTIONS.share)
        #: When each of what runs began.
        self.runs: list[float] = []
        self.queue = 0
        self.dead = False
        #: Nothing that it says arrives anywhere.
        self.cut = False
        #: Which leader it talks to; messages of an earlier link are not heard.
        self.line = 0
        self.leader: Leader | None = None

    @property
    def id(self) -> str:
        return self.me.node

    def counts(self) -> dict[str, tuple[int, int]]:
        return {"mail": (len(self.runs), self.queue)}

    def amount(self, now: float) -> int:
        return self.holder.amount("mail", now)

    def begin(self, now: float) -> bool:
        if self.dead or not self.queue or len(self.runs) >= self.amount(now):
            return False
        self.queue -= 1
        self.runs.append(now)
        return True

    def beat(self, now: float) -> tuple[float, Fence, dict[str, Usage]]:
        # What has ended is forgotten by the report, which is why that comes first.
        usage = self.holder.report(self.counts(), now)
        return now, self.holder.name, usage


class Leader:
    """The part of `PlacementService` that limits need: members, and tables that the store has."""

    def __init__(self, term: int, previous: Table | None, now: float, *, settled: bool = False) -> None:
        self.term = term
        self.limits = Limits(term, previous, now, settled=settled, options=OPTIONS)
        self.members = dict(previous.members) if previous is not None else {}
        self.ended = float("inf")
        self.table: Table | None = None
        self.store(now)

    def store(self, now: float) -> None:
        loose = self.limits.loose(self.members, now)
        self.table = table_of(list(self.members.values()), term=self.term, loose=loose)
        self.limits.changed(self.members, (), now)

    def join(self, node: Node, now: float) -> None:
        if self.members.get(node.id) != node.me:
            self.limits.succeeded(node.me, self.members)
            self.members[node.id] = node.me
            self.store(now)
        assert self.table is not None
        node.holder.applied(self.table)

    def remove(self, node: str, now: float) -> None:
        if self.members.pop(node, None) is not None:
            self.store(now)

    def tick(self, now: float) -> None:
        self.limits.tick(now)
        assert self.table is not None
        if self.limits.loose(self.members, now) != self.table.loose:
            self.store(now)


class Cluster:
    """Everything in order: heartbeats arrive at once, runs take a while."""

    def __init__(self, nodes: Sequence[Node], *, previous: Table | None = None, settled: bool = True) -> None:
        self.now = 0.0
        self.nodes = list(nodes)
        self.leader = Leader(1, previous, self.now, settled=settled)
        for node in nodes:
            self.leader.join(node, self.now)

    def go(self, seconds: float, *, length: float = 0.2) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += BEAT
            self.leader.tick(self.now)
            for node in self.nodes:
                node.runs = [run for run in node.runs if self.now - run < length]
                while node.begin(self.now):
                    pass
                self.beat(node)

    def beat(self, node: Node) -> None:
        if node.id not in self.leader.members:
            return
        at, held, usage = node.beat(self.now)
        shares = self.leader.limits.heard(node.id, at, held, usage, self.now)
        if shares is not None:
            node.holder.given(shares, at, self.now)

    def amounts(self) -> list[int]:
        return [node.amount(self.now) for node in self.nodes]
