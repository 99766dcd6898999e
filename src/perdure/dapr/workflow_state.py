"""What the clients show of an instance, under the names of Dapr's SDK."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from perdure.workflow import state
from perdure.workflow.events import FailureDetails as Failure


class WorkflowStatus(Enum):
    """Where an instance is in its life."""

    UNKNOWN = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    TERMINATED = 4
    PENDING = 5
    SUSPENDED = 6
    STALLED = 7


class FailureDetails:
    """Why an instance failed."""

    def __init__(self, failure: Failure) -> None:
        self.message = failure.message
        self.error_type = failure.type
        self.stack_trace: str | None = failure.stack or None


class WorkflowFailedError(Exception):
    """The instance failed. `failure_details` says why."""

    def __init__(self, message: str, failure_details: FailureDetails) -> None:
        super().__init__(message)
        self.failure_details = failure_details


class WorkflowState:
    """One instance as of its last commit. Times are naive and mean UTC; `serialized_*` are JSON text, and None when
    they were not asked for."""

    def __init__(self, found: state.WorkflowState, *, fetch_payloads: bool = True) -> None:
        self.instance_id = found.instance_id
        self.name = found.name
        self.runtime_status = WorkflowStatus[found.runtime_status.name]
        self.created_at: datetime = found.created_at.replace(tzinfo=None)
        self.last_updated_at: datetime = found.last_updated_at.replace(tzinfo=None)
        self.serialized_input = found.serialized_input if fetch_payloads else None
        self.serialized_output = found.serialized_output if fetch_payloads else None
        self.serialized_custom_status = found.serialized_custom_status if fetch_payloads else None
        failure = found.failure_details if fetch_payloads else None
        self.failure_details = None if failure is None else FailureDetails(failure)

    def raise_if_failed(self) -> None:
        """`WorkflowFailedError` when the instance failed."""
        if self.failure_details is not None:
            raise WorkflowFailedError(
                f"workflow {self.instance_id!r} failed: {self.failure_details.message}", self.failure_details
            )

    def __repr__(self) -> str:
        return f"<WorkflowState {self.name} {self.instance_id!r}: {self.runtime_status.name}>"
