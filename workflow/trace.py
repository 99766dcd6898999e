"""Where an instance is in a trace: W3C trace contexts from outside, and ids derived from what the history keeps.

An execution's span, and that of each task in it, has an id that follows from the execution id alone. So whichever node
says that one of them has ended, before or after a crash, says it of the same span; nothing has to be remembered.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from hashlib import blake2b

from perdure.workflow.events import TraceContext

#: The context that the request under way came with; where code in this process asks, that of its own span counts.
INCOMING: ContextVar[TraceContext | None] = ContextVar("perdure_trace", default=None)

_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]*)?", re.ASCII
)
#: A longer list of vendors' notes is left out, as W3C allows.
_LONGEST_STATE = 512


def read(traceparent: str | None, tracestate: str = "") -> TraceContext | None:
    """The context of two headers; None where there is none that can be understood."""
    if traceparent is None or len(traceparent) > 256 or not _PARENT.fullmatch(traceparent):
        return None
    if traceparent.startswith("00") and len(traceparent) != 55:
        return None
    usable = len(tracestate) <= _LONGEST_STATE and tracestate.isascii() and tracestate.isprintable()
    # Of a version to come, what this one knows.
    return TraceContext("00" + traceparent[2:55], tracestate if usable else "")


def written(
    trace_id: str, span_id: str, sampled: bool, tracestate: str = "", *, link: bool = False
) -> TraceContext:
    return TraceContext(f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}", tracestate, link)


def trace_id(context: TraceContext) -> str:
    return context.traceparent[3:35]


def span_id(context: TraceContext) -> str:
    return context.traceparent[36:52]


def sampled(context: TraceContext) -> bool:
    return bool(int(context.traceparent[53:55], 16) & 1)


def execution_trace(execution_id: str, context: TraceContext | None) -> str:
    """The trace that an execution is part of: its cause's, or one of its own."""
    return trace_id(context) if context is not None and not context.link else _digest(execution_id, 16)


def execution_span(execution_id: str) -> str:
    return _digest(execution_id, 8)


def task_span(execution_id: str, task_id: int) -> str:
    return _digest(f"{execution_id}:{task_id}", 8)


def _digest(text: str, size: int) -> str:
    # All zeros, which means none, does not come up.
    return blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=size, person=b"perdure-trace"
    ).hexdigest()
