"""A history as steps."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.console.timeline import MAX_ERROR, Step, Timeline
from perdure.workflow import events
from perdure.workflow.events import FailureDetails

NO = FailureDetails("ValueError", "no")


class Told:
    """A history being told: each method is one event, `turn` begins the next turn."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.at = 1000

    def turn(self, later: int = 10) -> Told:
        self.at += later
        return self

    def feed(self, kind: Any, *args: Any, **fields: Any) -> Told:
        self.timeline.feed(kind(self.at, *args, **fields))
        return self

    def start(self) -> Told:
        return self.feed(events.ExecutionStarted, "order", "s", "e")

    def activity(self, id: int, name: str = "pay") -> Told:
        return self.feed(events.TaskScheduled, id, name, b"", f"e:{id}")

    def child(self, id: int, instance: str) -> Told:
        return self.feed(events.ChildScheduled, id, "ship", instance, "s", b"")

    def timer(self, id: int, origin: str = "timer", after: int = 100) -> Told:
        return self.feed(events.TimerCreated, id, self.at + after, origin)

    def done(self, id: int) -> Told:
        return self.feed(events.TaskCompleted, id)

    def failed(self, id: int) -> Told:
        return self.feed(events.TaskFailed, id, NO)

    def fired(self, id: int) -> Told:
        return self.feed(events.TimerFired, id)

    def end(self, status: str = "completed") -> Told:
        return self.feed(events.ExecutionCompleted, status)

    @property
    def steps(self) -> list[tuple[Any, ...]]:
        return [
            (step.kind, step.name, [(s.at, s.ended, s.outcome) for s in step.spans])
            for step in self.timeline.steps
        ]

    @property
    def open(self) -> set[int]:
        return set(self.timeline.open)


def test_activities_side_by_side() -> None:
    told = Told().start().activity(0, "a").activity(1, "b").turn().done(1)
    assert told.steps == [
        ("started", "order", [(1000, 1000, "completed")]),
        ("activity", "a", [(1000, 0, "")]),
        ("activity", "b", [(1000, 1010, "completed")]),
    ]
    assert told.open == {0}
    assert told.timeline.steps[2].spans[0].end_number == 3
    told.turn().failed(0)
    assert told.steps[1][2] == [(1000, 1020, "failed")]
    assert told.timeline.steps[1].spans[0].error == "ValueError: no"
    assert told.open == set()


def test_attempts_are_one_step() -> None:
    told = Told().start().activity(0).turn().failed(0).timer(1, "retry:pay")
    step = told.timeline.steps[1]
    assert (step.due, step.timer, step.open) == (told.at + 100, 1, False)
    # The delay is what is waited for now.
    assert told.timeline.open == {1: step}
    told.turn(100).fired(1).activity(2)
    assert (step.due, step.timer, step.open) == (0, -1, True)
    assert told.timeline.open == {2: step}
    told.turn().done(2)
    assert told.steps[1:] == [
        ("activity", "pay", [(1000, 1010, "failed"), (1110, 1120, "completed")]),
    ]
    assert told.open == set()


def test_attempts_of_several_calls_of_one_name() -> None:
    told = Told().start().activity(0).activity(1).turn().failed(0).failed(1)
    told.timer(2, "retry:pay", 50).timer(3, "retry:pay", 60)
    first, second = told.timeline.steps[1:]
    assert (first.timer, second.timer) == (2, 3)
    told.turn(50).fired(2).activity(4).turn().fired(3).activity(5)
    assert [len(step.spans) for step in (first, second)] == [2, 2]
    assert told.timeline.open == {4: first, 5: second}


def test_another_call_of_the_same_name_is_no_attempt() -> None:
    told = Told().start().activity(0).turn().failed(0).activity(1)
    assert [step[0] for step in told.steps] == ["started", "activity", "activity"]
    # One that is called while another waits for its next attempt.
    told = Told().start().activity(0).turn().failed(0).timer(1, "retry:pay").turn().activity(2)
    assert [len(step.spans) for step in told.timeline.steps] == [1, 1, 1]


def test_children_are_tried_again_under_another_id() -> None:
    told = Told().start().child(0, "c-1")
    told.turn().feed(events.ChildFailed, 0, NO).timer(1, "retry:ship")
    told.turn().fired(1).child(2, "c-2").turn().feed(events.ChildCompleted, 2)
    step = told.timeline.steps[1]
    assert [span.outcome for span in step.spans] == ["failed", "completed"]
    assert step.instance == "c-2"


def test_timers() -> None:
    told = Told().start().timer(0).timer(1)
    assert [step.due for step in told.timeline.steps[1:]] == [1100, 1100]
    told.turn(100).fired(0)
    assert told.steps[1:] == [("timer", "", [(1000, 1100, "fired")]), ("timer", "", [(1000, 0, "")])]
    assert told.open == {1}


