"""A node's share of each activity that may run only so often at a time in the whole cluster. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from perdure.placement.hashing import ranked
from perdure.placement.member import Member
from perdure.placement.table import Table
from perdure.statestore.contract import Fence


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of one limited activity."""

    #: How many it may run; 0 when it has heard nothing for too long.
    share: int
    running: int
    #: How many more it would run now if its share let it.
    waiting: int


class Shares(msgspec.Struct, frozen=True):
    """How many of each limited activity one node may run, from the answer to a heartbeat.

    (term, number) orders what one node is given. The first of a term gives nothing: of what the node holds from an
    earlier leader it keeps at most this much, so that what it then reports is all that it can use.
    """

    term: int
    number: int
    #: By the activity's name; a name that is missing has 0. None: as this number said before.
    amounts: dict[str, int] | None

    @property
    def name(self) -> Fence:
        return Fence(self.term, self.number)


def limits_of(members: Iterable[Member], namespace: str, app_id: str) -> dict[str, int]:
    """The limited activities of an app and how many of each may run in the cluster: where nodes differ, the fewest."""
    found: dict[str, int] = {}
    for member in members:
        if member.namespace == namespace and member.app_id == app_id:
            for limit in member.limits:
                found[limit.name] = min(limit.most, found.get(limit.name, limit.most))
    return found


def serving(hosts: Collection[str], name: str, most: int) -> list[str]:
    """The hosts of a limited activity that are given work: no more than may run at a time, so that each of them has
    a share to run it with."""
    return ranked(hosts, name)[:most]


class Holder:
    """One node's shares. Time is the node's own, monotonic.

    INVARIANT: a share ends a fixed time after the node *sent* the heartbeat that placement answered with it. So
    however long an answer was under way, or the node stood still, placement knows when it has ended. What has ended
    does not come back by itself: placement gives it anew.
    """

    def __init__(self, member: Member, life: float, *, resident: bool = False) -> None:
        """`life`: seconds for which a share is good. `resident`: in the process of a leader that nobody else can be
        beside: it needs nobody's word, only the table's."""
        self._life = life
        self._resident = resident
        self._names: set[str] = set()
        self._name = Fence(0, 0)
        self._amounts: dict[str, int] = {}
        self._until = -1.0
        #: The activities of this node that are limited in the cluster, and how many of each may run there.
        self.limits: dict[str, int] = {}
        self.announced(member)

    @property
    def name(self) -> Fence:
        """(term, number) of the newest shares that were given; (0, 0): none."""
        return self._name

    @property
    def until(self) -> float:
        """When the shares end, if nothing comes before."""
        return float("inf") if self._resident else self._until

    def announced(self, member: Member) -> None:
        """What this node says of itself has changed."""
        self._member = member
        # One that is about to leave says that it has none any more, and still runs what it has.
        self._names.update(member.activities)
        if not self.limits:
            # Before the first table: what this node itself limits must not run unlimited meanwhile.
            self.limits = limits_of([member], member.namespace, member.app_id)

    def applied(self, table: Table) -> None:
        """A table says which activities are limited: also by nodes whose code is another release than this one's."""
        me = self._member
        limits = limits_of([*table.members.values(), me], me.namespace, me.app_id)
        self.limits = {name: most for name, most in limits.items() if name in self._names}
        if self._resident:
            self._amounts = {name: self._part(table, name, most) for name, most in self.limits.items()}

    def _part(self, table: Table, name: str, most: int) -> int:
        """All of it, unless this process has several nodes."""
        me = self._member
        hosts = {
            m.node
            for m in table.members.values()
            if m.namespace == me.namespace and m.app_id == me.app_id and name in m.activities
        }
        takers = serving(hosts | {me.node}, name, most)
        if me.node not in takers:
            return 0
        return most // len(takers) + (takers.index(me.node) < most % len(takers))

    def amount(self, name: str, now: float) -> int:
        """How many of a limited activity this node may run now."""
        return self._amounts.get(name, 0) if now < self.until else 0

    def given(self, shares: Shares, at: float, now: float) -> bool:
        """Placement answered the heartbeat that was sent at `at`. Whether more may run now than before."""
        if shares.name < self._name or (shares.amounts is None and shares.name != self._name):
            return False
        before = dict(self._amounts) if now < self._until else {}
        if now >= self._until:
            self._amounts = {}
        if shares.name > self._name:
            amounts = shares.amounts or {}
            if shares.term > self._name.term:
                amounts = {name: min(amount, before.get(name, 0)) for name, amount in amounts.items()}
            self._amounts = dict(amounts)
            self._name = shares.name
            self._until = at + self._life
        else:
            self._until = max(self._until, at + self._life)
        if now >= self._until:
            self._amounts = {}
        return any(amount > before.get(name, 0) for name, amount in self._amounts.items())

    def report(self, counts: Mapping[str, tuple[int, int]], now: float) -> dict[str, Usage]:
        """What a heartbeat says. `counts`: running and waiting, by name."""
        if now >= self.until:
            self._amounts = {}
        return {
            name: Usage(self._amounts.get(name, 0), *counts.get(name, (0, 0)))
            for name in sorted(self.limits.keys() | self._amounts.keys())
        }
