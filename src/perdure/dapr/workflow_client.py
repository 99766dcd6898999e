"""The blocking client of workflows, under the names of Dapr's SDK."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from perdure.dapr.errors import DaprInternalError
from perdure.dapr.host import current
from perdure.dapr.names import name_of
from perdure.dapr.workflow_state import WorkflowState
from perdure.errors import InstanceNotFound


class DaprWorkflowClient:
    """Starts, watches and steers the workflows of the runtime in this process. Safe to use from any thread but its
    own; not in workflow code.

    Whatever is refused is a `DaprInternalError`, an id that nobody has ("no such instance exists") too.
    """

    def __init__(
        self, host: str | None = None, port: str | int | None = None, logger_options: object = None
    ) -> None:
        """The parameters are there for Dapr's sake: there is no sidecar to reach."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close."""

    def schedule_new_workflow(
        self,
        workflow: Callable[..., Any] | str,
        *,
        input: Any = None,
        instance_id: str | None = None,
        start_at: datetime | None = None,
    ) -> str:
        """Starts a workflow, at `start_at` (naive means UTC) or at once; returns the instance's id when the start is
        durable. An instance with this id that is still active is an error; a finished one is replaced."""
        name = name_of(workflow)
        return current().call(
            lambda client: client.schedule_new_workflow(
                name, input=input, instance_id=instance_id, start_at=start_at
            )
        )

    def get_workflow_state(self, instance_id: str, *, fetch_payloads: bool = True) -> WorkflowState:
        """The instance as of its last commit."""
        found = current().call(lambda client: client.get_workflow_state(instance_id))
        if found is None:
            raise DaprInternalError.of(InstanceNotFound())
        return WorkflowState(found, fetch_payloads=fetch_payloads)

    def wait_for_workflow_start(
        self, instance_id: str, *, fetch_payloads: bool = False, timeout_in_seconds: float = 0
    ) -> WorkflowState:
        """Returns when the instance has begun to run. `TimeoutError` after so many seconds; 0: never."""
        found = current().call(
            lambda client: client.wait_for_workflow_start(instance_id, timeout=timeout_in_seconds or None)
        )
        return WorkflowState(found, fetch_payloads=fetch_payloads)

    def wait_for_workflow_completion(
        self, instance_id: str, *, fetch_payloads: bool = True, timeout_in_seconds: float = 0
    ) -> WorkflowState:
        """Returns when the instance is completed, failed or terminated. `TimeoutError` after so many seconds; 0:
        never."""
        found = current().call(
            lambda client: client.wait_for_workflow_completion(
                instance_id, timeout=timeout_in_seconds or None
            )
        )
        return WorkflowState(found, fetch_payloads=fetch_payloads)

    def raise_workflow_event(self, instance_id: str, event_name: str, *, data: Any = None) -> None:
        """Hands an event to the instance, which keeps it until it waits for one of this name. Names match without
        case."""
        current().call(lambda client: client.raise_workflow_event(instance_id, event_name, data=data))

    def terminate_workflow(self, instance_id: str, *, output: Any = None, recursive: bool = True) -> None:
        """Ends the instance, and unless told otherwise its child workflows. No effect on a finished one."""
        current().call(
            lambda client: client.terminate_workflow(instance_id, output=output, recursive=recursive)
        )

    def pause_workflow(self, instance_id: str) -> None:
        """The code gets nothing more until it is resumed; what arrives meanwhile is kept. Idempotent."""
        current().call(lambda client: client.pause_workflow(instance_id))

    def resume_workflow(self, instance_id: str) -> None:
        """Goes on after a pause. Idempotent."""
        current().call(lambda client: client.resume_workflow(instance_id))

    def purge_workflow(self, instance_id: str, *, recursive: bool = True) -> None:
        """Deletes what is left of a finished instance, and of its children. An error while it is not finished."""
        current().call(lambda client: client.purge_workflow(instance_id, recursive=recursive))
