"""What a node answers over HTTP, read."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

import msgspec

from perdure import errors
from perdure.errors import PerdureError
from perdure.statestore.contract import Page
from perdure.workflow.events import Event, FailureDetails, decode
from perdure.workflow.state import RuntimeStatus, WorkflowState

#: The header that names an error's class, where Dapr's code names the operation.
ERROR_HEADER = "perdure-error"


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    body: bytes
    #: What `ERROR_HEADER` says; empty without it.
    error: str = ""
    #: Seconds until it should be asked again.
    retry_after: float = 0.0


class _Error(msgspec.Struct):
    code: str = msgspec.field(name="errorCode")
    message: str


class _State(msgspec.Struct, rename="camel"):
    instance_id: str = msgspec.field(name="instanceID")
    workflow_name: str
    runtime_status: str
    created_at: datetime
    last_updated_at: datetime
    properties: dict[str, str] = {}
    started_at: datetime | None = None
    completed_at: datetime | None = None
    scheduled_at: datetime | None = None
    failure: dict[str, object] = {}
    reason: str = ""
    execution_id: str = msgspec.field(name="executionID", default="")
    generation: int = 1
    parent_instance_id: str | None = msgspec.field(name="parentInstanceID", default=None)
    version: str = ""
    tags: dict[str, str] = {}


class _States(msgspec.Struct):
    instances: list[_State]
    cursor: str | None = None


class _Event(msgspec.Struct):
    number: int
    stored: str


class _Events(msgspec.Struct):
    events: list[_Event]
    next: int | None = None


class _Started(msgspec.Struct):
    instance_id: str = msgspec.field(name="instanceID")


class About(msgspec.Struct):
    """What a node says of itself."""

    id: str
    namespace: str


_errors = msgspec.json.Decoder(_Error)
_state = msgspec.json.Decoder(_State)
_states = msgspec.json.Decoder(_States)
_events = msgspec.json.Decoder(_Events)
_started = msgspec.json.Decoder(_Started)
_about = msgspec.json.Decoder(About)

#: Codes that say more exactly what is wrong with a request than the classes do.
_SAME = {
    "ERR_INSTANCE_ID_TOO_LONG": errors.InvalidId,
    "ERR_WORKFLOW_APP_ID_INVALID": errors.ConfigurationError,
}
_BY_STATUS: dict[int, type[PerdureError]] = {
    400: errors.InvalidInput,
    401: errors.Unauthorized,
    404: errors.NotFound,
    409: errors.InvalidState,
    413: errors.PayloadTooLarge,
    502: errors.OutcomeUnknown,
    503: errors.Unavailable,
    504: errors.OutcomeUnknown,
}


def _classes() -> dict[str, type[PerdureError]]:
    """By code; of several classes with one code, the one that the others are derived from."""
    found: dict[str, type[PerdureError]] = {}
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, PerdureError):
            found.setdefault(value.code, value)
    return found


_BY_CODE: dict[str, type[PerdureError]] = {**_classes(), **_SAME}


def is_nodes(answer: Answer) -> bool:
    """Whether an answer that says what went wrong is a node's own, and not one of a proxy before it."""
    return _error(answer) is not None


def error_of(answer: Answer, server: str) -> PerdureError:
    """The error that an answer is; as the node raised it, as far as this release knows its class."""
    found = _error(answer)
    if found is None:
        kind: type[PerdureError] = _BY_STATUS.get(answer.status, PerdureError)
        return kind(f"{server} gave an answer that is no Perdure node's: HTTP status {answer.status}")
    for code in (answer.error, found.code):
        if code in _BY_CODE and code != PerdureError.code:
            return _BY_CODE[code](found.message)
    kind = _BY_STATUS.get(answer.status, PerdureError)
    return kind(found.message)


def _error(answer: Answer) -> _Error | None:
    try:
        return _errors.decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_started(answer: Answer, server: str) -> str:
    with _readable(server):
        return _started.decode(answer.body).instance_id


def read_about(answer: Answer, server: str) -> About:
    with _readable(server):
        return _about.decode(answer.body)


def read_state(answer: Answer, server: str) -> WorkflowState:
    with _readable(server):
        return _workflow_state(_state.decode(answer.body))


def read_states(answer: Answer, server: str) -> Page[WorkflowState]:
    with _readable(server):
        page = _states.decode(answer.body)
        return Page([_workflow_state(one) for one in page.instances], page.cursor)


def read_events(answer: Answer, server: str) -> Page[tuple[int, Event]]:
    """`CorruptState` for an event that this release cannot read."""
    with _readable(server):
        page = _events.decode(answer.body)
        stored = [(one.number, base64.b64decode(one.stored, validate=True)) for one in page.events]
    events = [(number, decode(event)) for number, event in stored]
    return Page(events, None if page.next is None else str(page.next))


@contextmanager
def _readable(server: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, ValueError) as error:
        raise PerdureError(f"what {server} answers cannot be read: {error}; is it a Perdure node?") from None


def _workflow_state(found: _State) -> WorkflowState:
    values = found.properties
    return WorkflowState(
        instance_id=found.instance_id,
        name=found.workflow_name,
        runtime_status=RuntimeStatus(found.runtime_status.lower()),
        created_at=found.created_at,
        last_updated_at=found.last_updated_at,
        started_at=found.started_at,
        completed_at=found.completed_at,
        scheduled_at=found.scheduled_at,
        serialized_input=values.get("dapr.workflow.input"),
        serialized_output=values.get("dapr.workflow.output"),
        serialized_custom_status=values.get("dapr.workflow.custom_status"),
        failure_details=_failure(found),
        reason=found.reason,
        execution_id=found.execution_id,
        generation=found.generation,
        parent_instance_id=found.parent_instance_id,
        version=found.version,
        tags=found.tags,
    )


def _failure(found: _State) -> FailureDetails | None:
    prefix = "dapr.workflow.failure."
    kind = found.properties.get(f"{prefix}error_type")
    if kind is None:
        return None
    said = {
        "type": kind,
        "message": found.properties.get(f"{prefix}error_message", ""),
        "stack": found.properties.get(f"{prefix}stack_trace", ""),
    }
    return msgspec.convert({**found.failure, **said}, FailureDetails)
