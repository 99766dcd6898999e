"""Starts, watches and steers workflow instances."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self

from perdure import payload as payloads
from perdure.client.portal import LoopThread, NodeLoop, Portal
from perdure.payload import Payload
from perdure.statestore.contract import Page
from perdure.workflow.events import Event
from perdure.workflow.state import WorkflowState
from perdure.workflow.workflows import IfExists, Workflows

if TYPE_CHECKING:
    from perdure.client.http import HttpWorkflows
    from perdure.client.sync import SyncWorkflowClient

Workflow = Callable[..., Any] | str

#: The input that there was.
SAME: Any = object()
#: Seconds for which a node that cannot be reached is tried again.
RETRY_FOR = 10.0


class WorkflowClient:
    """The workflow instances of one app: a node has one (`node.client`), and over HTTP

        async with WorkflowClient("http://localhost:3500") as client:
            id = await client.schedule_new_workflow("order", input={"amount": 5})
            state = await client.wait_for_workflow_completion(id)

    is the same. What is acknowledged is durable. All methods but `close` are coroutines; `client.sync` has the same
    ones as blocking calls, for threads and programs without an event loop.

    Each change is sent again if need be, and takes effect once. Raises `InvalidId`, `InvalidInput` and
    `PayloadTooLarge` for what the caller got wrong, `InstanceNotFound` for an unknown id, and `DeadlineExceeded` when
    the instance's owner gave no answer for 60 seconds (the request may then still take effect). Over HTTP also
    `Unavailable` when no node answers, `OutcomeUnknown` when the connection was lost while an event was raised that
    must not come twice, and `Unauthorized` when the node wants another API token.
    """

    def __init__(
        self,
        server: str | Workflows,
        *,
        api_token: str | None = None,
        app_id: str | None = None,
        retry_for: float = RETRY_FOR,
    ) -> None:
        """`server`: the URL of a node; any node of the app will do. `api_token` is what the node wants, unless
        PERDURE_API_TOKEN or DAPR_API_TOKEN holds it; `app_id`: requests are refused by a node of any other app. A
        node that cannot be reached is tried again for `retry_for` seconds. Nothing is connected before the first call.
        `ConfigurationError` when the URL or the token cannot be one.

        Over HTTP, a client may be used by several event loops and threads, and after a fork."""
        self._workflows: Workflows
        self._http: HttpWorkflows | None = None
        self._portal: Portal | None = None
        if isinstance(server, str):
            # Late: half of the time that importing perdure takes would be aiohttp's.
            from perdure.client.http import HttpWorkflows

            self._http = self._workflows = HttpWorkflows(
                server, api_token=api_token, app_id=app_id, retry_for=retry_for
            )
            self._portal = portal = LoopThread()
            # At the end of the process at the latest, so that nothing is left open then.
            weakref.finalize(self, _end, portal, self._http)
        else:
            self._workflows = server
            with suppress(RuntimeError):  # The simulation makes nodes before their loop runs.
                self._portal = NodeLoop(asyncio.get_running_loop())

    @property
    def sync(self) -> SyncWorkflowClient:
        """The same client with blocking calls. They must not be used in a thread that runs an event loop."""
        from perdure.client.sync import SyncWorkflowClient

        if self._portal is None:
            raise RuntimeError("this client was made where no event loop runs: it has no blocking form")
        return SyncWorkflowClient(self, self._portal)

    async def close(self) -> None:
        """Closes the connections that this event loop has; the client may be used again. Nothing to do for
        `node.client`, and idempotent."""
        if self._http is not None:
            await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    # --- starting ----------------------------------------------------------------------------------------------------

    async def schedule_new_workflow(
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
        """Starts a workflow, given as its function or name; returns the instance's id when the start is durable.

        `start_at`: when it begins, a time (naive means UTC) or a delay from now. Until then it is PENDING.

        `if_exists`: what if an instance with this id is there. "error" refuses the start with `AlreadyExists` while
        that one is active, and replaces it when it has finished; "return" leaves it as it is, whatever it is;
        "replace" terminates it, with its children, in the commit that begins the new one.

        `idempotency_key`: the same again is a success that changes nothing, also when the instance has finished or
        was purged; with another workflow, input or tags it is `KeyReused`. It belongs to the instance id; without
        one, the id is made of app, workflow and key. Kept for 24 hours, and as long as the instance is there.

        `tags`: names and values, for people.
        """
        name = workflow if isinstance(workflow, str) else self._workflows.workflow_name(workflow)
        payload = payloads.encode(input, f"the input of workflow {name!r}")
        return await self.start(
            name,
            payload,
            instance_id,
            start_at=start_at,
            if_exists=if_exists,
            idempotency_key=idempotency_key,
            tags=tags,
        )

    async def start(
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
        """As `schedule_new_workflow`, with the input as it is to be stored: JSON text."""
        return await self._workflows.start(
            name,
            payload,
            instance_id,
            start_at=start_at,
            if_exists=if_exists,
            idempotency_key=idempotency_key,
            tags=tags,
        )

    async def rerun_workflow(
        self,
        instance_id: str,
        *,
        from_event: int | None = None,
        new_instance_id: str | None = None,
        input: Any = SAME,
    ) -> str:
        """Runs a finished instance again, as a new one, and returns the id of that; the finished one stays as it is.

        `from_event`: the number of a history event by which the code asked for an activity, a child workflow or a
        timer. What was done before is taken over; that, and whatever had no answer then, is done anew. Without it
        everything is. `input`: that of the activity or child, or of the workflow, if another one. `InvalidState` while
        the instance is not finished; `NotFound` when there is no such event; `InvalidInput` when nothing can be run
        again from it; `AlreadyExists` when there is an instance with the new id.
        """
        payload = None if input is SAME else payloads.encode(input, "the input") or b"null"
        return await self._workflows.rerun(
            instance_id, from_event=from_event, new_instance_id=new_instance_id, payload=payload
        )

    # --- looking -----------------------------------------------------------------------------------------------------

    async def get_workflow_state(self, instance_id: str) -> WorkflowState | None:
        """The instance as of its last commit; None if there is none."""
        return await self._workflows.get(instance_id)

    get = get_workflow_state

    async def wait_for_workflow_start(
        self,
        instance_id: str,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the public name in Dapr too
    ) -> WorkflowState:
        """Returns when the instance has begun to run. `DeadlineExceeded` (a `TimeoutError`) after `timeout`
        seconds; `InstanceNotFound`."""
        return await self._workflows.wait(instance_id, until="started", timeout=_seconds(timeout))

    async def wait_for_workflow_completion(
        self,
        instance_id: str,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the public name in Dapr too
    ) -> WorkflowState:
        """Returns when the instance is completed, failed or terminated. Raises as `wait_for_workflow_start`."""
        return await self._workflows.wait(instance_id, until="finished", timeout=_seconds(timeout))

    async def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> WorkflowState:
        """Both of the above. Ending the wait, by time-out or cancellation, has no effect on the instance."""
        return await self._workflows.wait(instance_id, until=until, timeout=timeout)

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
        """Instances, newest first. Pages are stable: what comes or goes in between neither repeats nor hides any.
        The page's `cursor` is for the next call; None: there is no more. `created_from` and `created_to` are aware
        times, the second one exclusive."""
        return await self._workflows.list(
            statuses=statuses,
            name=name,
            id_prefix=id_prefix,
            created_from=created_from,
            created_to=created_to,
            cursor=cursor,
            limit=limit,
        )

    async def history(
        self, instance_id: str, *, start: int = 0, limit: int = 1000
    ) -> Page[tuple[int, Event]]:
        """The history events of the current execution, with their numbers; `cursor` is the next number."""
        return await self._workflows.history(instance_id, start=start, limit=limit)

    # --- steering ----------------------------------------------------------------------------------------------------

    async def raise_workflow_event(
        self, instance_id: str, event_name: str, *, data: Any = None, event_id: str | None = None
    ) -> None:
        """Hands an event to the instance; kept until the workflow waits for one of this name. `InvalidState` when
        the instance is finished.

        `event_id`: the same again is a success that changes nothing; with another name or other data it is
        `KeyReused`. Kept for 24 hours, also over continue-as-new, purge and another start of the id.
        """
        payload = payloads.encode(data, f"the data of event {event_name!r}")
        await self._workflows.raise_event(instance_id, event_name, payload, event_id=event_id)

    async def raise_event(
        self, instance_id: str, name: str, payload: Payload, *, event_id: str | None = None
    ) -> None:
        """As `raise_workflow_event`, with the data as it is to be stored: JSON text."""
        await self._workflows.raise_event(instance_id, name, payload, event_id=event_id)

    async def pause_workflow(self, instance_id: str, *, reason: str = "") -> None:
        """The code gets nothing more until it is resumed; what arrives meanwhile is kept. Idempotent."""
        await self._workflows.pause(instance_id, reason)

    async def resume_workflow(self, instance_id: str, *, reason: str = "") -> None:
        """Goes on after a pause, or tries a STALLED instance again. Idempotent."""
        await self._workflows.resume(instance_id, reason)

    async def cancel_workflow(self, instance_id: str, *, reason: str = "") -> None:
        """Lets the instance come to an end by itself: `WorkflowCancelled` is raised where its code waits, once, and what
        it waits for is cancelled with it: running activities are told, awaited child workflows cancelled. The code may
        undo what it has done, and waits for that as ever; when it lets the exception pass, the instance is TERMINATED.

        What has not begun ends at once; what is paused or stalled is cancelled when it goes on. Idempotent, and no
        effect on a finished instance."""
        await self._workflows.cancel(instance_id, reason)

    async def cancel(self, instance_id: str, reason: str = "") -> None:
        await self.cancel_workflow(instance_id, reason=reason)

    async def terminate_workflow(
        self, instance_id: str, *, output: Any = None, reason: str = "", recursive: bool = True
    ) -> None:
        """Ends the instance, and unless told otherwise its child workflows: at once, without another line of their code.
        Running activities are told (see `ActivityContext.cancelled`), their results are dropped. No effect on a finished
        instance."""
        payload = payloads.encode(output, "the output")
        await self._workflows.terminate(instance_id, payload, reason=reason, recursive=recursive)

    async def terminate(
        self, instance_id: str, payload: Payload = None, *, reason: str = "", recursive: bool = True
    ) -> None:
        """As `terminate_workflow`, with the output as it is to be stored: JSON text."""
        await self._workflows.terminate(instance_id, payload, reason=reason, recursive=recursive)

    async def purge_workflow(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> None:
        """Deletes what is left of a finished instance, and of its children. `InvalidState` while it is not
        finished; `force` deletes it even so, with whatever it still owes to others."""
        await self._workflows.purge(instance_id, recursive=recursive, force=force)

    async def pause(self, instance_id: str, reason: str = "") -> None:
        await self._workflows.pause(instance_id, reason)

    async def resume(self, instance_id: str, reason: str = "") -> None:
        await self._workflows.resume(instance_id, reason)

    purge = purge_workflow


def _end(portal: Portal, http: HttpWorkflows) -> None:
    portal.end(http.close())


def _seconds(timeout: float | timedelta | None) -> float | None:
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
