"""The placement table: which node owns which partition of which actor type. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from perdure.errors import CorruptState
from perdure.placement.member import Member
from perdure.placement.packing import pack, unpack
from perdure.placement.quota import Balance
from perdure.statestore.contract import Fence, TypePartition

T = TypeVar("T")


class Table(msgspec.Struct, frozen=True):
    """One numbered table. (term, epoch) names it; a higher name is newer.

    Only types that a member hosts are in it, and all their partitions have an owner.
    """

    term: int
    epoch: int
    partitions: int
    members: dict[str, Member]
    #: Per actor type, the owner of each partition.
    owners: dict[str, tuple[str, ...]]
    #: Per actor type, the name of the table by which each partition's owner takes it: tables that leave a
    #: partition where it is leave this too, or every change would fence everybody.
    fences: dict[str, tuple[Fence, ...]]
    #: Per actor type, whom the owner of each partition asks to release it before it takes it: the owner in the table
    #: just before that of the fence, if it is still a member and another node; else None. A node may have missed
    #: tables, so it cannot tell this from the one it knows.
    formers: dict[str, tuple[str | None, ...]]
    #: Where the service that made this table is reached; empty in an embedded process.
    leader: str = ""
    #: Nodes that are none of the members may still run limited activities by shares they had.
    loose: bool = False

    @property
    def name(self) -> Fence:
        """(term, epoch)."""
        return Fence(self.term, self.epoch)

    def owner(self, actor_type: str, partition: int) -> str | None:
        """The node that owns a partition; None when no member hosts the type."""
        row = self.owners.get(actor_type)
        return row[partition] if row is not None else None

    def assigned(self, actor_type: str, partition: int) -> Fence | None:
        """The fence under which a partition's owner takes it; None when it has none."""
        row = self.fences.get(actor_type)
        return row[partition] if row is not None else None

    def former(self, actor_type: str, partition: int) -> str | None:
        """The member that its owner asks to release a partition; None when there is none to ask."""
        row = self.formers.get(actor_type)
        return row[partition] if row is not None else None

    def same_placement(self, other: Table) -> bool:
        """Whether the two differ in nothing but their name and who made them."""
        return (
            self.members == other.members
            and self.owners == other.owners
            and self.fences == other.fences
            and self.loose == other.loose
        )

    def held(self, node: str) -> dict[TypePartition, Fence]:
        """All that a node owns, each with its fence."""
        return {
            TypePartition(actor_type, partition): fence
            for actor_type, row in self.owners.items()
            for partition, (owner, fence) in enumerate(zip(row, self.fences[actor_type], strict=True))
            if owner == node
        }


class Move(NamedTuple):
    """A partition that changes owner or, where both are the same, has to be taken again."""

    held: TypePartition
    before: str | None
    after: str | None
    #: The new owner's fence; None when there is no new owner.
    fence: Fence | None


def assign(
    members: Iterable[Member],
    previous: Table | None,
    term: int,
    epoch: int,
    partitions: int,
    *,
    renew: Collection[TypePartition] = (),
    leader: str = "",
    loose: bool = False,
) -> Table:
    """The table for these members, with the fewest moves from the previous one that balance allows.

    Every host of a type gets its share of the partitions by weight, rounded down or up; a weight of 0 or less gets
    none. What has to move goes to the nodes that rank highest for it. The partitions of `renew` get a new fence even
    where their owner stays. The result does not depend on the order of the members.
    """
    if previous is not None and previous.partitions != partitions:
        previous = None
    present = {member.node: member for member in sorted(members, key=lambda member: member.node)}
    weights: dict[str, dict[str, int]] = {}
    for node, member in present.items():
        if member.weight > 0:
            for actor_type in member.actor_types:
                weights.setdefault(actor_type, {})[node] = member.weight
    renewed: dict[str, set[int]] = {}
    for actor_type, partition in renew:
        renewed.setdefault(actor_type, set()).add(partition)
    owners = {
        actor_type: _owners(actor_type, weights[actor_type], previous, partitions)
        for actor_type in sorted(weights)
    }
    fences = {
        actor_type: _fences(actor_type, row, previous, Fence(term, epoch), renewed.get(actor_type, ()))
        for actor_type, row in owners.items()
    }
    formers = {
        actor_type: _formers(actor_type, row, fences[actor_type], previous, present)
        for actor_type, row in owners.items()
    }
    return Table(term, epoch, partitions, present, owners, fences, formers, leader, loose)


def _owners(
    actor_type: str, weights: Mapping[str, int], previous: Table | None, partitions: int
) -> tuple[str, ...]:
    if len(weights) == 1:
        return tuple(weights) * partitions
    before = previous.owners.get(actor_type) if previous is not None else None
    balance = Balance(actor_type, weights, partitions)
    if before is not None:
        balance.keep(before)
    return balance.fill()


