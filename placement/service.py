"""Who is a member, and which table follows: placement's decisions as a state machine.

Time comes in as an argument (monotonic seconds); methods return what to do, in order. A table is published only after
the store has it: what a node has seen, the next leader knows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import msgspec

from perdure.errors import ConfigurationError
from perdure.placement.limits import Limits
from perdure.placement.member import Member
from perdure.placement.messages import Pulse, Refused, TableUpdate, ToNode
from perdure.placement.options import PlacementOptions
from perdure.placement.shares import Usage
from perdure.placement.table import Table, assign, takes_from_members
from perdure.statestore.contract import Fence, TypePartition

#: The name of no table.
NONE = Fence(0, 0)
#: Seconds after which it is forgotten that a node waits for the address of another.
_DOUBLE_FORGOTTEN = 60.0

#: See `PlacementService.expect`.
EXPECTED_WITHIN = 3.0


class StoreTable(msgspec.Struct, frozen=True):
    """Write this under the term; then call `stored`, or `refused` when the store knows a higher term. Until either,
    no other table is asked to be stored."""

    table: Table


class Publish(msgspec.Struct, frozen=True):
    """Send this table to every node."""

    table: Table


class Send(msgspec.Struct, frozen=True):
    """Send this message to one node."""

    node: str
    message: ToNode


class Gone(msgspec.Struct, frozen=True):
    """A member is out of the tables to come. Nothing has to be done about it, but to be told."""

    node: str
    #: "left", "closed" (its link), "silent", "absent" (after a change of leader), "replaced" (by its next incarnation)
    #: or "aside" (it was told to be).
    reason: str


Action = StoreTable | Publish | Send | Gone


class _Seat:
    """One member as the service sees it."""

    __slots__ = ("aside", "awaited", "closed", "deadline", "heard_at", "member", "sent_at", "word_at")

    def __init__(self, member: Member, deadline: float, *, awaited: bool = False) -> None:
        self.member = member
        #: When it counts as dead.
        self.deadline = deadline
        #: A member of the stored table that has not come to this leader yet.
        self.awaited = awaited
        #: Out as soon as its last word is no longer believed: why.
        self.aside = ""
        #: Its link is gone.
        self.closed = False
        #: When it last said anything to this leader.
        self.heard_at = -math.inf
        #: When it was last given placement's word.
        self.word_at = -math.inf
        #: When it was last sent the newest table.
        self.sent_at = -math.inf

    @property
    def reason(self) -> str:
        """Why it is dead, if it is."""
        return self.aside or ("absent" if self.awaited else "closed" if self.closed else "silent")


class PlacementService:
    """One leadership: made when the lease is taken, thrown away when it is lost."""

    def __init__(
        self,
        term: int,
        partitions: int,
        previous: Table | None,
        now: float,
        *,
        leader: str = "",
        exclusive: bool = False,
        unread: bool = False,
        lease_life: float = 0.0,
        lost: bool = False,
        options: PlacementOptions | None = None,
    ) -> None:
        """`previous` is the stored table, or a newer one that is known although the store has `lost` it. `exclusive`:
        the lease shows that no other process can be working on this store, so all its members are gone.
        `lease_life`: see `ExpiringLease`; 0 for others."""
        if previous is not None and previous.partitions != partitions:
            raise ConfigurationError(
                f"the stored placement table has {previous.partitions} partitions, the store {partitions}"
            )
        self._options = options or PlacementOptions()
        self._term = term
        self._partitions = partitions
        self._previous = previous
        self._leader = leader
        self._exclusive = exclusive
        #: When nobody believes the last leader any more, unless that was seen to answer.
        self._last_over = now + self._options.former_leader_grace(lease_life)
        #: The same if the store has lost writes: it may have lost the last leader's lease as well.
        self._last_over_at_most = now + self._options.former_leader_grace(0.0)
        #: Nodes know a table that the store has lost.
        self._rolled_back = self._renew_all = False
        #: Since when a node that has another's address waits to hear which of the two lives.
        self._doubles: dict[str, float] = {}
        self._table: Table | None = None
        self._writing: Table | None = None
        self._renew: set[TypePartition] = set()
        self._changed = False
        #: Until when the last table has to stand.
        self._quiet_until = -math.inf
        #: See `expect`.
        self._expected = 0
        self._ended = False
        #: Nothing that an earlier leader gave is in use if none has been, or all of its nodes are gone. `unread`:
        #: there is a stored table that cannot be read.
        self._limits = Limits(
            term,
            previous,
            now,
            settled=exclusive or (previous is None and not unread),
            options=self._options,
        )
        self._seats: dict[str, _Seat] = {}
        if previous is not None and not exclusive:
            grace = self._options.takeover_grace
            for node, member in previous.members.items():
                died = member.address == previous.leader != ""
                self._seats[node] = _Seat(member, self._last_over if died else now + grace, awaited=True)
        if lost:
            self._take_anew()

    @property
    def term(self) -> int:
        return self._term

    @property
    def found(self) -> Table | None:
        """The stored table that it began with."""
        return self._previous

    @property
    def table(self) -> Table | None:
        """The newest table that is stored under this term; None before the first."""
        return self._table

    def member(self, node: str) -> Member | None:
        """What a member, or one that is on its way in or out, said of itself."""
        seat = self._seats.get(node)
        return seat.member if seat is not None else None

    @property
    def ended(self) -> bool:
        """The leadership is over: nothing that is called has any effect."""
        return self._ended

    @property
    def settled(self) -> bool:
        """Nobody is waited for, so that tables may change."""
        return not any(seat.awaited or seat.aside for seat in self._seats.values())

    @property
    def mortal(self) -> bool:
        """Whether `tick` has to be called: some member dies unless it is heard, or something has to wait."""
        waits = self._changed or self._limits.busy
        return waits or any(seat.deadline < math.inf for seat in self._seats.values())

    def start(self) -> list[Action]:
        """Stores the table found under the new term, with nothing moved: so the store refuses the last leader from
        now on, and followers learn who leads. An exclusive leader needs neither, and waits for its first member."""
        if self._exclusive:
            return []
        if self._previous is None:
            table = assign((), None, self._term, 1, self._partitions, leader=self._leader)
        else:
            table = msgspec.structs.replace(
                self._previous, term=self._term, epoch=self._previous.epoch + 1, leader=self._leader
            )
        return self._store(table)

    def join(
        self, member: Member, now: float, *, applied: Fence = NONE, resident: bool = False
    ) -> list[Action]:
        """A node says hello: for the first time, after a lost link, to a new leader, or because what it hosts has
        changed. `applied`: its newest table. A resident lives in the service's own process: only its leaving ends
        it."""
        if self._ended:
            return []
        seat = self._seats.get(member.node)
        if seat is not None and seat.aside:
            return []
        self._notice_rollback(applied)
        if seat is None or seat.member != member:
            refusal = self._double(member, now)
            if refusal is not None:
                return refusal
            self._changed = True
        if seat is None:
            seat = self._seats[member.node] = _Seat(member, 0.0)
        self._limits.succeeded(member, self._seats)
        seat.member = member
        self._back(seat, now)
        seat.deadline = math.inf if resident else now + self._options.silence
        self._wait_for_expected(now)
        actions = self._propose(now)
        if self._table is not None and self._table.members.get(member.node) == member:
            actions.append(self._tell(seat, self._table, now))
        return actions

    def _tell(self, seat: _Seat, table: Table, now: float) -> Send:
        seat.sent_at = now
        return Send(seat.member.node, TableUpdate(table))

    def expect(self, members: int) -> None:
        """So many are about to join: the first table waits until they have, so that nothing moves between them at
        once; at most `EXPECTED_WITHIN` seconds from the first of them."""
        self._expected = members

    def _wait_for_expected(self, now: float) -> None:
        if self._expected and self._table is None and self._writing is None:
            if self._quiet_until == -math.inf:
                self._quiet_until = now + EXPECTED_WITHIN
            if len(self._seats) >= self._expected:
                self._quiet_until = now

    def _back(self, seat: _Seat, now: float) -> None:
        """A member is there; it may have come over from the last leader, whose word it may believe for a while yet."""
        seat.closed = False
        seat.heard_at = now
        if seat.awaited:
            seat.awaited = False
            self._quiet_until = max(self._quiet_until, now + self._options.word)

    def _double(self, member: Member, now: float) -> list[Action] | None:
        """What to say to a node that comes with the address of another member; None: there is no other, or it is
        gone.

        A process that is back at its address under another name has lost its former self: waiting for that one to
        die would move its partitions twice. But two nodes that announce one address by mistake would drive each
        other out for ever: where the first says anything after the second came, the second is refused."""
        for seat in self._same_address(member):
            since = self._doubles.setdefault(member.node, now)
            if not seat.awaited and seat.heard_at > since:
                reason = (
                    f"its address {member.address} is that of node {seat.member.node}, which lives: every node needs "
                    "an address of its own"
                )
                return [Send(member.node, Refused(reason))]
            if not seat.awaited and seat.deadline > now + self._options.link_grace:
                return []
        self._doubles.pop(member.node, None)
        for seat in self._same_address(member):
            self._set_aside(seat, "replaced", now)
            self._limits.ended(seat.member.node)
        return None

    def _same_address(self, member: Member) -> Iterator[_Seat]:
        if member.address:
            for node, seat in self._seats.items():
                if node != member.node and seat.member.address == member.address:
                    yield seat

    def _notice_rollback(self, applied: Fence) -> None:
        """A node that knows a table newer than the one found in the store, and older than this leader: the store
        has lost it. What it moved is fenced by names that the older table does not know, and nodes may believe in
        it: everything gets a new fence, once nobody believes any last leader."""
        found = self._previous.name if self._previous is not None else NONE
        if found < applied < Fence(self._term, 0) and not self._rolled_back and not self._exclusive:
            self._take_anew()

    def _take_anew(self) -> None:
        self._limits.lost()
        self._rolled_back = self._renew_all = self._changed = True
        self._quiet_until = max(self._quiet_until, self._last_over_at_most)

    def heard(
        self,
        node: str,
        at: float,
        applied: Fence,
        now: float,
        *,
        shares: Fence = NONE,
        usage: Mapping[str, Usage] | None = None,
    ) -> list[Action]:
        """A node's heartbeat, with its own time, the newest table that it applied, the shares that it goes by, and
        what it makes of them."""
        if self._ended or self._table is None:
            return []
        seat = self._seats.get(node)
        if seat is None:
            # It sees that it is out, and says hello; until it is in, again and again.
            return [Send(node, TableUpdate(self._table))] if applied < self._table.name else []
        if seat.aside:
            return []
        self._notice_rollback(applied)
        back = seat.awaited
        self._back(seat, now)
        actions = self._propose(now) if back else []
        seat.deadline = max(seat.deadline, now + self._options.silence)
        if self._writing is not None and node not in self._writing.members:
            # It was dead, and is back too late: the table that takes all it has is on its way.
            return actions
        if self._renew_all:
            # Somebody may have by a lost table what this one seems to have.
            return actions
        seat.word_at = now
        if applied < self._table.name and now - seat.sent_at >= 2 * self._options.heartbeat:
            # Not because this heartbeat and the table crossed: the table was lost, or is slow.
            actions.append(self._tell(seat, self._table, now))
        given = self._limits.heard(node, at, shares, usage or {}, now)
        actions.append(Send(node, Pulse(self._table.name, at, given)))
        return actions

    def link_closed(self, node: str, now: float) -> list[Action]:
        """The node's link is gone; it has a moment to come back."""
        seat = self._seats.get(node)
        if seat is not None:
            seat.closed = True
            seat.deadline = min(seat.deadline, now + self._options.link_grace)
        return []

    def leave(self, node: str, now: float, *, running: Mapping[str, int] | None = None) -> list[Action]:
        """A node that has stopped all work goes. `running`: limited activities that do not end."""
        self._limits.left(node, running or {}, now)
        if self._seats.pop(node, None) is None:
            return self._propose(now)
        self._changed = True
        return [Gone(node, "left"), *self._propose(now)]

    def set_aside(self, node: str, now: float) -> list[Action]:
        """Takes a node out although its link stands: it gets no more words, and is out when the last one is no
        longer believed. It may join again after that."""
        seat = self._seats.get(node)
        if seat is not None:
            self._set_aside(seat, "aside", now)
        return self.tick(now)

    def _set_aside(self, seat: _Seat, reason: str, now: float) -> None:
        seat.aside = reason
        over = self._last_over if seat.awaited else seat.word_at + self._options.word
        seat.deadline = min(seat.deadline, max(now, over))

    def renew(self, node: str, held: Collection[TypePartition], now: float) -> list[Action]:
        """The node's partitions get a new fence, so that it can take them again."""
        if self._table is not None:
            owned = self._table.held(node).keys() & set(held)
            self._changed = self._changed or bool(owned)
            self._renew |= owned
        return self._propose(now)

    def tick(self, now: float, late: float = 0.0, *, proven: bool = True) -> list[Action]:
        """Removes the dead. `late`: by how much this call comes after its time; while the service itself stood still
        it could hear nobody, so that is not held against them. `proven`: whether the leadership is; without that
        nobody is taken for dead, as no table could say so, and another leader may hear them."""
        if late > self._options.link_grace / 4:
            for seat in self._seats.values():
                seat.deadline += late
        dead = [seat for seat in self._seats.values() if seat.deadline <= now] if proven else []
        for seat in dead:
            del self._seats[seat.member.node]
            self._changed = True
        self._doubles = {
            node: since for node, since in self._doubles.items() if now - since < _DOUBLE_FORGOTTEN
        }
        self._limits.tick(now)
        if self._table is not None and self._limits.loose(self._seats, now) != self._table.loose:
            self._changed = True
        gone = [Gone(seat.member.node, seat.reason) for seat in dead]
        return [*gone, *self._propose(now)]

    def stored(self, table: Table, now: float) -> list[Action]:
        """The store has the table."""
        if self._ended or table is not self._writing:
            return []
        self._writing = None
        if self._waits_for_words and takes_from_members(self._table, table):
            self._quiet_until = now + self._options.word
        self._table = table
        residents = [node for node, seat in self._seats.items() if seat.deadline == math.inf]
        self._limits.changed(table.members, residents, now)
        for seat in self._seats.values():
            seat.sent_at = now
        return [Publish(table), *self._propose(now)]

    @property
    def _waits_for_words(self) -> bool:
        """Residents learn of a table in the same moment, in order; other nodes go by words."""
        return not self._exclusive or any(seat.deadline < math.inf for seat in self._seats.values())

    def refused(self) -> None:
        """The store knows a higher term: another leads."""
        self._ended = True

    def _propose(self, now: float) -> list[Action]:
        """The next table, if one is due. Changes that come while one is being stored share the next.

        INVARIANT: whoever lost a partition by one table believes no word from before it when the next is published.
        The owner by the next asks only the owner by this one, who may be gone or may never have had it, and takes it
        at once: nobody would ask the node that still answers from memory.
        """
        if self._ended or self._writing is not None or not self._changed or not self.settled:
            return []
        if now < self._quiet_until:
            return []
        base = self._table or self._previous
        members = [seat.member for seat in self._seats.values()]
        self._changed = False
        renew, self._renew = self._renew, set()
        if self._renew_all and base is not None:
            renew = {TypePartition(name, number) for name in base.owners for number in range(base.partitions)}
        self._renew_all = False
        table = assign(
            members,
            base,
            self._term,
            base.epoch + 1 if base is not None else 1,
            self._partitions,
            renew=renew,
            leader=self._leader,
            loose=self._limits.loose(self._seats, now),
        )
        if self._table is not None and table.same_placement(self._table):
            return []
        return self._store(table)

    def _store(self, table: Table) -> list[Action]:
        self._writing = table
        return [StoreTable(table)]
