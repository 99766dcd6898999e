"""What differs between two tables: it leads exactly from the one to the other, and from no other."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import CorruptState
from perdure.placement.change import decode, encode
from perdure.placement.member import Member
from perdure.placement.table import Table, assign
from perdure.placement.table import encode as encode_table
from perdure.statestore.contract import Fence, TypePartition

PARTITIONS = 24


def member(node: str, *types: str, **more: Any) -> Member:
    return Member(node, f"{node}:1", "shop", "default", types or ("Cart",), **more)


def path(*steps: list[Member]) -> list[Table]:
    tables: list[Table] = []
    for epoch, present in enumerate(steps, 1):
        tables.append(assign(present, tables[-1] if tables else None, 1, epoch, PARTITIONS, leader="p:1"))
    return tables


member_sets = st.dictionaries(
    st.sampled_from([f"n{number}" for number in range(8)]),
    st.tuples(st.sets(st.sampled_from(["A", "B", "C"])), st.integers(0, 3), st.booleans()),
).map(
    lambda found: [
        member(node, *sorted(types), weight=weight, activities=("x",) if knows else ())
        for node, (types, weight, knows) in found.items()
    ]
)


@given(st.lists(member_sets, min_size=2, max_size=5))
@settings(deadline=None)
def test_leads_from_any_table_to_any_later_one(history: list[list[Member]]) -> None:
    tables = path(*history)
    for number, base in enumerate(tables):
        for table in tables[number:]:
            change = decode(encode(base, table))
            assert change.base == base.name
            found = change.applied(base)
            assert found == table
            assert encode_table(found) == encode_table(table)


def test_carries_renewed_fences_and_a_new_leader() -> None:
    (base,) = path([member("a"), member("b")])
    renewed = assign(
        base.members.values(),
        base,
        1,
        2,
        PARTITIONS,
        renew=[TypePartition("Cart", 3)],
        leader="p:1",
        loose=True,
    )
    assert decode(encode(base, renewed)).applied(base) == renewed
    renamed = msgspec.structs.replace(base, term=7, epoch=2, leader="p:2")
    assert decode(encode(base, renamed)).applied(base) == renamed
    assert len(encode(base, renamed)) < 150


def test_applies_to_its_base_only() -> None:
    first, second, third = path([member("a")], [member("a"), member("b")], [member("a"), member("c")])
    change = decode(encode(first, second))
    for other in (second, third):
        with pytest.raises(CorruptState, match="begins at table"):
            change.applied(other)


def test_a_change_at_a_thousand_nodes_is_small() -> None:
    nodes = [member(f"{number:016x}") for number in range(1001)]
    partitions = 16_384
    base = assign(nodes[:1000], None, 1, 1, partitions)
    joined = assign(nodes, base, 1, 2, partitions)
    assert len(encode(base, joined)) < 2_000
    gone = assign([each for each in nodes if each is not nodes[500]], joined, 1, 3, partitions)
    assert len(encode(joined, gone)) < 2_000
    assert decode(encode(joined, gone)).applied(joined) == gone
    assert decode(encode(base, gone)).applied(base) == gone


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\xc1", b"\x78\x01\x02", msgspec.msgpack.encode(["change-1", 1])]
)
def test_bytes_that_are_no_change(data: bytes) -> None:
    with pytest.raises(CorruptState):
        decode(data)


def test_damage_is_told_or_gives_a_table_but_nothing_else() -> None:
    base, table = path([member("a"), member("b")], [member("a"), member("c", "Cart", "Order")])
    data = encode(base, table)
    rng = random.Random(1)
    told = 0
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = decode(bytes(damaged)).applied(base)
        except CorruptState:
            told += 1
        else:
            assert all(len(row) == PARTITIONS for row in found.owners.values())
            for owners in found.owners.values():
                assert set(owners) <= set(found.members)
    assert told > 500


def test_tables_of_different_stores_have_no_change() -> None:
    base = assign([member("a")], None, 1, 1, 4)
    with pytest.raises(ValueError, match="different stores"):
        encode(base, assign([member("a")], None, 1, 2, 8))
    change = decode(encode(base, assign([member("b")], base, 1, 2, 4)))
    assert change.base == Fence(1, 1)
