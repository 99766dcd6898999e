"""Shares of limited activities: whatever happens to nodes, links and leaders, no more run than may."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.placement.limits import Limits, fair
from perdure.placement.member import Limit, Member
from perdure.placement.messages import Heartbeat, Pulse, decode, encode
from perdure.placement.options import PlacementOptions
from perdure.placement.service import Action, PlacementService, Publish, Send, StoreTable
from perdure.placement.shares import Holder, Shares, Usage, serving
from perdure.placement.table import Table, assign
from perdure.statestore.contract import Fence

OPTIONS = PlacementOptions(share=2.0, share_grace=3.0)
BEAT = 0.15


def member(
    node: str, most: int | None = 4, *, address: str = "", activities: Sequence[str] = ("mail",)
) -> Member:
    limits = () if most is None else (Limit("mail", most),)
    return Member(node, address, "shop", "default", ("w",), (), tuple(activities), limits=limits)


def table_of(members: Sequence[Member], *, term: int = 1, loose: bool = False) -> Table:
    return assign(members, None, term, 1, 4, loose=loose)


class Node:
    """A node that runs what it may, and says so."""

    def __init__(self, me: Member, now: float = 0.0) -> None:
        self.me = me
        self.holder = Holder(me, OPTIONS.share)
        #: When each of what runs began.
        self.runs: list[float] = []
        self.queue = 0
        self.dead = False
        #: Nothing that it says arrives anywhere.
        self.cut = False
        #: Which leader it talks to; messages of an earlier link are not heard.
        self.line = 0
        self.leader: Leader | None = None

    @property
    def id(self) -> str:
        return self.me.node

    def counts(self) -> dict[str, tuple[int, int]]:
        return {"mail": (len(self.runs), self.queue)}

    def amount(self, now: float) -> int:
        return self.holder.amount("mail", now)

    def begin(self, now: float) -> bool:
        if self.dead or not self.queue or len(self.runs) >= self.amount(now):
            return False
        self.queue -= 1
        self.runs.append(now)
        return True

    def beat(self, now: float) -> tuple[float, Fence, dict[str, Usage]]:
        # What has ended is forgotten by the report, which is why that comes first.
        usage = self.holder.report(self.counts(), now)
        return now, self.holder.name, usage


class Leader:
    """The part of `PlacementService` that limits need: members, and tables that the store has."""

    def __init__(self, term: int, previous: Table | None, now: float, *, settled: bool = False) -> None:
        self.term = term
        self.limits = Limits(term, previous, now, settled=settled, options=OPTIONS)
        self.members = dict(previous.members) if previous is not None else {}
        self.ended = float("inf")
        self.table: Table | None = None
        self.store(now)

    def store(self, now: float) -> None:
        loose = self.limits.loose(self.members, now)
        self.table = table_of(list(self.members.values()), term=self.term, loose=loose)
        self.limits.changed(self.members, (), now)

    def join(self, node: Node, now: float) -> None:
        if self.members.get(node.id) != node.me:
            self.limits.succeeded(node.me, self.members)
            self.members[node.id] = node.me
            self.store(now)
        assert self.table is not None
        node.holder.applied(self.table)

    def remove(self, node: str, now: float) -> None:
        if self.members.pop(node, None) is not None:
            self.store(now)

    def tick(self, now: float) -> None:
        self.limits.tick(now)
        assert self.table is not None
        if self.limits.loose(self.members, now) != self.table.loose:
            self.store(now)


class Cluster:
    """Everything in order: heartbeats arrive at once, runs take a while."""

    def __init__(self, nodes: Sequence[Node], *, previous: Table | None = None, settled: bool = True) -> None:
        self.now = 0.0
        self.nodes = list(nodes)
        self.leader = Leader(1, previous, self.now, settled=settled)
        for node in nodes:
            self.leader.join(node, self.now)

    def go(self, seconds: float, *, length: float = 0.2) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += BEAT
            self.leader.tick(self.now)
            for node in self.nodes:
                node.runs = [run for run in node.runs if self.now - run < length]
                while node.begin(self.now):
                    pass
                self.beat(node)

    def beat(self, node: Node) -> None:
        if node.id not in self.leader.members:
            return
        at, held, usage = node.beat(self.now)
        shares = self.leader.limits.heard(node.id, at, held, usage, self.now)
        if shares is not None:
            node.holder.given(shares, at, self.now)

    def amounts(self) -> list[int]:
        return [node.amount(self.now) for node in self.nodes]


# --- sharing out -------------------------------------------------------------------------------------------------------


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


# --- silence -----------------------------------------------------------------------------------------------------------


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


# --- leaders -----------------------------------------------------------------------------------------------------------


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


# --- one process -------------------------------------------------------------------------------------------------------


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


# --- everything at once ------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Nodes that are killed, cut off and taken for dead, messages that are lost, late and out of order, leaders that
    do not know yet that another leads. What runs takes less than the time of grace."""

    @initialize(most=st.integers(1, 5), count=st.integers(1, 4), seed=st.integers(0, 2**32))
    def begin(self, most: int, count: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.most = most
        self.names = 0
        self.nodes: list[Node] = []
        self.leaders = [Leader(1, None, self.now, settled=True)]
        #: To be delivered: a callback, and by whose link.
        self.flying: list[tuple[Node, int, object]] = []
        for number in range(count):
            self.start_node(f"host{number}:1")
        self.settle(1.0)

    # --- helpers ---

    @property
    def leader(self) -> Leader:
        return self.leaders[-1]

    def start_node(self, address: str) -> None:
        self.names += 1
        node = Node(member(f"n{self.names}", self.most, address=address))
        node.queue = 3
        self.nodes.append(node)
        self.connect(node, self.leader)

    def connect(self, node: Node, leader: Leader) -> None:
        node.line += 1
        node.leader = leader
        if leader is self.leader:
            leader.join(node, self.now)

    def alive(self) -> list[Node]:
        return [node for node in self.nodes if not node.dead]

    def send_beat(self, node: Node) -> None:
        if node.cut:
            return
        at, held, usage = node.beat(self.now)
        leader, line = node.leader, node.line
        assert leader is not None

        def arrive() -> None:
            if self.now >= leader.ended or node.id not in leader.members:
                return
            shares = leader.limits.heard(node.id, at, held, usage, self.now)
            if shares is not None:
                self.flying.append((node, line, lambda: node.holder.given(shares, at, self.now)))

        self.flying.append((node, 0, arrive))

    def deliver(self, index: int) -> None:
        node, line, arrive = self.flying.pop(index)
        if not node.dead and (not line or line == node.line):
            arrive()  # type: ignore[operator]

    def step(self, seconds: float) -> None:
        self.now += seconds
        for node in self.nodes:
            # As the time of grace is for: it is longer than anything takes.
            node.runs = [run for run in node.runs if self.now - run < OPTIONS.share_grace]
        for leader in self.leaders:
            if self.now < leader.ended:
                leader.tick(self.now)

    def settle(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.step(BEAT)
            for node in self.alive():
                self.send_beat(node)
                if self.rng.random() < 0.3:
                    node.begin(self.now)
            while self.flying:
                self.deliver(0)
            self.check()

    # --- rules ---

    @rule(seconds=st.sampled_from([0.01, 0.15, 0.5, 1.0, 2.0, 3.5]))
    def time_passes(self, seconds: float) -> None:
        self.step(seconds)

    @rule(data=st.data())
    def begin_one(self, data: st.DataObject) -> None:
        for node in self.alive():
            if self.rng.random() < 0.7:
                node.queue += 1
                while node.begin(self.now) and self.rng.random() < 0.7:
                    pass

    @rule()
    def end_some(self) -> None:
        for node in self.alive():
            node.runs = [run for run in node.runs if self.rng.random() < 0.5]

    @rule()
    def idle(self) -> None:
        for node in self.alive():
            if self.rng.random() < 0.4:
                node.queue = 0

    @rule()
    def beat(self) -> None:
        for node in self.alive():
            if self.rng.random() < 0.8:
                self.send_beat(node)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def quiet(self, seconds: float) -> None:
        """Everything goes well for a while, but for those that talk to a former leader."""
        self.settle(seconds)

    @precondition(lambda self: self.flying)
    @rule(count=st.integers(1, 6))
    def arrive(self, count: int) -> None:
        for _ in range(count):
            if self.flying:
                self.deliver(self.rng.randrange(len(self.flying)))

    @precondition(lambda self: self.flying)
    @rule()
    def lose(self) -> None:
        self.flying = [each for each in self.flying if self.rng.random() < 0.6]

    @precondition(lambda self: self.alive())
    @rule()
    def kill(self) -> None:
        node = self.rng.choice(self.alive())
        node.dead = True
        node.runs = []

    @precondition(lambda self: len(self.alive()) < 5)
    @rule(same=st.booleans())
    def another(self, same: bool) -> None:
        # A process that is there, if only with its threads, has its port.
        held = {n.me.address for n in self.nodes if not n.dead or n.runs}
        free = [n.me.address for n in self.nodes if n.dead and n.me.address not in held]
        address = self.rng.choice(free) if same and free else f"host{self.names + 100}:1"
        self.start_node(address)

    @precondition(lambda self: self.leader.members)
    @rule()
    def taken_for_dead(self) -> None:
        self.leader.remove(self.rng.choice(sorted(self.leader.members)), self.now)

    @precondition(lambda self: self.alive())
    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0]))
    def cut_off(self, seconds: float) -> None:
        """One hears nothing for a while, and begins what it may when the others have gone on without it."""
        node = self.rng.choice(self.alive())
        node.cut = True
        node.queue += 3
        self.settle(seconds)
        while node.begin(self.now):
            pass

    @rule()
    def mend(self) -> None:
        for node in self.alive():
            node.cut = False

    @precondition(lambda self: self.alive())
    @rule()
    def leaves(self) -> None:
        node = self.rng.choice(self.alive())
        node.dead = True
        left = len(node.runs)
        if node.leader is self.leader and not node.cut:
            self.leader.limits.left(node.id, {"mail": left} if left else {}, self.now)
            self.leader.remove(node.id, self.now)
        if left:
            # Its threads go on.
            ghost = Node(member(f"{node.id}-threads", self.most, address=node.me.address))
            ghost.runs, ghost.dead = node.runs, True
            node.runs = []
            self.nodes.append(ghost)

    @precondition(lambda self: self.alive())
    @rule(newest=st.booleans())
    def connect_again(self, newest: bool) -> None:
        node = self.rng.choice(self.alive())
        leading = [leader for leader in self.leaders if self.now < leader.ended]
        self.connect(node, self.leader if newest else self.rng.choice(leading))

    @precondition(lambda self: len(self.leaders) < 6)
    @rule(overlap=st.booleans())
    def another_leads(self, overlap: bool) -> None:
        former = self.leader
        former.ended = self.now + (OPTIONS.confirm_within if overlap else 0.0)
        self.leaders.append(Leader(former.term + 1, former.table, self.now))

    @rule()
    def all_come_over(self) -> None:
        for node in self.alive():
            if node.leader is not self.leader or node.id not in self.leader.members:
                self.connect(node, self.leader)

    # --- what must be true ---

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "nodes"):
            return
        running = {node.id: len(node.runs) for node in self.nodes if node.runs}
        assert sum(running.values()) <= self.most, running

    def teardown(self) -> None:
        """When all is well again, everybody gets what it wants."""
        if not hasattr(self, "nodes"):
            return
        for leader in self.leaders[:-1]:
            leader.ended = self.now
        if not self.alive():
            self.start_node("last:1")
        for node in self.nodes:
            if node.dead and node.id in self.leader.members:
                self.leader.remove(node.id, self.now)
        for node in self.alive():
            node.cut = False
            node.queue += 3
            self.connect(node, self.leader)
        queued = sum(node.queue for node in self.alive())
        until = self.now + OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace + 5.0 + queued
        while self.now < until and any(node.queue for node in self.alive()):
            self.settle(BEAT)
            for node in self.alive():
                node.runs = [run for run in node.runs if self.now - run < 0.2]
                while node.begin(self.now):
                    pass
            self.check()
        assert not [node.queue for node in self.alive() if node.queue], "somebody starves"
        self.settle(OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace + 1.0)
        assert sum(node.amount(self.now) for node in self.alive()) == self.most
        assert self.leader.table is not None
        assert not self.leader.table.loose


