"""Traces with OpenTelemetry: one span per execution, with its activities, children, timers and events inside.

Names and attributes are those of Dapr's sidecar. What OpenTelemetry's own API cannot say is that a span has a given
id; so spans that the history tells of are made by a tracer of our own, whose id generator is told the id.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.span import TraceState

from perdure.duration import format_time
from perdure.figures import release
from perdure.logs import fields
from perdure.workflow import trace
from perdure.workflow.events import (
    ChildScheduled,
    EventRaised,
    ExecutionStarted,
    FailureDetails,
    TaskScheduled,
    TimerCreated,
    TraceContext,
)
from perdure.workflow.requests import ActivityRequest

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

log = logging.getLogger("perdure.telemetry")


class _GivenIds(IdGenerator):
    """Gives the ids that it was given last."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class OtelTracing:
    """Implements `perdure.workflow.tracing.Tracing` with a provider of OpenTelemetry's SDK."""

    def __init__(self, provider: TracerProvider, *, app_id: str, node: str) -> None:
        tracer = provider.get_tracer("perdure", release())
        assert isinstance(tracer, Tracer)
        self._tracer = tracer
        self._sampler = provider.sampler
        self._ids = _GivenIds()
        self._given = copy.copy(tracer)
        self._given.id_generator = self._ids
        # Whether a trace is sampled has been decided where it began.
        self._given.sampler = ALWAYS_ON
        self._common: dict[str, AttributeValue] = {"perdure.app_id": app_id, "perdure.node": node}

    # --- contexts ----------------------------------------------------------------------------------------------------

    @contextmanager
    def starting(self, name: str, instance_id: str) -> Iterator[TraceContext | None]:
        # Where no instrumentation of the server has made a span, the request's own headers say who asks.
        context = None
        incoming = trace.INCOMING.get()
        if incoming is not None and not api.get_current_span().get_span_context().is_valid:
            context = _within(_span_context(incoming))
        with self._tracer.start_as_current_span(
            f"create_orchestration||{name}",
            context,
            SpanKind.CLIENT,
            self._about("create_orchestration", name, instance_id),
        ) as span:
            found = span.get_span_context()
            yield trace.written(
                f"{found.trace_id:032x}",
                f"{found.span_id:016x}",
                found.trace_flags.sampled,
                found.trace_state.to_header(),
            )

    def asked(self, started: ExecutionStarted, task_id: int) -> TraceContext:
        return self._context(started, trace.task_span(started.execution_id, task_id))

    def follows(self, started: ExecutionStarted) -> TraceContext:
        return self._context(started, trace.execution_span(started.execution_id), link=True)

    def _context(self, started: ExecutionStarted, span_id: str, *, link: bool = False) -> TraceContext:
        cause = started.trace
        return trace.written(
            trace.execution_trace(started.execution_id, cause),
            span_id,
            self._sampled(started),
            cause.tracestate if cause is not None else "",
            link=link,
        )

    def _sampled(self, started: ExecutionStarted) -> bool:
        if started.trace is not None:
            return trace.sampled(started.trace)
        return self._sampled_alone(started.execution_id, started.name)

    def _sampled_alone(self, execution_id: str, name: str) -> bool:
        """Of what was started where nobody traced: the sampler decides by the trace's id, so always the same."""
        trace_id = int(trace.execution_trace(execution_id, None), 16)
        found = self._sampler.should_sample(Context(), trace_id, f"orchestration||{name}", SpanKind.SERVER)
        return found.decision is Decision.RECORD_AND_SAMPLE

    # --- what has ended ----------------------------------------------------------------------------------------------

    def activity_ended(
        self,
        instance_id: str,
        started: ExecutionStarted,
        task: TaskScheduled,
        failure: FailureDetails | None,
        at: int,
    ) -> None:
        self._task(instance_id, started, task, "activity", at, failure)

    def child_ended(
        self,
        instance_id: str,
        started: ExecutionStarted,
        task: ChildScheduled,
        failure: FailureDetails | None,
        at: int,
    ) -> None:
        self._task(instance_id, started, task, "orchestration", at, failure)

    def timer_fired(self, instance_id: str, started: ExecutionStarted, timer: TimerCreated, at: int) -> None:
        if self._sampled(started):
            about = self._about("timer", timer.origin, instance_id, timer.id)
            about["durabletask.fire_at"] = format_time(timer.fire_at)
            span_id = trace.task_span(started.execution_id, timer.id)
            parent = self._inside(started)
            self._tell(started, span_id, "timer", SpanKind.INTERNAL, timer.at, at, about, parent=parent)

    def events_raised(
        self, instance_id: str, started: ExecutionStarted, raised: Sequence[EventRaised]
    ) -> None:
        if self._sampled(started):
            parent = self._inside(started)
            for event in raised:
                span_id = f"{self._tracer.id_generator.generate_span_id():016x}"
                about = self._about("event", event.name, instance_id)
                name = f"event||{event.name}"
                self._tell(
                    started, span_id, name, SpanKind.CONSUMER, event.at, event.at, about, parent=parent
                )

    def execution_ended(
        self,
        instance_id: str,
        started: ExecutionStarted,
        status: str,
        failure: FailureDetails | None,
        left: Sequence[TaskScheduled | ChildScheduled],
        at: int,
    ) -> None:
        if not self._sampled(started):
            return
        for task in left:
            kind = "activity" if isinstance(task, TaskScheduled) else "orchestration"
            self._task(instance_id, started, task, kind, at, None, left=True)
        cause = started.trace
        about = self._about("orchestration", started.name, instance_id)
        about |= {
            "durabletask.runtime_status": status.upper(),
            "perdure.execution_id": started.execution_id,
            "perdure.generation": started.generation,
        }
        if started.version:
            about["durabletask.task.version"] = started.version
        self._tell(
            started,
            trace.execution_span(started.execution_id),
            f"orchestration||{started.name}",
            SpanKind.SERVER,
            started.at,
            at,
            about,
            failure,
            # By the cause's own span, or in a trace that begins here.
            parent=_span_context(cause) if cause is not None and not cause.link else None,
            links=[Link(_span_context(cause))] if cause is not None and cause.link else (),
        )

    def _task(
        self,
        instance_id: str,
        started: ExecutionStarted,
        task: TaskScheduled | ChildScheduled,
        kind: str,
        at: int,
        failure: FailureDetails | None,
        *,
        left: bool = False,
    ) -> None:
        if not self._sampled(started):
            return
        about = self._about(kind, task.name, instance_id, task.id)
        if isinstance(task, ChildScheduled):
            about["perdure.child_instance_id"] = task.instance_id
        if left:
            about["perdure.left_behind"] = True
        span_id = trace.task_span(started.execution_id, task.id)
        name = f"{kind}||{task.name}"
        parent = self._inside(started)
        self._tell(started, span_id, name, SpanKind.CLIENT, task.at, at, about, failure, parent=parent)

    def _inside(self, started: ExecutionStarted) -> SpanContext:
        """The span of the execution, as a parent."""
        return _span_context(self._context(started, trace.execution_span(started.execution_id)))

    def _about(
        self, kind: str, name: str, instance_id: str, task_id: int | None = None
    ) -> dict[str, AttributeValue]:
        found: dict[str, AttributeValue] = {
            **self._common,
            "durabletask.type": kind,
            "durabletask.task.name": name,
            "durabletask.task.instance_id": instance_id,
        }
        if task_id is not None:
            found["durabletask.task.task_id"] = task_id
        return found

    def _tell(
        self,
        started: ExecutionStarted,
        span_id: str,
        name: str,
        kind: SpanKind,
        began: int,
        ended: int,
        attributes: dict[str, AttributeValue],
        failure: FailureDetails | None = None,
        *,
        parent: SpanContext | None,
        links: Sequence[Link] = (),
    ) -> None:
        """One whole span."""
        trace_id = trace.execution_trace(started.execution_id, started.trace)
        self._ids.trace_id, self._ids.span_id = int(trace_id, 16), int(span_id, 16)
        try:
            span = self._given.start_span(
                name, _within(parent), kind, attributes, links, start_time=began * 1000
            )
            if failure is not None:
                said = {
                    "exception.type": failure.type,
                    "exception.message": failure.message,
                    "exception.stacktrace": failure.stack,
                }
                span.add_event("exception", said, timestamp=ended * 1000)
                span.set_status(Status(StatusCode.ERROR, f"{failure.type}: {failure.message}"))
            span.end(end_time=ended * 1000)
        except Exception:
            # A processor of the user's: no instance is to stall for it.
            log.exception("span.failed", extra=fields(span=name))

    # --- activities on this node ---------------------------------------------------------------------------------------

    async def within(self, request: ActivityRequest, run: Callable[[], Awaitable[None]]) -> None:
        cause = request.trace
        if cause is None:
            # It was asked for where nobody traced, by a workflow that nobody who traces started.
            execution_id = request.execution_id
            cause = trace.written(
                trace.execution_trace(execution_id, None),
                trace.task_span(execution_id, request.task_id),
                self._sampled_alone(execution_id, request.workflow),
            )
        about = self._about("activity", request.name, request.instance_id, request.task_id)
        with self._tracer.start_as_current_span(
            f"run||{request.name}", _within(_span_context(cause)), SpanKind.SERVER, about
        ):
            await run()

    def failed(self, error: BaseException) -> None:
        span = api.get_current_span()
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(trace.trace_id(context), 16),
        int(trace.span_id(context), 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.sampled(context) else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([context.tracestate]) if context.tracestate else TraceState(),
    )


def _within(parent: SpanContext | None) -> Context:
    """A context with this span, and nothing else, as the current one."""
    if parent is None:
        return Context()
    span: Span = NonRecordingSpan(parent)
    return api.set_span_in_context(span, Context())


def global_provider() -> TracerProvider | None:
    """The provider that the program has set for itself, if it is one of the SDK's."""
    provider = api.get_tracer_provider()
    return provider if isinstance(provider, TracerProvider) else None


__all__ = ["OtelTracing", "global_provider"]
