"""The client with blocking calls."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self

from perdure.client.client import SAME
from perdure.client.portal import Portal
from perdure.payload import Payload
from perdure.statestore.contract import Page
from perdure.workflow.events import Event
from perdure.workflow.state import WorkflowState
from perdure.workflow.workflows import IfExists

if TYPE_CHECKING:
    from perdure.client.client import Workflow, WorkflowClient


class SyncWorkflowClient:
    """Made by `WorkflowClient.sync`:

        client = WorkflowClient("http://localhost:3500").sync
        id = client.schedule_new_workflow("order", input={"amount": 5})

    Each method does what its namesake of `WorkflowClient` does, and returns when that has. Any number of threads may
    use it at a time. The work is done by an event loop in a thread of its own, which `close` ends (and the end of the
    process); of `node.client.sync`, by the node's loop. So it must not be called where an event loop runs:
    `RuntimeError`.
    """

    def __init__(self, client: WorkflowClient, portal: Portal) -> None:
        self._client = client
        self._run = portal.run
        self._end = portal.end

    def close(self) -> None:
        """Closes the connections; the client may be used again. Idempotent."""
        self._end(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- starting ----------------------------------------------------------------------------------------------------

    def schedule_new_workflow(
        self,
        workflow: Workflow,
        *,
        input: Any = None,
        instance_id: str | None = None,
        start_at: datetime | timedelta | None = None,
        if_exists: IfExists = "error",
        idempotency_key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        return self._run(
            self._client.schedule_new_workflow(
                workflow,
                input=input,
                instance_id=instance_id,
                start_at=start_at,
                if_exists=if_exists,
                idempotency_key=idempotency_key,
                tags=tags,
            )
        )

    def start(
        self,
        name: str,
        payload: Payload,
        instance_id: str | None = None,
        *,
        start_at: datetime | timedelta | None = None,
        if_exists: IfExists = "error",
        idempotency_key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        return self._run(
            self._client.start(
                name,
                payload,
                instance_id,
                start_at=start_at,
                if_exists=if_exists,
                idempotency_key=idempotency_key,
                tags=tags,
            )
        )

    def rerun_workflow(
        self,
        instance_id: str,
        *,
        from_event: int | None = None,
        new_instance_id: str | None = None,
        input: Any = SAME,
    ) -> str:
        return self._run(
            self._client.rerun_workflow(
                instance_id, from_event=from_event, new_instance_id=new_instance_id, input=input
            )
        )

    # --- looking -----------------------------------------------------------------------------------------------------

    def get_workflow_state(self, instance_id: str) -> WorkflowState | None:
        return self._run(self._client.get_workflow_state(instance_id))

    get = get_workflow_state

    def wait_for_workflow_start(
        self, instance_id: str, *, timeout: float | timedelta | None = None
    ) -> WorkflowState:
        return self._run(self._client.wait_for_workflow_start(instance_id, timeout=timeout))

    def wait_for_workflow_completion(
        self, instance_id: str, *, timeout: float | timedelta | None = None
    ) -> WorkflowState:
        return self._run(self._client.wait_for_workflow_completion(instance_id, timeout=timeout))

    def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,
    ) -> WorkflowState:
        return self._run(self._client.wait(instance_id, until=until, timeout=timeout))

    def list(
        self,
        *,
        statuses: Collection[str] = (),
        name: str | None = None,
        id_prefix: str = "",
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[WorkflowState]:
        return self._run(
            self._client.list(
                statuses=statuses,
                name=name,
                id_prefix=id_prefix,
                created_from=created_from,
                created_to=created_to,
                cursor=cursor,
                limit=limit,
            )
        )

    def history(self, instance_id: str, *, start: int = 0, limit: int = 1000) -> Page[tuple[int, Event]]:
        return self._run(self._client.history(instance_id, start=start, limit=limit))

    # --- steering ----------------------------------------------------------------------------------------------------

    def raise_workflow_event(
        self, instance_id: str, event_name: str, *, data: Any = None, event_id: str | None = None
    ) -> None:
        self._run(self._client.raise_workflow_event(instance_id, event_name, data=data, event_id=event_id))

    def raise_event(
        self, instance_id: str, name: str, payload: Payload, *, event_id: str | None = None
    ) -> None:
        self._run(self._client.raise_event(instance_id, name, payload, event_id=event_id))

    def pause_workflow(self, instance_id: str, *, reason: str = "") -> None:
        self._run(self._client.pause_workflow(instance_id, reason=reason))

    def resume_workflow(self, instance_id: str, *, reason: str = "") -> None:
        self._run(self._client.resume_workflow(instance_id, reason=reason))

    def cancel_workflow(self, instance_id: str, *, reason: str = "") -> None:
        self._run(self._client.cancel_workflow(instance_id, reason=reason))

    def cancel(self, instance_id: str, reason: str = "") -> None:
        self._run(self._client.cancel(instance_id, reason))

    def terminate_workflow(
        self, instance_id: str, *, output: Any = None, reason: str = "", recursive: bool = True
    ) -> None:
        self._run(
            self._client.terminate_workflow(instance_id, output=output, reason=reason, recursive=recursive)
        )

    def terminate(
        self, instance_id: str, payload: Payload = None, *, reason: str = "", recursive: bool = True
    ) -> None:
        self._run(self._client.terminate(instance_id, payload, reason=reason, recursive=recursive))

    def purge_workflow(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> None:
        self._run(self._client.purge_workflow(instance_id, recursive=recursive, force=force))

    def pause(self, instance_id: str, reason: str = "") -> None:
        self._run(self._client.pause(instance_id, reason))

    def resume(self, instance_id: str, reason: str = "") -> None:
        self._run(self._client.resume(instance_id, reason))

    purge = purge_workflow
