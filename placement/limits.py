"""How the number of limited activities that may run in the whole cluster is shared out among the nodes: a state
machine of one leadership.

INVARIANT: of one limited activity, what all nodes together may run, or may still be running by a share that has ended,
is never more than its limit. So
- a node that gives up a part of its share has to say so before another gets it;
- a node that falls silent keeps its share until that has ended by itself, and for a time of grace after that, in which
  what it runs comes to its end;
- a new leader knows of no share. It first asks each node to keep at most what it has: only what nodes then report is
  shared out among them. The rest may be with nodes that this leader has not heard of, and has to wait for their share
  and their grace to end.

All of the limit is always given to somebody, so that a change of leader finds all of it reported, and holds nothing
back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from perdure.logs import fields
from perdure.placement.hashing import ranked
from perdure.placement.member import Member
from perdure.placement.options import PlacementOptions
from perdure.placement.shares import Shares, Usage, limits_of, serving
from perdure.placement.table import Table
from perdure.statestore.contract import Fence

_log = logging.getLogger("perdure.placement")


class Pool(NamedTuple):
    """One limited activity of one app."""

    namespace: str
    app_id: str
    name: str


class _Part:
    """What one node has of one pool."""

    __slots__ = ("amount", "ceiling", "reported", "running", "since", "waiting")

    def __init__(self) -> None:
        #: What it was last given.
        self.amount = 0
        #: The most that it may believe to have.
        self.ceiling = 0
        #: From its newest report.
        self.running = 0
        self.waiting = 0
        #: Whether it has reported on this pool to this leader.
        self.reported = False
        #: Since when it has had something, or nothing.
        self.since = -math.inf

    @property
    def used(self) -> int:
        return max(self.ceiling, self.running)

    @property
    def wanted(self) -> int:
        return self.running + self.waiting


class _Node:
    __slots__ = ("address", "amounts", "at", "foreign", "joined", "node", "number", "parts", "told", "until")

    def __init__(self, node: str, address: str) -> None:
        self.node = node
        self.address = address
        #: By its own clock, when it sent the newest heartbeat that came.
        self.at = -math.inf
        #: The newest number given to it; 0: none.
        self.number = 0
        #: What that number gives.
        self.amounts: dict[str, int] = {}
        #: It goes by this leader's shares only.
        self.joined = False
        #: It goes by a later leader's shares.
        self.foreign = False
        self.parts: dict[Pool, _Part] = {}
        #: When it was last told that it has shares.
        self.told = -math.inf
        #: When what it may still run has surely ended; None: while it is heard, never.
        self.until: float | None = None


class _Pool:
    __slots__ = ("balanced", "grace", "hosts", "known", "most", "served", "targets")

    def __init__(self, grace: float) -> None:
        self.most = 0
        #: Seconds for which what runs may go on after its node's share has ended.
        self.grace = grace
        #: Members that have the activity.
        self.hosts: frozenset[str] = frozenset()
        #: Those of them that are given work.
        self.served: list[str] = []
        #: How much of it is surely with nobody whom this leader has not heard.
        self.known = 0
        #: What each host is to have, as soon as others have given it up.
        self.targets: dict[str, int] = {}
        self.balanced = -math.inf


class Limits:
    """Time comes in as an argument, as in `PlacementService`, whose part this is."""

    def __init__(
        self,
        term: int,
        previous: Table | None,
        now: float,
        *,
        settled: bool,
        options: PlacementOptions,
    ) -> None:
        """`settled`: no node can have a share of an earlier leader."""
        self._term = term
        self._options = options
        self._number = 0
        self._nodes: dict[str, _Node] = {}
        self._pools: dict[Pool, _Pool] = {}
        self._members: dict[str, Member] = {}
        self._residents: set[str] = set()
        self._told_of: set[tuple[Pool, tuple[int, ...]]] = set()
        #: Members of the stored table that have not come over to this leader.
        self._awaited: set[str] = set()
        #: By then every share that an earlier leader gave has ended, but not yet what runs by it.
        self._ended_at = now + options.confirm_within + options.share
        #: Others may have shares, too.
        self._loose = False
        self._graces: dict[Pool, float] = {}
        if not settled:
            if previous is not None:
                self._awaited = set(_limited(previous))
                self._graces = _graces(previous.members.values(), options.share_grace)
            self._loose = previous is None or previous.loose

    # --- membership -------------------------------------------------------------------------------------------------

    def changed(self, members: Mapping[str, Member], residents: Collection[str], now: float) -> None:
        """The newest table has these members."""
        self._members = dict(members)
        self._residents = set(residents)
        for pool, grace in _graces(members.values(), self._options.share_grace).items():
            self._graces[pool] = max(grace, self._graces.get(pool, 0.0))
        most: dict[Pool, dict[str, int]] = {}
        for member in members.values():
            for limit in member.limits:
                pool = Pool(member.namespace, member.app_id, limit.name)
                most.setdefault(pool, {})[member.node] = limit.most
        for key in [key for key in self._pools if key not in most]:
            self._drop(key)
        for key, said in most.items():
            self._regroup(key, said)
        self._targets_anew(now)

    def _drop(self, key: Pool) -> None:
        """Nobody says any more that it is limited. Who still has a share of it may be silent."""
        if any(key in node.parts and node.parts[key].used for node in self._nodes.values()):
            self._pools[key].hosts, self._pools[key].served = frozenset(), []
            return
        del self._pools[key]
        for node in self._nodes.values():
            node.parts.pop(key, None)

    def _regroup(self, key: Pool, said: Mapping[str, int]) -> None:
        pool = self._pools.setdefault(key, _Pool(0.0))
        pool.grace = self._graces[key]
        pool.most = min(said.values())
        pool.hosts = frozenset(
            member.node
            for member in self._members.values()
            if (member.namespace, member.app_id) == key[:2] and key.name in member.activities
        )
        pool.served = serving(pool.hosts, key.name, pool.most)
        pool.targets = {}
        pool.balanced = -math.inf
        numbers = tuple(sorted(set(said.values())))
        if len(numbers) > 1 and (key, numbers) not in self._told_of:
            self._told_of.add((key, numbers))
            _log.warning(
                "limits differ",
                extra=fields(app=key.app_id, activity=key.name, said=numbers, counts=pool.most),
            )

    def left(self, node: str, running: Mapping[str, int], now: float) -> None:
        """A node goes in good order. `running`: activities that it could not end."""
        if not running:
            self.ended(node)
            return
        known = self._nodes.get(node)
        if known is None:
            return
        for key, part in known.parts.items():
            part.ceiling = part.amount = 0
            part.running = running.get(key.name, 0)
        known.joined = False
        known.until = now + self._grace(known)

    def ended(self, node: str) -> None:
        """The node's process is surely gone, with all that it ran."""
        self._awaited.discard(node)
        self._nodes.pop(node, None)

    def succeeded(self, by: Member, living: Collection[str]) -> None:
        """A node listens at its address: others that did before, and are none of the living, are gone."""
        if by.address:
            for node in list(self._nodes.values()):
                # One that said good-bye closed its port before what it left running ended.
                left = node.until is not None
                if (
                    node.address == by.address
                    and node.node != by.node
                    and node.node not in living
                    and not left
                ):
                    self.ended(node.node)

    def loose(self, members: Collection[str], now: float) -> bool:
        """Whether shares may be in use by nodes that are none of these members."""
        if self._loose or any(node not in members for node in self._awaited):
            return True
        return any(
            node.node not in members and any(part.used for part in node.parts.values())
            for node in self._nodes.values()
        )

    @property
    def busy(self) -> bool:
        """Whether `tick` has to be called although no member is mortal."""
        return self._loose or bool(self._awaited) or any(node not in self._members for node in self._nodes)

    def lost(self) -> None:
        """The store turns out to have lost tables: nodes that the one found does not know may have shares."""
        self._loose = True

    def tick(self, now: float) -> None:
        """Takes back what has surely ended."""
        if (self._loose or self._awaited) and now >= self._ended_at + self._longest():
            self._loose = False
            self._awaited.clear()
            self._targets_anew(now)
        if self._loose or self._awaited:
            # INVARIANT: `known` counts a node once, so none is forgotten while that matters.
            return
        for node in list(self._nodes.values()):
            until = node.until
            if until is None:
                until = node.told + self._options.share + self._grace(node)
            if now >= until:
                del self._nodes[node.node]

    def _grace(self, node: _Node) -> float:
        return max((self._graces.get(key, 0.0) for key in node.parts), default=0.0)

    def _longest(self) -> float:
        return max(self._graces.values(), default=self._options.share_grace)

    # --- heartbeats -------------------------------------------------------------------------------------------------

    def heard(
        self, node: str, at: float, held: Fence, usage: Mapping[str, Usage], now: float
    ) -> Shares | None:
        """A member's heartbeat: the shares it goes by, and what it makes of them. What its answer is to say."""
        member = self._members.get(node)
        if member is None or not (usage or node in self._nodes):
            return None
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = _Node(node, member.address)
        if at <= known.at:
            return None
        known.at = at
        known.until = None
        if held.term > self._term:
            # Another leads: what this node has is not to be given by this leader any more.
            known.foreign = True
            known.told = now
            return None
        keys = {name: Pool(member.namespace, member.app_id, name) for name in usage}
        if held == (self._term, known.number) and known.number:
            self._acknowledged(known, keys, usage)
        elif not known.joined:
            self._ask(
                known, {name: use.share if held.term < self._term else 0 for name, use in usage.items()}
            )
            known.told = now
            return Shares(self._term, known.number, known.amounts)
        for name, key in keys.items():
            self._count(known, key, usage[name])
        for key in keys.values():
            self._balance(key, now)
        known.told = now
        same = held == (self._term, known.number)
        return Shares(self._term, known.number, None if same else known.amounts)

    def _ask(self, node: _Node, held: dict[str, int]) -> None:
        """To keep at most what it says to have, so that this becomes certain."""
        if not node.number or node.amounts != held:
            node.amounts = held
            self._renumber(node)

    def _acknowledged(self, node: _Node, keys: Mapping[str, Pool], usage: Mapping[str, Usage]) -> None:
        """The node goes by the newest number, and so by nothing else."""
        if not node.joined:
            node.joined = True
            self._awaited.discard(node.node)
        for name, key in keys.items():
            part = node.parts.get(key)
            if part is not None:
                # Less than it was given, if that has ended meanwhile.
                part.ceiling = part.amount = usage[name].share
        for key, part in node.parts.items():
            if key.name not in keys:
                part.reported = False

    def _count(self, node: _Node, key: Pool, usage: Usage) -> None:
        pool = self._pools.get(key)
        if pool is None or not node.joined:
            return
        part = node.parts.get(key)
        if part is None:
            part = node.parts[key] = _Part()
            part.ceiling = part.amount = usage.share
            pool.known += max(usage.share, usage.running)
        part.reported = True
        part.running, part.waiting = usage.running, usage.waiting

    def _renumber(self, node: _Node) -> None:
        self._number += 1
        node.number = self._number

    # --- sharing out ------------------------------------------------------------------------------------------------

    def _targets_anew(self, now: float) -> None:
        for key, pool in self._pools.items():
            pool.targets = {}
            pool.balanced = -math.inf
            self._balance(key, now)

    def _balance(self, key: Pool, now: float) -> None:
        """Moves shares to where they are wanted, as far as others have given them up."""
        pool = self._pools.get(key)
        if pool is None:
            return
        parts = {
            node.node: node.parts[key]
            for node in self._nodes.values()
            if node.joined
            and not node.foreign
            and node.node in self._members
            and key in node.parts
            and node.parts[key].reported
        }
        if not parts:
            return
        everything = [node.parts[key] for node in self._nodes.values() if key in node.parts]
        budget = self._budget(pool, now)
        mine = set(map(id, parts.values()))
        total = max(0, budget - sum(part.used for part in everything if id(part) not in mine))
        if pool.targets.keys() != parts.keys() or self._unbalanced(pool, parts, total, now):
            pool.balanced = now
            pool.targets = self._fair(key, pool, parts, total, now)
        for node, part in parts.items():
            if part.amount > pool.targets[node]:
                self._give(node, key, part, pool.targets[node], now)
        free = budget - sum(part.used for part in everything)
        for node in sorted(parts, key=lambda node: (parts[node].amount, parts[node].since, node)):
            part = parts[node]
            most = min(pool.targets[node], max(part.ceiling, part.running) + max(0, free))
            if most > part.amount:
                free -= max(0, most - part.used)
                self._give(node, key, part, most, now)

    def _budget(self, pool: _Pool, now: float) -> int:
        if any(host in self._residents for host in pool.hosts):
            # They have all of it, by the table.
            return 0
        # There may be shares that this leader has not been told of.
        withheld = (self._loose or self._awaited) and now < self._ended_at + pool.grace
        return min(pool.most, pool.known) if withheld else pool.most

    def _unbalanced(self, pool: _Pool, parts: Mapping[str, _Part], total: int, now: float) -> bool:
        if now < pool.balanced + self._options.rebalance:
            return False
        short = any(part.wanted > part.amount for part in parts.values())
        return short or sum(pool.targets.values()) != total

    def _fair(
        self, key: Pool, pool: _Pool, parts: Mapping[str, _Part], total: int, now: float
    ) -> dict[str, int]:
        wanted = {node: part.wanted for node, part in parts.items()}
        turn = now - self._options.turn

        def order(node: str) -> tuple[int, float, str]:
            part = parts[node]
            if part.amount and part.since > turn:
                return 0, part.since, node
            return (2 if part.amount else 1), part.since, node

        spare = [node for node in ranked(pool.served, key.name) if node in parts]
        return fair(total, wanted, sorted(parts, key=order), spare)

    def _give(self, node: str, key: Pool, part: _Part, amount: int, now: float) -> None:
        if bool(part.amount) != bool(amount):
            part.since = now
        part.amount = amount
        part.ceiling = max(part.ceiling, amount)
        known = self._nodes[node]
        known.amounts = {each.name: other.amount for each, other in known.parts.items()}
        self._renumber(known)


