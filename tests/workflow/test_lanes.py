"""Queues by name: never too many, first come first served, and no name waits for another's end."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.placement.member import Limit, Member
from perdure.placement.shares import Holder, Shares
from perdure.workflow.lanes import Lane, Lanes, Pool

NAMES = ("a", "b", "c", "shared")
LIFE = 5.0


class Machine(RuleBasedStateMachine):
    """What a host of activities does with its lanes."""

    @initialize(room=st.integers(1, 4), limits=st.tuples(*[st.none() | st.integers(1, 3)] * len(NAMES)))
    def begin(self, room: int, limits: tuple[int | None, ...]) -> None:
        self.now = 0.0
        me = Member("n", "", "app", "default", (), (), NAMES, limits=(Limit("shared", 3),))
        self.holder = Holder(me, LIFE)
        self.holder.given(Shares(1, 1, {}), 0.0, 0.0)
        self.number = 1
        self.lanes: Lanes[int] = Lanes(self.holder, lambda: self.now)
        self.pool: Pool[int] = Pool(room)
        self.by_name = {
            name: self.lanes.add(name, self.pool, limit) for name, limit in zip(NAMES, limits, strict=True)
        }
        self.limits = dict(zip(NAMES, limits, strict=True))
        self.count = 0
        self.came: dict[str, list[int]] = defaultdict(list)
        self.went: dict[str, list[int]] = defaultdict(list)
        self.running: Counter[str] = Counter()
        #: How often others have been served since a name could have been.
        self.passed: Counter[str] = Counter()

    def fill(self) -> None:
        while (found := self.lanes.next(self.pool)) is not None:
            lane, item = found
            self.starts(lane, item)

    def starts(self, lane: Lane[int], item: int) -> None:
        self.went[lane.name].append(item)
        self.running[lane.name] += 1
        for name in NAMES:
            if name != lane.name and self.by_name[name].queue and self.could(name):
                self.passed[name] += 1
        self.passed[lane.name] = 0

    def could(self, name: str) -> bool:
        limit = self.limits[name]
        share = self.holder.amount("shared", self.now) if name == "shared" else None
        return (limit is None or self.running[name] < limit) and (share is None or self.running[name] < share)

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 5))
    def comes(self, name: str, count: int) -> None:
        for _ in range(count):
            self.count += 1
            self.came[name].append(self.count)
            if self.lanes.enter(self.by_name[name], self.count):
                self.starts(self.by_name[name], self.count)

    @precondition(lambda self: self.running.total())
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name in NAMES if self.running[name])))
        self.running[name] -= 1
        self.lanes.leave(self.by_name[name])
        self.fill()

    @rule(amount=st.integers(0, 3))
    def share(self, amount: int) -> None:
        self.number += 1
        if self.holder.given(Shares(1, self.number, {"shared": amount}), self.now, self.now):
            self.lanes.share_changed()
            self.fill()

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "lanes"):
            return
        assert self.pool.running == self.running.total() <= self.pool.limit
        for name, lane in self.by_name.items():
            limit = self.limits[name]
            assert lane.running == self.running[name] <= (limit or lane.running)
            assert self.came[name] == self.went[name] + list(lane.queue)
            # Every other name at most once before it.
            assert self.passed[name] <= len(NAMES) - 1
            if lane.queue and self.pool.running < self.pool.limit:
                assert not self.could(name), f"{name} could run"
            if not self.could(name):
                # It has left the round, and comes back as the last.
                self.passed[name] = 0
        counts = self.lanes.counts()
        assert counts.keys() == {"shared"}
        running, waiting = counts["shared"]
        assert running == self.running["shared"]
        assert waiting <= len(self.by_name["shared"].queue)
        queued = self.by_name["shared"].queue
        if queued and (self.limits["shared"] is None or running < self.limits["shared"]):
            assert waiting


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestMachine = Machine.TestCase


def test_a_place_in_a_queue_is_known_without_looking_at_it() -> None:
    holder = Holder(Member("n", "", "app", "default", ()), LIFE)
    lanes: Lanes[int] = Lanes(holder, lambda: 0.0)
    pool: Pool[int] = Pool(1)
    lane = lanes.add("a", pool, None)
    assert lanes.enter(lane, 0)
    places = []
    for item in range(1, 4):
        assert not lanes.enter(lane, item)
        places.append(lane.taken + len(lane.queue) - 1)
    assert [place - lane.taken for place in places] == [0, 1, 2]
    lanes.leave(lane)
    assert lanes.next(pool) == (lane, 1)
    assert [place - lane.taken for place in places[1:]] == [0, 1]
    assert list(lanes.clear()) == [2, 3]
    assert lanes.next(pool) is None
