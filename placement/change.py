"""What differs between two tables, as it is sent to nodes that have the one and need the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from perdure.errors import CorruptState
from perdure.placement.member import Member
from perdure.placement.packing import pack, unpack
from perdure.placement.table import Table
from perdure.statestore.contract import Fence

T = TypeVar("T")

#: One partition as a table has it: its owner, the fence, and whom to ask.
_Cell = tuple[str, Fence, str | None]


class _Row(msgspec.Struct, array_like=True):
    """The partitions of one type that differ, and what they are now: numbers of entries in `nodes` and `names`."""

    at: list[int]
    owners: list[int]
    fences: list[int]
    formers: list[int]


class _Change(msgspec.Struct, array_like=True, tag="change-1"):
    base: tuple[int, int]
    #: The new table without members and rows.
    head: Table
    gone: list[str]
    #: New ones, and those that say something else of themselves now.
    members: list[Member]
    dropped: list[str]
    rows: dict[str, _Row]
    nodes: list[str | None]
    names: list[tuple[int, int]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Change)


class Change:
    """A difference that was read."""

    def __init__(self, wire: _Change) -> None:
        self._wire = wire
        #: The name of the table that it is a difference from.
        self.base = Fence(*wire.base)

    def applied(self, base: Table) -> Table:
        """The table that it leads to. `CorruptState` when `base` is not its base, or it is damaged."""
        try:
            return _apply(self._wire, base)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise CorruptState(f"The change of the placement table cannot be applied: {error!r}") from error


def encode(base: Table, table: Table) -> bytes:
    """What leads from one table to the other. ValueError when they differ in the number of partitions."""
    if base.partitions != table.partitions:
        raise ValueError("tables of different stores")
    nodes: dict[str | None, int] = {}
    names: dict[Fence, int] = {}
    none = [None] * table.partitions
    rows = {}
    for actor_type, owners in table.owners.items():
        cells = list(zip(owners, table.fences[actor_type], table.formers[actor_type], strict=True))
        before: Sequence[_Cell | None] = none
        if actor_type in base.owners:
            before = list(
                zip(base.owners[actor_type], base.fences[actor_type], base.formers[actor_type], strict=True)
            )
        if cells != before:
            at = [partition for partition in range(table.partitions) if cells[partition] != before[partition]]
            rows[actor_type] = _row(at, cells, nodes, names)
    change = _Change(
        base=base.name,
        head=msgspec.structs.replace(table, members={}, owners={}, fences={}, formers={}),
        gone=[node for node in base.members if node not in table.members],
        members=[member for node, member in table.members.items() if base.members.get(node) != member],
        dropped=[actor_type for actor_type in base.owners if actor_type not in table.owners],
        rows=rows,
        nodes=list(nodes),
        names=[(name.term, name.epoch) for name in names],
    )
    return pack(_encoder.encode(change))


def _row(
    at: list[int], cells: Sequence[_Cell], nodes: dict[str | None, int], names: dict[Fence, int]
) -> _Row:
    row = _Row(at, [], [], [])
    for partition in at:
        owner, fence, former = cells[partition]
        row.owners.append(nodes.setdefault(owner, len(nodes)))
        row.fences.append(names.setdefault(fence, len(names)))
        row.formers.append(nodes.setdefault(former, len(nodes)))
    return row


def decode(data: bytes) -> Change:
    """`CorruptState` when these bytes are no change."""
    try:
        wire = _decoder.decode(unpack(data))
    except (msgspec.DecodeError, ValueError) as error:
        raise CorruptState(f"The change of the placement table cannot be read: {error}") from error
    return Change(wire)


def _apply(wire: _Change, base: Table) -> Table:
    if base.name != wire.base or base.partitions != wire.head.partitions:
        raise ValueError(f"it begins at table {wire.base}, not {tuple(base.name)}")
    members = dict(base.members)
    for node in wire.gone:
        del members[node]
    members.update((member.node, member) for member in wire.members)
    members = dict(sorted(members.items()))
    owners, fences, formers = dict(base.owners), dict(base.fences), dict(base.formers)
    for actor_type in wire.dropped:
        del owners[actor_type], fences[actor_type], formers[actor_type]
    names = [Fence(*name) for name in wire.names]
    nodes = [node or "" for node in wire.nodes]
    for actor_type, row in wire.rows.items():
        if not len(row.at) == len(row.owners) == len(row.fences) == len(row.formers):
            raise ValueError("its columns differ in length")
        if actor_type not in owners and row.at != list(range(base.partitions)):
            raise ValueError("the row of a new type is not whole")
        if any(min(column, default=0) < 0 for column in (row.at, row.owners, row.fences, row.formers)):
            raise ValueError("a number is negative")
        owners[actor_type] = _set(owners.get(actor_type), row, [nodes[number] for number in row.owners])
        fences[actor_type] = _set(fences.get(actor_type), row, [names[number] for number in row.fences])
        formers[actor_type] = _set(
            formers.get(actor_type), row, [wire.nodes[number] for number in row.formers]
        )
    for actor_type in wire.rows:
        if not members.keys() >= set(owners[actor_type]):
            raise ValueError("an owner is no member")
    return msgspec.structs.replace(
        wire.head, members=members, owners=_sorted(owners), fences=_sorted(fences), formers=_sorted(formers)
    )


def _set(before: Sequence[T] | None, row: _Row, values: list[T]) -> tuple[T, ...]:
    if before is None:
        return tuple(values)
    after = list(before)
    for at, value in zip(row.at, values, strict=True):
        after[at] = value
    return tuple(after)


def _sorted(rows: dict[str, T]) -> dict[str, T]:
    return dict(sorted(rows.items()))
