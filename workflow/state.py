"""What clients see of an instance."""

from __future__ import annotations

import enum
from datetime import UTC, datetime

import msgspec

from perdure.payload import Payload
from perdure.workflow.events import FailureDetails


class RuntimeStatus(enum.StrEnum):
    """Where an instance is in its life. The values are what stores and lists use."""

    PENDING = "pending"  #: accepted, not started: scheduled for later, or waiting for its first turn
    RUNNING = "running"
    SUSPENDED = "suspended"
    STALLED = "stalled"  #: its code cannot go on; the reason says why; it goes on when the cause is gone
    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"

    @property
    def finished(self) -> bool:
        return self in _FINISHED


_FINISHED = frozenset({RuntimeStatus.COMPLETED, RuntimeStatus.FAILED, RuntimeStatus.TERMINATED})


class Details(msgspec.Struct, frozen=True, omit_defaults=True):
    """`InstanceRow.details` of a workflow: what status needs beside the row's own columns."""

    execution_id: str = ""
    generation: int = 1
    input: Payload = None
    output: Payload = None
    failure: FailureDetails | None = None
    custom_status: Payload = None
    #: Why it is STALLED, SUSPENDED, or PENDING because too many others are under way.
    reason: str = ""
    #: How many times in a row it failed to go on for that reason.
    attempts: int = 0
    started: int | None = None
    completed: int | None = None
    scheduled: int | None = None
    parent_id: str = ""
    version: str = ""
    tags: dict[str, str] = {}


class WorkflowState(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as of its last commit. `serialized_*` are the payloads as stored: JSON text."""

    instance_id: str
    name: str
    runtime_status: RuntimeStatus
    created_at: datetime
    last_updated_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    scheduled_at: datetime | None = None
    serialized_input: str | None = None
    serialized_output: str | None = None
    serialized_custom_status: str | None = None
    failure_details: FailureDetails | None = None
    #: Why it is STALLED, SUSPENDED, or PENDING because too many others are under way; empty otherwise.
    reason: str = ""
    execution_id: str = ""
    generation: int = 1
    parent_instance_id: str | None = None
    version: str = ""
    tags: dict[str, str] = {}

    @property
    def input(self) -> object:
        """The input, decoded from JSON."""
        return _value(self.serialized_input)

    @property
    def output(self) -> object:
        """The result, decoded from JSON; None while there is none."""
        return _value(self.serialized_output)

    @property
    def custom_status(self) -> object:
        return _value(self.serialized_custom_status)


def _value(text: str | None) -> object:
    return None if text is None else msgspec.json.decode(text)


def when(microseconds: int) -> datetime:
    """The aware datetime of a stored time."""
    return datetime.fromtimestamp(microseconds / 1_000_000, tz=UTC)
