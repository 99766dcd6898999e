"""The table: balance, few moves, fences that stay, bytes."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import CorruptState
from perdure.placement import quota
from perdure.placement.member import Member
from perdure.placement.table import Table, assign, decode, diff, encode
from perdure.statestore.contract import Fence, TypePartition

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())


def member(node: str, *types: str, weight: int = 1) -> Member:
    return Member(node, f"{node}:50002", "shop", "default", types or ("Cart",), weight=weight)


def members(count: int, *types: str, first: int = 0) -> list[Member]:
    return [member(f"n{number}", *types) for number in range(first, first + count)]


def check_balance(table: Table) -> None:
    """Every host has its share by weight, rounded down or up, and nobody else has anything."""
    for actor_type, row in table.owners.items():
        weights = {
            node: each.weight
            for node, each in table.members.items()
            if actor_type in each.actor_types and each.weight > 0
        }
        total = sum(weights.values())
        loads = Counter(row)
        assert loads.keys() <= weights.keys()
        for node, weight in weights.items():
            share, rest = divmod(table.partitions * weight, total)
            assert share <= loads[node] <= share + (rest > 0), (actor_type, node, loads)


def moved(old: Table, new: Table) -> list[TypePartition]:
    return [move.held for move in diff(old, new)]


member_sets = st.dictionaries(
    st.sampled_from([f"n{number}" for number in range(12)]),
    st.tuples(st.sets(st.sampled_from(["A", "B", "C"])), st.integers(0, 4)),
).map(lambda found: [member(node, *sorted(types), weight=weight) for node, (types, weight) in found.items()])


@pytest.mark.parametrize("case", GOLDEN["tables"], ids=lambda case: case["name"])
def test_tables_are_the_same_over_releases(case: dict[str, Any]) -> None:
    table: Table | None = None
    for epoch, step in enumerate(case["steps"], 1):
        present = [member(node, weight=weight) for node, weight in step["members"].items()]
        table = assign(present, table, 7, epoch, case["partitions"])
        assert list(table.owners["Cart"]) == step["owners"]
        assert [fence.epoch for fence in table.fences["Cart"]] == step["epochs"]


@given(st.lists(member_sets, max_size=6), st.integers(1, 40), st.randoms())
@settings(deadline=None)
def test_a_history_of_members_keeps_balance_and_fences(
    history: list[list[Member]], partitions: int, order: random.Random
) -> None:
    table: Table | None = None
    for epoch, present in enumerate(history, 1):
        old, table = table, assign(present, table, 5, epoch, partitions)
        check_balance(table)
        shuffled = order.sample(present, len(present))
        assert assign(shuffled, old, 5, epoch, partitions) == table
        assert decode(encode(table)) == table
        hosted = {actor_type for each in present if each.weight > 0 for actor_type in each.actor_types}
        assert set(table.owners) == hosted == set(table.fences)
        for actor_type in hosted:
            for partition in range(partitions):
                held = (actor_type, partition)
                stays = old is not None and old.owner(*held) == table.owner(*held)
                expected = old.assigned(*held) if stays and old is not None else Fence(5, epoch)
                assert table.assigned(*held) == expected


@given(st.integers(1, 30), st.integers(1, 200))
@settings(deadline=None)
def test_one_more_takes_only_its_share_and_one_less_gives_only_its_own(count: int, partitions: int) -> None:
    few = assign(members(count), None, 1, 1, partitions)
    more = assign(members(count + 1), few, 1, 2, partitions)
    assert {more.owner(*held) for held in moved(few, more)} <= {f"n{count}"}
    assert len(moved(few, more)) <= -(-partitions // (count + 1))
    less = assign(members(count), more, 1, 3, partitions)
    assert {more.owner(*held) for held in moved(more, less)} <= {f"n{count}"}


@given(member_sets, member_sets, st.integers(1, 60))
@settings(deadline=None)
def test_no_table_within_the_shares_moves_less(
    before: list[Member], after: list[Member], partitions: int
) -> None:
    """What moves from a node that stays is what it has above its share, or what others lack below theirs."""
    old = assign(before, None, 1, 1, partitions)
    new = assign(after, old, 1, 2, partitions)
    for actor_type, row in new.owners.items():
        was = old.owners.get(actor_type, (None,) * partitions)
        weights = {
            each.node: each.weight for each in after if actor_type in each.actor_types and each.weight > 0
        }
        total = sum(weights.values())
        loads = Counter(node for node in was if node in weights)
        above = sum(max(0, loads[node] - -(-partitions * weights[node] // total)) for node in weights)
        below = sum(max(0, partitions * weights[node] // total - loads[node]) for node in weights)
        orphans = sum(node not in weights for node in was)
        moves = sum(is_now != node for is_now, node in zip(row, was, strict=True))
        assert moves == max(orphans + above, below)


def test_a_thousand_nodes() -> None:
    partitions = 16_384
    many = assign(members(1000), None, 1, 1, partitions)
    check_balance(many)
    more = assign(members(1001), many, 1, 2, partitions)
    check_balance(more)
    assert 0 < len(moved(many, more)) <= 1.2 * partitions / 1001
    less = assign([each for each in members(1001) if each.node != "n500"], more, 1, 3, partitions)
    check_balance(less)
    assert {more.owner(*held) for held in moved(more, less)} == {"n500"}
    data = encode(less)
    assert decode(data) == less
    assert len(data) < 200_000, "it is compressed"
    for damaged in (data[:-1], data + b"x", data[:1000] + b"\0" + data[1001:]):
        with pytest.raises(CorruptState):
            decode(damaged)


def test_looking_at_the_highest_scores_only_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)

    def history(limit: int) -> list[tuple[str, ...]]:
        monkeypatch.setattr(quota, "_MANY", limit)
        rng.seed(5)
        table: Table | None = None
        rows = []
        for epoch in range(1, 40):
            present = [
                member(f"n{number}", weight=rng.randint(1, 4))
                for number in rng.sample(range(80), rng.choice([1, 2, 7, 30, 70]))
            ]
            table = assign(present, table, 1, epoch, 257)
            rows.append(table.owners["Cart"])
        return rows

    assert history(0) == history(10**9)


def test_another_weight_moves_no_more_than_it_must() -> None:
    """What one node gets, or gives, is all that moves."""
    before = [member(f"n{number}", weight=10) for number in range(9)]
    table = assign(before, None, 1, 1, 900)
    heavy = assign([*before[:8], member("n8", weight=20)], table, 1, 2, 900)
    check_balance(heavy)
    assert {heavy.owner(*held) for held in moved(table, heavy)} == {"n8"}
    assert len(moved(table, heavy)) == 180 - 100
    light = assign([*before[:8], member("n8", weight=5)], table, 1, 2, 900)
    check_balance(light)
    assert {table.owner(*held) for held in moved(table, light)} == {"n8"}
    assert len(moved(table, light)) == 100 - Counter(light.owners["Cart"])["n8"]
    assert assign(before, heavy, 1, 3, 900).owners["Cart"].count("n8") == 100
    same = assign([member(f"n{number}", weight=20) for number in range(9)], table, 1, 2, 900)
    assert moved(table, same) == [], "it is the relation that counts"


def test_namespaces_do_not_mix() -> None:
    """The types of other namespaces than `default` carry their namespace."""
    here = [member(f"a{number}", "Cart", "dapr.internal.default.shop.workflow") for number in range(2)]
    blue = [
        Member(f"b{number}", "", "shop", "blue", ("blue/Cart", "dapr.internal.blue.shop.workflow"))
        for number in range(3)
    ]
    table = assign([*here, *blue], None, 1, 1, 32)
    for actor_type, owners in table.owners.items():
        assert set(owners) == {each.node for each in (blue if "blue" in actor_type else here)}
    gone = assign(here, table, 1, 2, 32)
    assert {move.held.type for move in diff(table, gone)} == {"blue/Cart", "dapr.internal.blue.shop.workflow"}


def test_what_moves_to_the_survivors_goes_to_those_that_rank_highest() -> None:
    """A node's partitions spread over all others, not over one."""
    table = assign(members(10), None, 1, 1, 1024)
    less = assign(members(9), table, 1, 2, 1024)
    loads = Counter(less.owner(*held) for held in moved(table, less))
    assert len(loads) == 9
    assert max(loads.values()) <= 13


