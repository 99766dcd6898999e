"""Dapr's general client, as far as it concerns workflows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from perdure import payload
from perdure.dapr.errors import DaprInternalError
from perdure.dapr.host import current
from perdure.errors import InstanceNotFound, InvalidInput
from perdure.payload import Payload
from perdure.workflow.state import WorkflowState


@dataclass(frozen=True)
class StartWorkflowResponse:
    instance_id: str


@dataclass(frozen=True)
class GetWorkflowResponse:
    """One instance as of its last commit. Times are naive and mean UTC. `properties` has `dapr.workflow.input`,
    `.output`, `.custom_status` (JSON text) and `.failure.error_type`, `.failure.error_message`, where there are any."""

    instance_id: str
    workflow_name: str
    created_at: datetime
    last_updated_at: datetime
    #: `Running`, `Completed`, …
    runtime_status: str
    properties: dict[str, str]


class DaprClient:
    """The same instances as `DaprWorkflowClient`, with the names and answers of Dapr's older calls. `workflow_component`
    is `dapr` always, and not looked at."""

    def __init__(self, address: str | None = None, **_options: object) -> None:
        """The parameters are there for Dapr's sake: there is no sidecar to reach."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close."""

    def wait(self, timeout_s: float) -> None:
        """Returns at once: there is no sidecar to wait for."""

    def start_workflow(
        self,
        workflow_component: str,
        workflow_name: str,
        input: Any = None,
        instance_id: str | None = None,
        workflow_options: dict[str, str] | None = None,
        send_raw_input: bool = False,
    ) -> StartWorkflowResponse:
        """Starts a workflow. With `send_raw_input` the input is bytes of JSON."""
        encoded = _encoded(input, send_raw_input, f"the input of workflow {workflow_name!r}")
        started = current().call(lambda client: client.start(workflow_name, encoded, instance_id))
        return StartWorkflowResponse(started)

    def get_workflow(self, instance_id: str, workflow_component: str) -> GetWorkflowResponse:
        """`DaprInternalError` ("no such instance exists") for an id that nobody has."""
        found = current().call(lambda client: client.get_workflow_state(instance_id))
        if found is None:
            raise DaprInternalError.of(InstanceNotFound())
        return GetWorkflowResponse(
            instance_id=found.instance_id,
            workflow_name=found.name,
            created_at=found.created_at.replace(tzinfo=None),
            last_updated_at=found.last_updated_at.replace(tzinfo=None),
            runtime_status=found.runtime_status.name.capitalize(),
            properties=_properties(found),
        )

    def raise_workflow_event(
        self,
        instance_id: str,
        workflow_component: str,
        event_name: str,
        event_data: Any = None,
        send_raw_data: bool = False,
    ) -> None:
        """Hands an event to the instance. With `send_raw_data` the data is bytes of JSON."""
        encoded = _encoded(event_data, send_raw_data, f"the data of event {event_name!r}")
        current().call(lambda client: client.raise_event(instance_id, event_name, encoded))

    def terminate_workflow(self, instance_id: str, workflow_component: str) -> None:
        current().call(lambda client: client.terminate_workflow(instance_id))

    def pause_workflow(self, instance_id: str, workflow_component: str) -> None:
        current().call(lambda client: client.pause_workflow(instance_id))

    def resume_workflow(self, instance_id: str, workflow_component: str) -> None:
        current().call(lambda client: client.resume_workflow(instance_id))

    def purge_workflow(self, instance_id: str, workflow_component: str) -> None:
        current().call(lambda client: client.purge_workflow(instance_id))


def _encoded(value: Any, raw: bool, what: str) -> Payload:
    if raw:
        if value is not None and not isinstance(value, bytes):
            raise ValueError(f"{what} is sent raw, so it must be bytes, not {type(value).__name__}")
        return value
    try:
        return payload.encode(value, what)
    except InvalidInput as error:
        raise DaprInternalError.of(error) from error


def _properties(found: WorkflowState) -> dict[str, str]:
    failure = found.failure_details
    properties = {
        "dapr.workflow.input": found.serialized_input,
        "dapr.workflow.output": None if failure else found.serialized_output,
        "dapr.workflow.custom_status": found.serialized_custom_status,
        "dapr.workflow.failure.error_type": failure.type if failure else None,
        "dapr.workflow.failure.error_message": failure.message if failure else None,
    }
    return {name: value for name, value in properties.items() if value is not None}
