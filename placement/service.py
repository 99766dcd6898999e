"""Who is a member, and which table follows: placement's decisions as a state machine.

Time comes in as an argument (monotonic seconds); methods return what to do, in order. A table is published only after
the store has it: what a node has seen, the next leader knows.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import msgspec

from perdure.errors import ConfigurationError
from perdure.placement.member import Member
from perdure.placement.messages import Pulse, TableUpdate, ToNode
from perdure.placement.options import PlacementOptions
from perdure.placement.table import Table, assign, takes_from_members
from perdure.statestore.contract import Fence, TypePartition


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


Action = StoreTable | Publish | Send


class _Seat:
    """One member as the service sees it."""

    __slots__ = ("aside", "awaited", "deadline", "member", "word_at")

    def __init__(self, member: Member, deadline: float, *, awaited: bool = False) -> None:
        self.member = member
        #: When it counts as dead.
        self.deadline = deadline
        #: A member of the stored table that has not come to this leader yet.
        self.awaited = awaited
        #: Out as soon as its last word is no longer believed.
        self.aside = False
        #: When it was last given placement's word.
        self.word_at = -math.inf


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
        options: PlacementOptions | None = None,
    ) -> None:
        """`previous` is the stored table. `exclusive`: the lease shows that no other process can be working on
        this store, so all members of the stored table are gone."""
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
        self._table: Table | None = None
        self._writing: Table | None = None
        self._renew: set[TypePartition] = set()
        self._changed = False
        #: Until when the last table has to stand.
        self._quiet_until = -math.inf
        self._ended = False
        self._seats: dict[str, _Seat] = {}
        if previous is not None and not exclusive:
            deadline = now + self._options.takeover_grace
            self._seats = {
                node: _Seat(member, deadline, awaited=True) for node, member in previous.members.items()
            }

    @property
    def table(self) -> Table | None:
        """The newest table that is stored under this term; None before the first."""
        return self._table

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
        """Whether `tick` has to be called: some member dies unless it is heard, or a change has to wait."""
        return self._changed or any(seat.deadline < math.inf for seat in self._seats.values())

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

    def join(self, member: Member, now: float, *, resident: bool = False) -> list[Action]:
        """A node says hello: for the first time, after a lost link, to a new leader, or because what it hosts has
        changed. A resident lives in the service's own process: only its leaving ends it."""
        if self._ended:
            return []
        seat = self._seats.get(member.node)
        if seat is not None and seat.aside:
            return []
        if seat is None or seat.member != member:
            self._changed = True
            self._retire_predecessor(member, now)
        if seat is None:
            seat = self._seats[member.node] = _Seat(member, 0.0)
        seat.member = member
        self._back(seat, now)
        seat.deadline = math.inf if resident else now + self._options.silence
        actions = self._propose(now)
        if self._table is not None and self._table.members.get(member.node) == member:
            actions.append(Send(member.node, TableUpdate(self._table)))
        return actions

    def _back(self, seat: _Seat, now: float) -> None:
        """A member has come over from the last leader, whose word it may believe for a while yet."""
        if seat.awaited:
            seat.awaited = False
            self._quiet_until = max(self._quiet_until, now + self._options.word)

    def _retire_predecessor(self, member: Member, now: float) -> None:
        """A process that is back at its address under another name has lost its former self: waiting for that one
        to die would move its partitions twice. One whose link stands is left alone: two nodes that announce one
        address by mistake would drive each other out for ever."""
        for node, seat in self._seats.items():
            silent = seat.awaited or seat.deadline <= now + self._options.link_grace
            if silent and node != member.node and seat.member.address == member.address != "":
                self._set_aside(seat, now)

    def heard(self, node: str, at: float, applied: Fence, now: float) -> list[Action]:
        """A node's heartbeat, with its own time and the newest table that it applied."""
        if self._ended or self._table is None:
            return []
        seat = self._seats.get(node)
        if seat is None:
            # It sees that it is out, and says hello.
            return [Send(node, TableUpdate(self._table))]
        if seat.aside:
            return []
        actions: list[Action] = []
        if seat.awaited:
            self._back(seat, now)
            actions += self._propose(now)
        seat.deadline = max(seat.deadline, now + self._options.silence)
        if self._writing is not None and node not in self._writing.members:
            # It was dead, and is back too late: the table that takes all it has is on its way.
            return actions
        seat.word_at = now
        if applied < self._table.name:
            actions.append(Send(node, TableUpdate(self._table)))
        actions.append(Send(node, Pulse(self._table.name, at)))
        return actions

    def link_closed(self, node: str, now: float) -> list[Action]:
        """The node's link is gone; it has a moment to come back."""
        seat = self._seats.get(node)
        if seat is not None:
            seat.deadline = min(seat.deadline, now + self._options.link_grace)
        return []

    def leave(self, node: str, now: float) -> list[Action]:
        """A node that has stopped all work goes."""
        if self._seats.pop(node, None) is not None:
            self._changed = True
        return self._propose(now)

    def set_aside(self, node: str, now: float) -> list[Action]:
        """Takes a node out although its link stands: it gets no more words, and is out when the last one is no
        longer believed. It may join again after that."""
        seat = self._seats.get(node)
        if seat is not None:
            self._set_aside(seat, now)
        return self.tick(now)

    def _set_aside(self, seat: _Seat, now: float) -> None:
        seat.aside = True
        seat.deadline = min(seat.deadline, max(now, seat.word_at + self._options.word))

    def renew(self, node: str, held: Collection[TypePartition], now: float) -> list[Action]:
        """The node's partitions get a new fence, so that it can take them again."""
        if self._table is not None:
            owned = self._table.held(node).keys() & set(held)
            self._changed = self._changed or bool(owned)
            self._renew |= owned
        return self._propose(now)

    def tick(self, now: float, late: float = 0.0) -> list[Action]:
        """Removes the dead. `late`: by how much this call comes after its time; while the service itself stood still
        it could hear nobody, so that is not held against them."""
        if late > self._options.link_grace / 4:
            for seat in self._seats.values():
                seat.deadline += late
        dead = [node for node, seat in self._seats.items() if seat.deadline <= now]
        for node in dead:
            del self._seats[node]
            self._changed = True
        return self._propose(now)

    def stored(self, table: Table, now: float) -> list[Action]:
        """The store has the table."""
        if self._ended or table is not self._writing:
            return []
        self._writing = None
        if self._waits_for_words and takes_from_members(self._table, table):
            self._quiet_until = now + self._options.word
        self._table = table
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
        table = assign(
            members,
            base,
            self._term,
            base.epoch + 1 if base is not None else 1,
            self._partitions,
            renew=renew,
            leader=self._leader,
        )
        if self._table is not None and table.same_placement(self._table):
            return []
        return self._store(table)

    def _store(self, table: Table) -> list[Action]:
        self._writing = table
        return [StoreTable(table)]