def test_waits_with_a_time_limit() -> None:
    told = Told().start().timer(0, "event:Approval").timer(1, "event:approval").timer(2, "event:other")
    told.turn().feed(events.EventRaised, "APPROVAL")
    told.turn().feed(events.EventRaised, "nobody waits")
    told.turn().fired(2).fired(1)
    told.turn().feed(events.EventRaised, "approval")
    assert told.steps[1:] == [
        ("wait", "Approval", [(1000, 1010, "raised")]),
        ("wait", "approval", [(1000, 1030, "fired")]),
        ("wait", "other", [(1000, 1030, "fired")]),
        ("event", "nobody waits", [(1020, 1020, "completed")]),
        ("event", "approval", [(1040, 1040, "completed")]),
    ]
    assert told.open == set()


def test_the_end_ends_everything() -> None:
    told = Told().start().activity(0).activity(1).timer(2, "event:x").turn().failed(1).timer(3, "retry:pay")
    told.feed(events.ExecutionSuspended, "later").turn().end("terminated")
    assert [step[2][-1][2] for step in told.steps] == [
        "completed",
        "dropped",
        "failed",
        "dropped",
        "dropped",
        "failed",
    ]
    assert told.open == set()
    assert all(step.due == 0 for step in told.timeline.steps if step.kind == "activity")
    assert told.timeline.steps[-1].name == "terminated"


def test_a_pause() -> None:
    told = Told().start().turn().feed(events.ExecutionSuspended, "why")
    told.turn().feed(events.ExecutionSuspended, "again").turn().feed(events.ExecutionResumed)
    told.turn().feed(events.ExecutionResumed)
    assert told.steps[1:] == [("suspended", "why", [(1010, 1030, "resumed")])]


def test_what_goes_to_others() -> None:
    told = Told().start().feed(events.DetachedScheduled, 0, "log", "l-1", "s")
    told.feed(events.EventSent, 1, "other", "go")
    told.turn().feed(events.ExecutionTerminated, "because")
    assert [(step.kind, step.name, step.instance) for step in told.timeline.steps[1:]] == [
        ("detached", "log", "l-1"),
        ("sent", "go", "other"),
        ("terminated", "because", ""),
    ]


def test_an_event_that_cannot_be_read_is_a_step() -> None:
    told = Told().start()
    told.timeline.feed("key history-000001: not a history event")
    told.activity(0)
    assert told.timeline.count == 3
    step = told.timeline.steps[1]
    assert (step.kind, step.spans[0].error) == ("unreadable", "key history-000001: not a history event")


def test_long_errors_are_cut() -> None:
    told = Told().start().activity(0)
    told.turn().feed(events.TaskFailed, 0, FailureDetails("E", "x" * 10_000))
    assert len(told.timeline.steps[1].spans[0].error) == MAX_ERROR


def test_duplicates_and_strays_change_nothing() -> None:
    told = Told().start().activity(0).turn().done(0)
    before = told.steps
    told.turn().done(0).failed(0).fired(0).done(77).fired(78)
    assert told.steps == before


ANY = st.one_of(
    st.tuples(st.sampled_from(["activity", "timer", "done", "failed", "fired"]), st.integers(0, 5)),
    st.tuples(st.just("retry"), st.integers(0, 5)),
    st.tuples(st.just("limit"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["turn", "raised", "suspended", "resumed", "end", "bad"]), st.just(0)),
)


@given(st.lists(ANY, max_size=40))
def test_any_order_of_events_is_told(history: list[tuple[str, int]]) -> None:
    """Histories of other executors, damaged ones, ones of later releases: whatever comes is shown somehow."""
    told = Told().start()
    for kind, id in history:
        match kind:
            case "retry":
                told.timer(id, "retry:pay")
            case "limit":
                told.timer(id, "event:pay")
            case "raised":
                told.feed(events.EventRaised, "pay")
            case "suspended":
                told.feed(events.ExecutionSuspended)
            case "resumed":
                told.feed(events.ExecutionResumed)
            case "bad":
                told.timeline.feed("unreadable")
            case "turn" | "end":
                getattr(told, kind)()
            case _:
                getattr(told, kind)(id)
    timeline = told.timeline
    assert timeline.count == 1 + sum(kind != "turn" for kind, _ in history)
    numbers = [span.number for step in timeline.steps for span in step.spans]
    assert len(numbers) == len(set(numbers))
    for step in timeline.steps:
        assert isinstance(step, Step)
        for span in step.spans:
            assert bool(span.outcome) == bool(span.ended)
            assert not span.ended or span.ended >= span.at
