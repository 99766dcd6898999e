"""What `history-NNNNNN` holds: the events of one execution, and their codec.

Two kinds. An *arrival* came from outside the workflow code and resumes it. A *decision* is what the code then asked
for; on replay the code must ask for the same again. `at` is the time of the turn that appended the event, in
microseconds since 1970 UTC: all events of one turn have the same `at`, and each turn's is later than the last one's.

Stored as msgpack maps, defaults left out, unknown fields ignored, so that fields can be added. Payloads are bytes
exactly as the caller sent them (JSON text unless somebody else writes them).
"""

from __future__ import annotations

import msgspec

from perdure.errors import CorruptState
from perdure.payload import Payload


class FailureDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something failed, in words that cross processes and languages."""

    #: The exception's class name.
    type: str
    message: str
    stack: str = ""
    #: What caused it.
    inner: FailureDetails | None = None
    #: A retry policy must not retry it.
    non_retriable: bool = False
    #: Microseconds to wait before it is tried again, if it is; None: as the retry policy says.
    retry_after: int | None = None
    #: Names of the classes that the exception's class is derived from, nearest first, without `Exception` and above.
    bases: tuple[str, ...] = ()

    # Dapr's SDK has these names.

    @property
    def error_type(self) -> str:
        return self.type

    @property
    def stack_trace(self) -> str | None:
        return self.stack or None


class TraceContext(msgspec.Struct, frozen=True, omit_defaults=True):
    """W3C trace context of whoever caused something."""

    traceparent: str
    tracestate: str = ""
    #: It did not cause a part of its own trace: another trace begins, linked to it.
    link: bool = False


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be known of one attempt of an activity that is not the first, or that its caller gave time limits."""

    #: From 1.
    number: int = 1
    #: Microseconds from its beginning to its end at most; 0: what the activity itself says.
    start_to_close: int = 0
    #: Microseconds between two heartbeats at most; 0: what the activity itself says.
    heartbeat: int = 0
    #: What the last heartbeat of the attempt before said.
    details: Payload = None


class Parent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a child workflow's completion goes: the execution and task that wait for it."""

    #: The parent's actor type and instance id.
    type: str
    id: str
    name: str
    execution_id: str
    task_id: int
    nonce: bytes


class HistoryEvent(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", gc=False):
    """Base of all events."""

    at: int


# --- arrivals ----------------------------------------------------------------------------------------------------


class ExecutionStarted(HistoryEvent, frozen=True, tag=True):
    """Always the first event of an execution."""

    name: str
    start_id: str
    execution_id: str
    generation: int = 1
    input: Payload = None
    #: The workflow's version name, pinned for the whole execution; empty: unversioned.
    version: str = ""
    parent: Parent | None = None
    #: When it was to start; None: at once.
    scheduled: int | None = None
    trace: TraceContext | None = None
    tags: dict[str, str] = {}
    #: What its random values come of, if not of its execution id: an instance that was run again finds the same.
    seed: str = ""


class TaskCompleted(HistoryEvent, frozen=True, tag=True, gc=False):
    """The activity of `TaskScheduled` with this id has a result."""

    id: int
    result: Payload = None


class TaskFailed(HistoryEvent, frozen=True, tag=True):
    """The activity of `TaskScheduled` with this id failed."""

    id: int
    failure: FailureDetails
    #: What its last heartbeat said.
    details: Payload = None


class TimerFired(HistoryEvent, frozen=True, tag=True, gc=False):
    """The timer of `TimerCreated` with this id is due."""

    id: int


class ChildCompleted(HistoryEvent, frozen=True, tag=True, gc=False):
    """The child workflow of `ChildScheduled` with this id has a result."""

    id: int
    result: Payload = None


class ChildFailed(HistoryEvent, frozen=True, tag=True):
    """The child workflow of `ChildScheduled` with this id failed, was terminated or could not start."""

    id: int
    failure: FailureDetails


class EventRaised(HistoryEvent, frozen=True, tag=True, gc=False):
    """An external event. Names match without case."""

    name: str
    data: Payload = None


class CancelRequested(HistoryEvent, frozen=True, tag=True, gc=False):
    """Somebody wants it to come to an end: `WorkflowCancelled` is raised where the code waits. The first one counts."""

    reason: str = ""


class ExecutionSuspended(HistoryEvent, frozen=True, tag=True, gc=False):
    """From here on messages wait in the inbox. The workflow code does not see this event."""

    reason: str = ""


class ExecutionResumed(HistoryEvent, frozen=True, tag=True, gc=False):
    """Messages are taken again. The workflow code does not see this event."""

    reason: str = ""


class ExecutionTerminated(HistoryEvent, frozen=True, tag=True, gc=False):
    """Somebody ended it from outside. The workflow code does not see this event."""

    reason: str = ""
    output: Payload = None
    recursive: bool = True


# --- decisions ---------------------------------------------------------------------------------------------------


class TaskScheduled(HistoryEvent, frozen=True, tag=True, gc=False):
    """An activity was asked for."""

    id: int
    name: str
    #: Random; a completion matches only with it.
    nonce: bytes
    #: The idempotency key: the same over retries and over every delivery of this request.
    key: str
    input: Payload = None
    #: The app that runs it; empty: the workflow's own.
    app_id: str = ""
    trace: TraceContext | None = None
    attempt: Attempt | None = None


class TaskCancelled(HistoryEvent, frozen=True, tag=True, gc=False):
    """The activity or child workflow of this id is not waited for any more: no answer of it counts."""

    id: int


class TimerCreated(HistoryEvent, frozen=True, tag=True, gc=False):
    """A durable timer was set."""

    id: int
    fire_at: int
    #: What it is for: "timer", "event:<name>" (the time limit of a wait) or "retry:<name>" (a retry's delay).
    origin: str = "timer"


class ChildScheduled(HistoryEvent, frozen=True, tag=True, gc=False):
    """A child workflow was asked for."""

    id: int
    name: str
    instance_id: str
    #: The start id that the child is started with: whoever delivers the start again changes nothing.
    start_id: str
    nonce: bytes
    input: Payload = None
    app_id: str = ""
    trace: TraceContext | None = None


class DetachedScheduled(HistoryEvent, frozen=True, tag=True, gc=False):
    """A workflow was started that nobody waits for."""

    id: int
    name: str
    instance_id: str
    start_id: str
    input: Payload = None
    app_id: str = ""
    scheduled: int | None = None


class EventSent(HistoryEvent, frozen=True, tag=True, gc=False):
    """An external event was sent to another instance."""

    id: int
    instance_id: str
    name: str
    data: Payload = None
    app_id: str = ""


class ExecutionCompleted(HistoryEvent, frozen=True, tag=True):
    """Always the last event of a finished execution: its result, or why it failed or was terminated."""

    #: "completed", "failed" or "terminated".
    status: str
    result: Payload = None
    failure: FailureDetails | None = None


Arrival = (
    ExecutionStarted
    | TaskCompleted
    | TaskFailed
    | TimerFired
    | ChildCompleted
    | ChildFailed
    | EventRaised
    | CancelRequested
    | ExecutionSuspended
    | ExecutionResumed
    | ExecutionTerminated
)
Decision = (
    TaskScheduled
    | TaskCancelled
    | TimerCreated
    | ChildScheduled
    | DetachedScheduled
    | EventSent
    | ExecutionCompleted
)
Event = Arrival | Decision

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)

#: `encode(event) -> bytes`
encode = _encoder.encode


def decode(value: bytes) -> Event:
    """Reads one history event; `CorruptState` when the bytes are none."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"not a history event: {error}") from error
