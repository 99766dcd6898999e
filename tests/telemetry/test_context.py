"""W3C trace contexts: what is understood, and ids that follow from the history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.workflow import trace
from perdure.workflow.events import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_context_is_read() -> None:
    context = trace.read(GOOD, "vendor=1")
    assert context == TraceContext(GOOD, "vendor=1")
    assert (trace.trace_id(context), trace.span_id(context), trace.sampled(context)) == (TRACE, SPAN, True)
    unsampled = trace.read(f"00-{TRACE}-{SPAN}-00")
    assert unsampled is not None
    assert not trace.sampled(unsampled)


def test_of_a_later_version_what_this_one_knows() -> None:
    assert trace.read(f"01-{TRACE}-{SPAN}-03-what-comes") == TraceContext(f"00-{TRACE}-{SPAN}-03")


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        GOOD.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        GOOD + "-more",
        GOOD + "\n",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01-{'x' * 500}",
    ],
)
def test_what_cannot_be_understood_counts_as_not_sent(given: str | None) -> None:
    assert trace.read(given) is None


@pytest.mark.parametrize("state", ["x" * 513, "a=ü", "a=\x00"])
def test_notes_that_cannot_be_passed_on_are_left_out(state: str) -> None:
    assert trace.read(GOOD, state) == TraceContext(GOOD)


@given(st.text(max_size=300), st.text(max_size=600))
def test_nonsense_never_raises(parent: str, state: str) -> None:
    trace.read(parent, state)


@given(st.text(min_size=1), st.integers(min_value=0))
def test_ids_follow_from_the_execution(execution: str, task: int) -> None:
    span = trace.execution_span(execution)
    other = trace.task_span(execution, task)
    own = trace.execution_trace(execution, None)
    assert (len(span), len(other), len(own)) == (16, 16, 32)
    assert len({span, other, trace.task_span(execution, task + 1)}) == 3
    assert trace.read(trace.written(own, span, True).traceparent) == trace.written(own, span, True)


def test_who_only_set_it_going_has_another_trace() -> None:
    cause = trace.written(TRACE, SPAN, True)
    assert trace.execution_trace("e", cause) == TRACE
    link = trace.written(TRACE, SPAN, True, link=True)
    assert trace.execution_trace("e", link) == trace.execution_trace("e", None) != TRACE