def _limited(table: Table) -> list[str]:
    """The members that may have shares. One that is about to leave says that it has no activities any more."""
    found = []
    for member in table.members.values():
        limits = limits_of(table.members.values(), member.namespace, member.app_id)
        if member.limits or limits.keys() & set(member.activities):
            found.append(member.node)
    return found


def _graces(members: Iterable[Member], default: float) -> dict[Pool, float]:
    found: dict[Pool, float] = {}
    for member in members:
        for limit in member.limits:
            pool = Pool(member.namespace, member.app_id, limit.name)
            grace = default if limit.grace is None else limit.grace
            found[pool] = max(grace, found.get(pool, 0.0))
    return found


def fair(total: int, wanted: Mapping[str, int], order: Sequence[str], spare: Sequence[str]) -> dict[str, int]:
    """Shares `total` among nodes so that none has less than another unless it wants less.

    What cannot be divided goes to the first in `order`, which names all nodes; what nobody wants is spread over those
    of `spare`, so that whoever gets work can begin it at once.
    """
    found = dict.fromkeys(wanted, 0)
    left = total
    hungry = [node for node in order if wanted[node] > 0]
    while hungry:
        level = left // len(hungry)
        sated = [node for node in hungry if wanted[node] <= level]
        if not sated:
            for place, node in enumerate(hungry):
                found[node] = level + (place < left % len(hungry))
            return found
        for node in sated:
            found[node] = wanted[node]
            left -= wanted[node]
        hungry = [node for node in hungry if wanted[node] > level]
    for place, node in enumerate(spare):
        found[node] += left // len(spare) + (place < left % len(spare))
    return found
