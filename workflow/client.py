"""Starts, watches and steers workflow instances from within a node's process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from perdure.actors.messages import Identity
from perdure.errors import (
    DeadlineExceeded,
    InstanceNotFound,
    InvalidId,
    InvalidInput,
    PayloadTooLarge,
    PerdureError,
    StoreError,
    Unavailable,
)
from perdure.payload import Payload
from perdure.statestore.contract import ActorId, InstanceFilter, Page
from perdure.workflow.engine import WorkflowEngine
from perdure.workflow.events import Event
from perdure.workflow.instance import describe
from perdure.workflow.metadata import EDGE_PREFIX
from perdure.workflow.requests import Purge, Raise, Resume, Start, Suspend, Terminate, Wait
from perdure.workflow.state import RuntimeStatus, WorkflowState
from perdure.workflow.trace import INCOMING

#: Seconds for which a request is sent again while its owner cannot be reached.
RETRY_FOR = 60.0
#: Seconds between looks at a store that is behind.
BEHIND = 0.01
#: Bytes of an id at most.
ID_BYTES = 256
#: Bytes of one payload at most.
PAYLOAD_BYTES = 16 * 1024 * 1024

#: What ids may not contain: '/' and control characters.
_FORBIDDEN = re.compile(r"[/\x00-\x1f\x7f-\x9f]")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EngineClient:
    """The workflow instances of a node's app (`perdure.workflow.workflows.Workflows`), asked within its process.

    What is acknowledged is durable. Each change is sent with an identity, again if need be, and takes effect once.
    Raises `InvalidId`, `InvalidInput` and `PayloadTooLarge` for what the caller got wrong, `InstanceNotFound` for an
    unknown id, and `DeadlineExceeded` when no owner answered for 60 seconds (the request may then still take effect).
    """

    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine
        self._sender = EDGE_PREFIX + engine.clock.token(8).hex()
        self._number = 0
        #: Per target the numbers that are not answered.
        self._pending: dict[ActorId, set[int]] = {}

    # --- starting ----------------------------------------------------------------------------------------------------

    async def schedule_new_workflow(
        self, workflow: Workflow, *, input: Any = None, instance_id: str | None = None
    ) -> str:
        """Starts a workflow, given as its function or name; returns the instance's id when the start is durable.

        `AlreadyExists` when an instance with this id is still active; a finished one is replaced.
        """
        name, encoded = self._named(workflow, input)
        return await self.start(name, encoded, instance_id)

    async def start(self, name: str, payload: Payload, instance_id: str | None = None) -> str:
        """As `schedule_new_workflow`, with the input as it is to be stored: JSON text."""
        if not name:
            raise InvalidInput("the workflow's name is empty")
        if instance_id is None:
            instance_id = self._engine.clock.token(16).hex()
        check_id(instance_id)
        check_payload(payload, "the input")
        start_id = self._engine.clock.token(16).hex()
        await self._begin(instance_id, Start(name, start_id, payload))
        return instance_id

    def _named(self, workflow: Workflow, input: Any) -> tuple[str, Payload]:
        if isinstance(workflow, str):
            return workflow, payloads.encode(input, f"the input of workflow {workflow!r}")
        definition = self._engine.registry.workflow_index.get(workflow)
        if definition is None:
            name = getattr(workflow, "__name__", repr(workflow))
            raise InvalidInput(f"{name!r} is not registered on this app: decorate it with @app.workflow")
        return definition.name, definition.encode_input(input)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def get_workflow_state(self, instance_id: str) -> WorkflowState | None:
        """The instance as of its last commit; None if there is none."""
        check_id(instance_id)
        row = await self._engine.store.row(self._engine.actor(instance_id))
        return None if row is None else describe(row)

    get = get_workflow_state

    async def wait_for_workflow_start(
        self,
        instance_id: str,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the public name in Dapr too
    ) -> WorkflowState:
        """Returns when the instance has begun to run. `DeadlineExceeded` (a `TimeoutError`) after `timeout`
        seconds; `InstanceNotFound`."""
        return await self.wait(instance_id, until="started", timeout=_seconds(timeout))

    async def wait_for_workflow_completion(
        self,
        instance_id: str,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the public name in Dapr too
    ) -> WorkflowState:
        """Returns when the instance is completed, failed or terminated. Raises as `wait_for_workflow_start`."""
        return await self.wait(instance_id, until="finished", timeout=_seconds(timeout))

    async def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> WorkflowState:
        """Both of the above. Ending the wait, by time-out or cancellation, has no effect on the instance."""
        check_id(instance_id)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        state = await self._first_row(instance_id, until)
        if state is not None:
            return state
        self._engine.router.send(
            self._engine.actor(instance_id), "wait", Wait(until), lambda value: _resolve(answer, value)
        )
        try:
            async with asyncio.timeout(timeout):
                result: WorkflowState = await answer
                return result
        except TimeoutError:
            raise not_within(instance_id, until, timeout) from None

    async def _first_row(self, instance_id: str, until: str) -> WorkflowState | None:
        """An instance that is not in memory and satisfies the wait is not loaded for it."""
        actor = self._engine.actor(instance_id)
        if actor in self._engine.host.activations:
            return None
        state = await self.get(instance_id)
        if state is None:
            return None
        finished = state.runtime_status.finished
        return state if finished or (until == "started" and state.started_at is not None) else None

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
        check_statuses(statuses)
        check_limit(limit)
        where = InstanceFilter(
            type=self._engine.name,
            statuses=tuple(statuses),
            name=name,
            id_prefix=id_prefix,
            created_from=microseconds(created_from),
            created_to=microseconds(created_to),
        )
        try:
            page = await self._engine.store.query(where, cursor, limit)
        except StoreError as error:
            # Only the store can read its cursors: what it refuses is the caller's, unless it cannot answer at all.
            if cursor is None or isinstance(error, Unavailable):
                raise
            raise InvalidInput(f"the cursor is not one that a list gave: {error.message}") from error
        return Page([describe(row) for row in page.items], page.cursor)

    async def history(
        self, instance_id: str, *, start: int = 0, limit: int = 1000
    ) -> Page[tuple[int, Event]]:
        check_id(instance_id)
        if await self.get(instance_id) is None:
            raise InstanceNotFound()
        items: list[tuple[int, Event]] = []
        async for number, event in self._engine.history(self._engine.actor(instance_id), start=start):
            if len(items) == limit:
                return Page(items, str(number))
            items.append((number, event))
        return Page(items)

    # --- steering ----------------------------------------------------------------------------------------------------

    async def raise_event(self, instance_id: str, name: str, payload: Payload) -> None:
        if not name:
            raise InvalidInput("the event's name is empty")
        check_payload(payload, "the event's data")
        await self._request(instance_id, "raise", Raise(name, payload))

    async def pause(self, instance_id: str, reason: str = "") -> None:
        await self._request(instance_id, "suspend", Suspend(reason))

    async def resume(self, instance_id: str, reason: str = "") -> None:
        await self._request(instance_id, "resume", Resume(reason))

    async def terminate(
        self, instance_id: str, payload: Payload = None, *, reason: str = "", recursive: bool = True
    ) -> None:
        check_payload(payload, "the output")
        await self._request(instance_id, "terminate", Terminate(reason, payload, recursive))

    async def purge(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> None:
        await self._request(instance_id, "purge", Purge(recursive, force))

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _begin(self, instance_id: str, body: Start) -> None:
        """Sends a start, with the trace context of whoever asks for it."""
        tracing = self._engine.tracing
        if tracing is None:
            incoming = INCOMING.get()
            told = body if incoming is None else msgspec.structs.replace(body, trace=incoming)
            await self._request(instance_id, "start", told)
            return
        with tracing.starting(body.name, instance_id) as context:
            await self._request(instance_id, "start", msgspec.structs.replace(body, trace=context))

    async def _request(self, instance_id: str, method: str, body: msgspec.Struct) -> Any:
        check_id(instance_id)
        while self._engine.host.committer.full:
            # The store is behind: whoever starts work faster than it can be kept has to wait here.
            await self._engine.clock.sleep(BEHIND)
        target = self._engine.actor(instance_id)
        self._number += 1
        number = self._number
        pending = self._pending.setdefault(target, set())
        identity = Identity(self._sender, number, min(pending, default=number))
        pending.add(number)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(value: Any) -> None:
            pending.discard(number)
            if not pending:
                self._pending.pop(target, None)
            _resolve(answer, value)

        give_up = self._engine.clock.monotonic() + RETRY_FOR
        self._engine.router.send(target, method, body, answered, identity=identity, give_up=give_up)
        clock, monitor = self._engine.clock, self._engine.monitor
        began = clock.monotonic()
        try:
            result = await answer
        except PerdureError:
            monitor.answered(method, clock.monotonic() - began, well=False)
            raise
        monitor.answered(method, clock.monotonic() - began, well=True)
        return result


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if future.done():
        return
    if isinstance(value, PerdureError):
        future.set_exception(value)
    else:
        future.set_result(value)


def check_id(instance_id: str) -> None:
    """`InvalidId` unless it is 1 to 256 bytes without control characters and '/'."""
    if not isinstance(instance_id, str):
        raise InvalidId(f"an instance id is text, not {type(instance_id).__name__}")
    try:
        size = len(instance_id.encode())
    except UnicodeEncodeError:
        raise InvalidId(f"the instance id {instance_id!a} is not valid Unicode") from None
    if not 1 <= size <= ID_BYTES:
        raise InvalidId(f"an instance id has 1 to {ID_BYTES} bytes; this one has {size}")
    found = _FORBIDDEN.search(instance_id)
    if found is not None:
        raise InvalidId(f"the instance id {instance_id!r} contains {found.group()!r}, which ids may not")


def check_payload(payload: Payload, what: str) -> None:
    if payload is not None and len(payload) > PAYLOAD_BYTES:
        raise PayloadTooLarge(f"{what} has {len(payload)} bytes; at most {PAYLOAD_BYTES} are allowed")


def microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidInput(f"the time {moment.isoformat()} has no time zone: give an aware one")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def check_statuses(statuses: Collection[str]) -> None:
    """`InvalidInput` for one that does not exist."""
    unknown = set(statuses) - set(RuntimeStatus)
    if unknown:
        raise InvalidInput(f"unknown status {sorted(unknown)}: use any of {', '.join(RuntimeStatus)}")


def check_limit(limit: int) -> None:
    """`InvalidInput` unless a page may have so many instances."""
    if not 1 <= limit <= 1000:
        raise InvalidInput(f"limit is {limit}; it must be 1 to 1000")


def not_within(instance_id: str, until: str, timeout: float | None) -> DeadlineExceeded:
    """What a wait raises that took too long."""
    return DeadlineExceeded(f"instance {instance_id!r} has not {until} within {timeout} seconds; it goes on")
