"""What the cluster may run at a time, shared out among its nodes."""

from __future__ import annotations

import pytest

from perdure.placement.limits import fair
from perdure.placement.shares import Holder, serving
from tests.placement.limits_use import Cluster, Node, member, table_of


@pytest.mark.parametrize(
    ("total", "wanted", "expected"),
    [
        (10, {"a": 0, "b": 0}, {"a": 5, "b": 5}),
        (10, {"a": 8, "b": 1}, {"a": 9, "b": 1}),
        (10, {"a": 100, "b": 1}, {"a": 9, "b": 1}),
        (10, {"a": 100, "b": 100}, {"a": 5, "b": 5}),
        (7, {"a": 100, "b": 100}, {"a": 4, "b": 3}),
        (1, {"a": 9, "b": 9}, {"a": 1, "b": 0}),
        (0, {"a": 9, "b": 0}, {"a": 0, "b": 0}),
    ],
)
def test_nobody_has_less_than_another_unless_it_wants_less(
    total: int, wanted: dict[str, int], expected: dict[str, int]
) -> None:
    found = fair(total, wanted, ["a", "b"], ["a", "b"])
    # What is left over goes to both, and the odd one to the first.
    assert found == expected
    assert sum(found.values()) == total


def test_all_of_the_limit_is_always_with_somebody() -> None:
    cluster = Cluster([Node(member(name, 7)) for name in "abc"])
    cluster.go(2.0)
    assert sorted(cluster.amounts()) == [2, 2, 3]


def test_shares_follow_what_is_wanted_within_about_a_second() -> None:
    a, b = nodes = [Node(member(name, 8)) for name in "ab"]
    cluster = Cluster(nodes)
    cluster.go(1.0)
    a.queue = 1000
    cluster.go(1.2)
    assert cluster.amounts() == [8, 0] or cluster.amounts() == [7, 1]
    a.queue, b.queue = 0, 1000
    cluster.go(1.2)
    assert b.amount(cluster.now) >= 7
    a.queue = 1000
    cluster.go(1.2)
    assert cluster.amounts() == [4, 4]


def test_a_single_slot_goes_round_and_nobody_starves() -> None:
    nodes = [Node(member(name, 1)) for name in "abc"]
    cluster = Cluster(nodes)
    for node in nodes:
        node.queue = 1000
    cluster.go(20.0)
    done = [1000 - node.queue for node in nodes]
    assert min(done) > max(done) / 4, done


def test_where_nodes_differ_the_lower_limit_counts_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [Node(member("a", 9)), Node(member("b", 3)), Node(member("c", None))]
    cluster = Cluster(nodes)
    for node in nodes:
        cluster.leader.join(node, 0.0)
        node.queue = 100
    cluster.go(2.0)
    assert sum(cluster.amounts()) == 3
    assert [node.holder.limits for node in nodes] == [{"mail": 3}] * 3
    assert [record.message for record in caplog.records] == ["limits differ"]


def test_a_limit_that_is_lowered_takes_shares_back() -> None:
    a, b = nodes = [Node(member(name, 8)) for name in "ab"]
    cluster = Cluster(nodes)
    a.queue = b.queue = 1000
    cluster.go(2.0)
    a.me = member("a", 3)
    a.holder.announced(a.me)
    for node in nodes:
        cluster.leader.join(node, cluster.now)
    cluster.go(2.0)
    assert sum(cluster.amounts()) == 3
    assert len(a.runs) + len(b.runs) <= 3


def test_of_more_hosts_than_may_run_only_so_many_are_given_work() -> None:
    hosts = [f"n{number}" for number in range(20)]
    chosen = serving(hosts, "mail", 3)
    assert len(set(chosen)) == 3
    # Who goes leaves the others where they are.
    assert [each for each in serving(hosts[1:], "mail", 3) if each in chosen] == [
        c for c in chosen if c != "n0"
    ]
    assert serving(hosts, "other", 3) != chosen


def test_a_node_alone_in_its_process_has_all_of_it() -> None:
    me = member("a", 4)
    holder = Holder(me, 5.0, resident=True)
    assert holder.amount("mail", 0.0) == 0
    holder.applied(table_of([me]))
    assert holder.amount("mail", 1e9) == 4


@pytest.mark.parametrize("most", [1, 2, 5])
def test_nodes_of_one_process_divide_it_by_the_table(most: int) -> None:
    members = [member(name, most) for name in "abc"]
    holders = [Holder(each, 5.0, resident=True) for each in members]
    for holder in holders:
        holder.applied(table_of(members))
    assert sum(holder.amount("mail", 0.0) for holder in holders) == most