Machine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMachine = Machine.TestCase


# --- the service ---------------------------------------------------------------------------------------------------------


class Service:
    """A service whose store accepts everything at once, and its nodes' ends."""

    def __init__(self, previous: Table | None = None, *, term: int = 1, unread: bool = False) -> None:
        self.term = term
        self.now = 0.0
        self.service = PlacementService(term, 4, previous, self.now, unread=unread, options=OPTIONS)
        self.tables: list[Table] = []
        self.holders: dict[str, Holder] = {}
        self.running: dict[str, int] = {}
        self.run(self.service.start())

    def run(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StoreTable):
                self.run(self.service.stored(action.table, self.now))
            elif isinstance(action, Publish):
                self.tables.append(action.table)
                for holder in self.holders.values():
                    holder.applied(action.table)
            elif isinstance(action, Send) and isinstance(action.message, Pulse):
                # As over a network.
                pulse = decode(encode(action.message))
                assert isinstance(pulse, Pulse)
                if pulse.shares is not None:
                    self.holders[action.node].given(pulse.shares, pulse.at, self.now)

    def join(self, me: Member) -> None:
        self.holders[me.node] = Holder(me, OPTIONS.share)
        self.run(self.service.join(me, self.now))

    def go(self, seconds: float, *nodes: str) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += BEAT
            self.run(self.service.tick(self.now))
            for node in nodes:
                holder = self.holders[node]
                usage = holder.report({"mail": (self.running.get(node, 0), 0)}, self.now)
                beat = decode(encode(Heartbeat(node, self.now, Fence(0, 0), holder.name, usage)))
                assert isinstance(beat, Heartbeat)
                self.run(
                    self.service.heard(
                        node, beat.at, beat.applied, self.now, shares=beat.shares, usage=beat.usage
                    )
                )

    def amounts(self) -> dict[str, int]:
        return {node: holder.amount("mail", self.now) for node, holder in self.holders.items()}


