"""The view of a cluster: from a table and what its nodes say."""

from __future__ import annotations

import msgspec

from perdure.cluster_view import Handover, NodeFigures, handovers, heard, view
from perdure.placement.member import Member
from perdure.placement.table import Table, assign
from perdure.statestore.contract import Fence

LEADER = "10.0.0.1:50002"


def member(node: str, *types: str, address: str = "", weight: int = 1) -> Member:
    return Member(
        node, address, "shop", "default", types, ("order",), ("pay",), weight, f"http://{node}:3500"
    )


def three() -> Table:
    members = [member("a", "Cart", address=LEADER), member("b", "Cart", "Order", weight=3), member("c")]
    return assign(members, None, 7, 2, 16, leader=LEADER)


def figures(node: str, now: int = 0, **more: object) -> NodeFigures:
    return msgspec.structs.replace(NodeFigures(node, now, 0), **more)


def test_nodes_as_the_table_has_them() -> None:
    found = view(three(), "b")
    assert (found.term, found.epoch, found.leader, found.partitions) == (7, 2, LEADER, 16)
    assert [(one.node, one.this, one.leads) for one in found.nodes] == [
        ("a", False, True),
        ("b", True, False),
        ("c", False, False),
    ]
    assert [one.partitions for one in found.nodes] == [{"Cart": 4}, {"Cart": 12, "Order": 16}, {}]
    assert found.nodes[1].http == "http://b:3500"
    assert all(one.heard is None for one in found.nodes)
    assert [(one.name, one.partitions, one.nodes, one.activations) for one in found.types] == [
        ("Cart", 16, 2, 0),
        ("Order", 16, 1, 0),
    ]


def test_what_nodes_say_is_added_up() -> None:
    change = Handover("Cart", 3, "b", "a")
    answers = {
        "a": heard(figures("a", activations={"Cart": 2}), 0, 0),
        "b": heard(figures("b", activations={"Cart": 5, "Order": 1}, handovers=[change], leads=True), 0, 0),
    }
    found = view(three(), "a", answers)
    assert [one.activations for one in found.types] == [7, 1]
    assert found.handovers == (change,)
    assert found.nodes[2].heard is None
    assert found.nodes[1].leads


def test_an_answer_of_a_node_that_is_gone_changes_no_node() -> None:
    found = view(three(), "a", {"z": heard(figures("z", handovers=[Handover("Cart", 1, "z")]), 0, 0)})
    assert [one.node for one in found.nodes] == ["a", "b", "c"]
    assert found.handovers == ()


def test_an_empty_table() -> None:
    found = view(assign([], None, 1, 1, 16))
    assert (found.nodes, found.types, found.handovers) == ((), (), ())


def test_clock_difference() -> None:
    """Half the round trip after the question, the other node's clock was at `now`."""
    answer = heard(figures("b", now=1_000_500), 1_000_000, 1_000_200)
    assert (answer.clock_difference, answer.round_trip) == (400, 200)
    behind = heard(figures("b", now=999_000), 1_000_000, 1_000_200)
    assert behind.clock_difference == -1100
    # The asking clock was set back meanwhile.
    assert heard(figures("b", now=0), 100, 50).round_trip == 0


def test_what_changes_hands() -> None:
    alone = assign([member("a", "Cart")], None, 1, 1, 16)
    both = assign([member("a", "Cart"), member("b", "Cart")], alone, 1, 2, 16)
    assert handovers(both, "b", {}) == [Handover("Cart", 8, "b", "a")]
    # A partition served under an older fence is not taken yet; one under the table's is.
    held = both.held("b")
    first, *_ = held
    assert handovers(both, "b", {**held, first: Fence(1, 1)}) == [Handover("Cart", 1, "b", "a")]
    assert handovers(both, "b", held) == []
    # Whom nobody has, nobody gives back.
    assert handovers(alone, "a", {}) == [Handover("Cart", 16, "a", None)]


def test_figures_cross_the_wire() -> None:
    sent = figures("a", 5, activations={"Cart": 1}, handovers=[Handover("Cart", 1, "a", None)], release="1")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=NodeFigures) == sent
    # An older release says less, a newer one more.
    assert msgspec.msgpack.decode(
        msgspec.msgpack.encode({"node": "a", "now": 1, "started": 2, "more": 3}), type=NodeFigures
    ) == NodeFigures("a", 1, 2)
