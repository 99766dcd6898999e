"""What can be done with the workflow instances of an app, from wherever it is done."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Literal, Protocol

from perdure.statestore.contract import Page
from perdure.workflow.events import Event
from perdure.workflow.state import WorkflowState


class Workflows(Protocol):
    """The workflow instances of one app, wherever in the cluster they are.

    Payloads are bytes as they came in and as they are stored: JSON text. Errors are `perdure.errors`.
    """

    def workflow_name(self, workflow: Callable[..., Any]) -> str:
        """The name under which a function is a workflow. `InvalidInput` when it is none."""

    async def start(
        self, name: str, payload: bytes | None, instance_id: str | None = None, *, start_id: str | None = None
    ) -> str:
        """Starts an instance and returns its id, a random one if none is given. A name that nobody registered is
        accepted: the instance fails. `AlreadyExists`, `InvalidId`, `Unavailable`.

        `start_id`: the same again, with the same instance id, changes nothing; a random one unless it is given."""

    async def get(self, instance_id: str) -> WorkflowState | None:
        """The instance as of its last commit."""

    async def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,  # noqa: ASYNC109 - part of the client's public signature
    ) -> WorkflowState:
        """The instance once it has started or finished. Cancelling the call ends only the wait.
        `InstanceNotFound`, `DeadlineExceeded`."""

    async def raise_event(self, instance_id: str, name: str, payload: bytes | None) -> None:
        """Hands the instance an external event. `InstanceNotFound`, `InvalidState`."""

    async def pause(self, instance_id: str, reason: str = "") -> None:
        """From here on messages wait. `InstanceNotFound`, `InvalidState`."""

    async def resume(self, instance_id: str, reason: str = "") -> None:
        """Messages are taken again. `InstanceNotFound`, `InvalidState`."""

    async def terminate(
        self, instance_id: str, payload: bytes | None = None, *, reason: str = "", recursive: bool = True
    ) -> None:
        """Ends the instance with `payload` as its output, and its children. `InstanceNotFound`."""

    async def purge(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> None:
        """Removes a finished instance and its children. `InstanceNotFound`, `InvalidState` when not finished."""

    async def list(
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
        """Instances, newest first. `created_from` and `created_to` are aware times, the second one exclusive.
        `InvalidInput` for a cursor that none of its answers gave."""

    async def history(
        self, instance_id: str, *, start: int = 0, limit: int = 1000
    ) -> Page[tuple[int, Event]]:
        """The events from number `start` on, each with its number; the cursor is the next page's `start`, as text.
        `InstanceNotFound`."""