def test_shares_go_with_the_pulse_and_a_dead_nodes_share_with_the_table() -> None:
    service = Service()
    for name in "ab":
        service.join(member(name, 4, address=f"{name}:1"))
    service.go(1.5, "a", "b")
    assert service.amounts() == {"a": 2, "b": 2}
    service.go(OPTIONS.silence + 1.0, "b")
    assert list(service.tables[-1].members) == ["b"]
    assert service.tables[-1].loose
    service.go(OPTIONS.share + OPTIONS.share_grace, "b")
    assert service.amounts() == {"a": 0, "b": 4}
    # One table more, which moves nothing, tells the next leader that there is nothing to wait for.
    assert not service.tables[-1].loose
    count = len(service.tables)
    service.go(5.0, "b")
    assert len(service.tables) == count


def test_who_says_good_bye_with_activities_that_do_not_end() -> None:
    service = Service()
    for name in "ab":
        service.join(member(name, 4))
    service.go(1.5, "a", "b")
    service.run(service.service.leave("a", service.now, running={"mail": 1}))
    del service.holders["a"]
    service.go(1.0, "b")
    assert service.tables[-1].loose
    assert service.amounts() == {"b": 3}
    service.go(OPTIONS.share_grace, "b")
    assert service.amounts() == {"b": 4}