def test_a_new_incarnation_takes_over_under_a_new_epoch() -> None:
    old = assign([member("a-1"), member("b-1")], None, 1, 1, 16)
    new = assign([member("a-2"), member("b-1")], old, 1, 2, 16)
    for move in diff(old, new):
        assert (move.before, move.after, move.fence) == ("a-1", "a-2", Fence(1, 2))
    assert len(diff(old, new)) == 8


def test_renewed_partitions_stay_with_their_owner_under_a_new_fence() -> None:
    old = assign(members(3), None, 1, 1, 16)
    new = assign(members(3), old, 1, 2, 16, renew=[TypePartition("Cart", 3)])
    assert new.owners == old.owners
    assert [(move.held, move.before == move.after, move.fence) for move in diff(old, new)] == [
        (("Cart", 3), True, Fence(1, 2))
    ]


def test_a_partition_that_went_and_came_back_shows_as_a_move() -> None:
    first = assign([member("a")], None, 1, 1, 4)
    second = assign([member("b")], first, 1, 2, 4)
    third = assign([member("a")], second, 1, 3, 4)
    assert [(move.before, move.after) for move in diff(first, third)] == [("a", "a")] * 4


def test_the_new_owner_asks_the_owner_of_just_before_if_that_is_still_there() -> None:
    a, b, c = member("a"), member("b", weight=0), member("c", weight=0)
    first = assign([a, b, c], None, 1, 1, 1)
    assert first.former("Cart", 0) is None
    b, a = member("b"), member("a", weight=0)
    second = assign([a, b, c], first, 1, 2, 1)
    assert (second.owner("Cart", 0), second.former("Cart", 0)) == ("b", "a")
    unmoved = assign([a, b, c, member("d", weight=0)], second, 1, 3, 1)
    assert (unmoved.former("Cart", 0), unmoved.assigned("Cart", 0)) == ("a", Fence(1, 2))
    third = assign([a, member("c")], unmoved, 1, 4, 1)
    assert (third.owner("Cart", 0), third.former("Cart", 0)) == ("c", None)
    assert assign([b, c], second, 1, 3, 1).former("Cart", 0) is None, "a is gone"
    assert assign([a, b], second, 1, 3, 1, renew=[TypePartition("Cart", 0)]).former("Cart", 0) is None
    assert second.former("Other", 0) is None


