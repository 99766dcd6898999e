"""Shares of those of whom nothing is heard: silent nodes, and all nodes for a new leader."""

from __future__ import annotations

from perdure.placement.shares import Holder, Shares
from tests.placement.limits_use import OPTIONS, Cluster, Leader, Node, member, table_of


def test_a_silent_node_keeps_its_share_until_its_grace_is_over() -> None:
    a, b = nodes = [Node(member(name, 4)) for name in "ab"]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    assert cluster.amounts() == [2, 2]
    cluster.nodes = [b]
    b.queue = 1000
    silent = cluster.now
    cluster.leader.remove("a", silent + 1)
    cluster.go(OPTIONS.share + OPTIONS.share_grace - 0.5)
    assert b.amount(cluster.now) == 2
    assert cluster.leader.table is not None
    assert cluster.leader.table.loose
    cluster.go(1.0)
    assert b.amount(cluster.now) == 4
    assert not cluster.leader.table.loose
    # It itself stopped long before.
    assert a.holder.until <= silent + OPTIONS.share
    assert a.amount(silent + OPTIONS.share) == 0


def test_a_node_that_leaves_in_good_order_gives_its_share_back_at_once() -> None:
    _a, b = nodes = [Node(member(name, 4)) for name in "ab"]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    cluster.nodes = [b]
    cluster.leader.limits.left("a", {}, cluster.now)
    cluster.leader.remove("a", cluster.now)
    cluster.go(1.0)
    assert b.amount(cluster.now) == 4


def test_what_a_leaving_node_could_not_end_counts_for_the_time_of_grace() -> None:
    _a, b = nodes = [Node(member(name, 4)) for name in "ab"]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    cluster.nodes = [b]
    cluster.leader.limits.left("a", {"mail": 1}, cluster.now)
    cluster.leader.remove("a", cluster.now)
    cluster.go(1.0)
    assert b.amount(cluster.now) == 3
    cluster.go(OPTIONS.share_grace)
    assert b.amount(cluster.now) == 4


def test_a_process_at_the_address_of_another_shows_that_the_other_is_gone() -> None:
    a, b = Node(member("a", 2, address="host:1")), Node(member("b", 2, address="host:2"))
    cluster = Cluster([a, b])
    cluster.go(1.0)
    cluster.leader.remove("a", cluster.now)
    again = Node(member("a2", 2, address="host:1"))
    cluster.nodes = [again, b]
    cluster.leader.join(again, cluster.now)
    cluster.go(1.0)
    assert cluster.amounts() == [1, 1]


def test_a_node_that_stood_still_gets_a_new_share_not_its_old_one() -> None:
    (a,) = nodes = [Node(member("a", 4))]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    cluster.now += 0.1
    at, held, usage = a.beat(cluster.now)
    cluster.now += OPTIONS.share + 0.5
    late = cluster.leader.limits.heard("a", at, held, usage, cluster.now)
    assert late is not None
    a.holder.given(late, at, cluster.now)
    assert a.amount(cluster.now) == 0
    cluster.go(1.0)
    assert a.amount(cluster.now) == 4


def test_a_new_leader_that_hears_of_every_share_holds_nothing_back() -> None:
    a, _b = nodes = [Node(member(name, 4)) for name in "ab"]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    cluster.leader = Leader(2, cluster.leader.table, cluster.now)
    a.queue = 1000
    cluster.go(1.5)
    assert cluster.amounts() == [4, 0]


def test_a_new_leader_holds_back_what_it_has_not_heard_of() -> None:
    _a, b = nodes = [Node(member(name, 4)) for name in "ab"]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    began = cluster.now
    cluster.leader = Leader(2, cluster.leader.table, began)
    cluster.nodes = [b]
    b.queue = 1000
    cluster.go(1.0)
    cluster.leader.remove("a", cluster.now)
    held_back = OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace
    while cluster.now < began + held_back - 0.2:
        assert b.amount(cluster.now) == 2
        cluster.go(0.5)
        assert cluster.leader.table is not None
    cluster.go(1.0)
    assert b.amount(cluster.now) == 4
    assert not cluster.leader.table.loose


def test_the_leader_after_the_next_knows_that_shares_are_about() -> None:
    _a, b = nodes = [Node(member(name, 4)) for name in "ab"]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    cluster.nodes = [b]
    b.queue = 1000
    cluster.leader.remove("a", cluster.now)
    cluster.leader = Leader(2, cluster.leader.table, cluster.now)
    cluster.go(0.5)
    cluster.leader = Leader(3, cluster.leader.table, cluster.now)
    cluster.go(OPTIONS.share + OPTIONS.share_grace - 1.0)
    assert b.amount(cluster.now) == 2
    cluster.go(OPTIONS.confirm_within + 2.0)
    assert b.amount(cluster.now) == 4


def test_after_a_stop_in_good_order_a_new_leader_begins_at_once() -> None:
    a = Node(member("a", 4))
    cluster = Cluster([a], previous=table_of([]), settled=False)
    cluster.go(0.5)
    assert a.amount(cluster.now) == 4


def test_a_stored_table_that_cannot_be_read_may_have_had_any_member() -> None:
    a = Node(member("a", 4))
    cluster = Cluster([a], previous=None, settled=False)
    cluster.go(OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace - 0.3)
    assert a.amount(cluster.now) == 0
    cluster.go(1.0)
    assert a.amount(cluster.now) == 4


def test_an_offer_of_a_new_leader_is_no_more_than_what_the_node_has() -> None:
    holder = Holder(member("a"), 5.0)
    holder.given(Shares(1, 1, {"mail": 0}), 0.0, 0.0)
    holder.given(Shares(1, 2, {"mail": 2}), 1.0, 1.0)
    assert not holder.given(Shares(2, 1, {"mail": 4}), 1.5, 1.5)
    assert holder.amount("mail", 1.5) == 2
    # What the last leader says now is not heard.
    assert not holder.given(Shares(1, 3, {"mail": 9}), 1.6, 1.6)
    assert holder.given(Shares(2, 2, {"mail": 4}), 1.7, 1.7)
    assert holder.amount("mail", 1.7) == 4
    # Nor is what comes out of order.
    assert not holder.given(Shares(2, 1, {"mail": 9}), 1.8, 1.8)
    assert not holder.given(Shares(2, 9, None), 1.8, 1.8)
    assert holder.amount("mail", 1.8) == 4