def test_a_restarted_process_takes_the_share_of_its_former_self() -> None:
    service = Service()
    for name in "ab":
        service.join(member(name, 4, address=f"{name}:1"))
    service.go(1.5, "a", "b")
    service.run(service.service.link_closed("a", service.now))
    service.join(member("a2", 4, address="a:1"))
    del service.holders["a"]
    service.go(2.0, "a2", "b")
    assert service.amounts() == {"a2": 2, "b": 2}


@pytest.mark.parametrize("unread", [False, True])
def test_a_new_leader_over_what_the_store_has(unread: bool) -> None:
    service = Service(None if unread else table_of([], loose=True), term=2, unread=unread)
    service.join(member("a", 4))
    service.go(OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace - 0.5, "a")
    assert service.amounts() == {"a": 0}
    service.go(1.0, "a")
    assert service.amounts() == {"a": 4}


def test_a_store_that_lost_tables_may_have_lost_nodes_with_shares() -> None:
    service = Service(table_of([member("a", 4)]), term=9)
    me = member("b", 4)
    service.holders["b"] = Holder(me, OPTIONS.share)
    service.run(service.service.join(me, service.now, applied=Fence(5, 1)))
    service.go(4.0, "b")
    assert service.amounts() == {"b": 0}
    service.go(OPTIONS.confirm_within + OPTIONS.share + OPTIONS.share_grace, "b")
    assert service.amounts() == {"b": 4}


def test_where_nothing_is_limited_nothing_is_said_of_it() -> None:
    service = Service(table_of([member("a", None), member("gone", None)]), term=2)
    service.join(member("a", None))
    service.go(10.0, "a")
    assert service.holders["a"].name == Fence(0, 0)
    assert list(service.tables[-1].members) == ["a"]
    assert not any(table.loose for table in service.tables)
