"""What can be done with the workflow instances of an app, from wherever it is done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypedDict, get_args

from perdure.statestore.contract import Page
from perdure.workflow.events import Event
from perdure.workflow.state import WorkflowState

#: What a start does if an instance has its id that has not been purged: "error" refuses it while that one is active
#: (a finished one is replaced, as in Dapr); "return" leaves it as it is, and is a success; "replace" takes its place,
#: and terminates it if it is active.
IfExists = Literal["error", "return", "replace"]
IF_EXISTS: tuple[IfExists, ...] = get_args(IfExists)


class StartOptions(TypedDict, total=False):
    """Arguments of `Workflows.start` that need not be there."""

    start_at: datetime | timedelta
    if_exists: IfExists
    idempotency_key: str
    tags: Mapping[str, str]


class Workflows(Protocol):
    """The workflow instances of one app, wherever in the cluster they are.

    Payloads are bytes as they came in and as they are stored: JSON text. Errors are `perdure.errors`.
    """

    def workflow_name(self, workflow: Callable[..., Any]) -> str:
        """The name under which a function is a workflow. `InvalidInput` when it is none."""

    async def start(
        self,
        name: str,
        payload: bytes | None,
        instance_id: str | None = None,
        *,
        start_id: str | None = None,
        start_at: datetime | timedelta | None = None,
        if_exists: IfExists = "error",
        idempotency_key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Starts an instance and returns its id, a random one if none is given. A name that nobody registered is
        accepted: the instance fails. `AlreadyExists`, `InvalidId`, `Unavailable`.

        `start_id`: the same again, with the same instance id, changes nothing; a random one unless it is given.
        `start_at`: when it begins, a time or a delay from now; until then it is PENDING. `if_exists`: what if the id
        is taken, see `IfExists`. `idempotency_key`: the caller's; the same again is a success that changes nothing,
        with another name, input or tags it is `KeyReused`; without an instance id, one is made of it."""

    async def rerun(
        self,
        instance_id: str,
        *,
        from_event: int | None = None,
        new_instance_id: str | None = None,
        payload: bytes | None = None,
    ) -> str:
        """Runs a finished instance again, as another one, and returns the id of that. `from_event`: the number of the
        history event from which it goes on (an activity, a child or a timer that the code asked for): what was done
        before is taken over. None: from the start. `payload`: the input of that, if another. `InstanceNotFound`,
        `InvalidState` while it is not finished, `NotFound` when there is no such event, `InvalidInput` when nothing
        can be run again from it, `AlreadyExists` when there is an instance with the new id."""

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

    async def raise_event(
        self, instance_id: str, name: str, payload: bytes | None, *, event_id: str | None = None
    ) -> None:
        """Hands the instance an external event. `InstanceNotFound`, `InvalidState`. `event_id`: the caller's; the same
        again is a success that changes nothing, with another name or data it is `KeyReused`."""

    async def pause(self, instance_id: str, reason: str = "") -> None:
        """From here on messages wait. `InstanceNotFound`, `InvalidState`."""

    async def resume(self, instance_id: str, reason: str = "") -> None:
        """Messages are taken again. `InstanceNotFound`, `InvalidState`."""

    async def cancel(self, instance_id: str, reason: str = "") -> None:
        """Lets the instance come to an end: `WorkflowCancelled` is raised where its code waits. `InstanceNotFound`."""

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