def test_a_type_that_nobody_hosts_has_no_owner() -> None:
    table = assign([member("a", "Cart")], None, 1, 1, 4)
    gone = assign([member("a", "Other")], table, 1, 2, 4)
    assert gone.owner("Cart", 0) is None
    assert gone.assigned("Cart", 0) is None
    assert {move.after for move in diff(table, gone) if move.held.type == "Cart"} == {None}


def test_a_node_of_weight_zero_gets_nothing() -> None:
    table = assign([member("a"), member("b", weight=0)], None, 1, 1, 8)
    assert set(table.owners["Cart"]) == {"a"}
    assert "b" in table.members


def test_held_lists_what_a_node_owns() -> None:
    table = assign(members(2), None, 1, 1, 8)
    held = table.held("n0")
    assert len(held) == 4
    assert all(table.owner(*key) == "n0" and fence == Fence(1, 1) for key, fence in held.items())


@pytest.mark.parametrize("data", [b"", b"x", b"\xc1", msgspec.msgpack.encode(["table-1", 1, 1])])
def test_bytes_that_are_no_table(data: bytes) -> None:
    with pytest.raises(CorruptState):
        decode(data)


def test_a_damaged_row_is_told() -> None:
    data = encode(assign([member("a"), member("b")], None, 1, 1, 4))
    raw = msgspec.msgpack.decode(data)
    for row in ([0, 1, 0], [0, 1, 0, 2], [0, 1, 0, -1]):
        damaged = msgspec.msgpack.encode([*raw[:7], {"Cart": row}, *raw[8:]])
        with pytest.raises(CorruptState):
            decode(damaged)