def _fences(
    actor_type: str, owners: tuple[str, ...], previous: Table | None, fence: Fence, renewed: Collection[int]
) -> tuple[Fence, ...]:
    if previous is None or actor_type not in previous.owners:
        return (fence,) * len(owners)
    before, fences = previous.owners[actor_type], previous.fences[actor_type]
    if owners == before and not renewed:
        return fences
    return tuple(
        fences[partition] if owner == before[partition] and partition not in renewed else fence
        for partition, owner in enumerate(owners)
    )


def _formers(
    actor_type: str,
    owners: tuple[str, ...],
    fences: tuple[Fence, ...],
    previous: Table | None,
    present: Collection[str],
) -> tuple[str | None, ...]:
    if previous is None or actor_type not in previous.owners:
        return (None,) * len(owners)
    before, had, asked = (
        previous.owners[actor_type],
        previous.fences[actor_type],
        previous.formers[actor_type],
    )
    candidates = asked if fences == had else _candidates(before, had, asked, fences)
    return tuple(
        [
            node if node in present and node != owner else None
            for node, owner in zip(candidates, owners, strict=True)
        ]
    )


def _candidates(
    before: tuple[str, ...], had: tuple[Fence, ...], asked: tuple[str | None, ...], fences: tuple[Fence, ...]
) -> list[str | None]:
    return [
        earlier if fence == old else owner
        for owner, old, earlier, fence in zip(before, had, asked, fences, strict=True)
    ]


def takes_from_members(old: Table | None, new: Table) -> bool:
    """Whether the new table takes a partition from a node that stays a member, and so may not know it yet."""
    return old is not None and any(
        move.before != move.after and move.before in new.members for move in diff(old, new)
    )


def diff(old: Table | None, new: Table) -> list[Move]:
    """What changes hands between two tables, ordered by type and partition.

    Compares fences, not owners: between two tables that are not neighbours a partition may have gone to another
    node and come back, and then has to be taken again.
    """
    none = (None,) * new.partitions
    before = old if old is not None and old.partitions == new.partitions else None
    moves = []
    for actor_type in sorted(new.owners.keys() | (before.owners.keys() if before else ())):
        was = before.owners.get(actor_type, none) if before else none
        had = before.fences.get(actor_type, none) if before else none
        becomes, gets = new.owners.get(actor_type, none), new.fences.get(actor_type, none)
        if had == gets:
            continue
        moves += [
            Move(TypePartition(actor_type, partition), was[partition], becomes[partition], gets[partition])
            for partition in range(new.partitions)
            if had[partition] != gets[partition]
        ]
    return moves


class _Wire(msgspec.Struct, array_like=True, tag="table-1"):
    """A table as stored and sent: nodes (in the order of the members) and fences are written once and numbered."""

    term: int
    epoch: int
    partitions: int
    leader: str
    members: list[Member]
    names: list[tuple[int, int]]
    owners: dict[str, list[int]]
    fences: dict[str, list[int]]
    #: 0 for none, else the node's number + 1.
    formers: dict[str, list[int]]
    loose: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Wire)


def encode(table: Table) -> bytes:
    """The table as bytes, the same for equal tables."""
    # Formers are members too.
    nodes = sorted(table.members)
    names = sorted({fence for row in table.fences.values() for fence in row})
    node_index = {node: index for index, node in enumerate(nodes)}
    former_index: dict[str | None, int] = {None: 0}
    former_index.update((node, index + 1) for node, index in node_index.items())
    name_index = {name: index for index, name in enumerate(names)}
    data = _encoder.encode(
        _Wire(
            table.term,
            table.epoch,
            table.partitions,
            table.leader,
            [member for _, member in sorted(table.members.items())],
            [(name.term, name.epoch) for name in names],
            {key: [node_index[owner] for owner in row] for key, row in sorted(table.owners.items())},
            {key: [name_index[fence] for fence in row] for key, row in sorted(table.fences.items())},
            {key: [former_index[node] for node in row] for key, row in sorted(table.formers.items())},
            table.loose,
        )
    )
    return pack(data)


def decode(data: bytes) -> Table:
    """The table of these bytes. `CorruptState` when they are none."""
    try:
        wire = _decoder.decode(unpack(data))
        nodes = [member.node for member in wire.members]
        owners = {key: _pick(row, nodes, wire.partitions) for key, row in wire.owners.items()}
        names = [Fence(term, epoch) for term, epoch in wire.names]
        fences = {key: _pick(row, names, wire.partitions) for key, row in wire.fences.items()}
        formers = {key: _pick(row, [None, *nodes], wire.partitions) for key, row in wire.formers.items()}
        if not owners.keys() == fences.keys() == formers.keys():
            raise ValueError("its rows are of different actor types")
    except (msgspec.DecodeError, ValueError, IndexError) as error:
        raise CorruptState(f"The placement table cannot be read: {error}") from error
    members = {member.node: member for member in wire.members}
    return Table(
        wire.term, wire.epoch, wire.partitions, members, owners, fences, formers, wire.leader, wire.loose
    )


def _pick(row: list[int], values: list[T], size: int) -> tuple[T, ...]:
    if len(row) != size or min(row, default=0) < 0:
        raise ValueError("a row is of the wrong size, or names an unknown entry")
    return tuple([values[index] for index in row])
