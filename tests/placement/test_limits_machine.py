"""Shares, whatever happens in whatever order: never more than the limit, and nobody starves."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.placement.limits_use import BEAT, OPTIONS, Leader, Node, member


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
