"""Starts, watches and steers workflow instances from within a node's process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
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
from perdure.workflow.events import Event, ExecutionStarted
from perdure.workflow.fork import finished, fork
from perdure.workflow.instance import describe
from perdure.workflow.metadata import EDGE_PREFIX
from perdure.workflow.moment import start_time
from perdure.workflow.monitor import OPERATIONS
from perdure.workflow.receipts import id_for_key
from perdure.workflow.requests import Cancel, Purge, Raise, Resume, Start, Suspend, Terminate, Wait
from perdure.workflow.state import RuntimeStatus, WorkflowState
from perdure.workflow.trace import INCOMING
from perdure.workflow.transfer import read
from perdure.workflow.transfers import Transfers
from perdure.workflow.workflows import IF_EXISTS, IfExists

#: Seconds for which a request is sent again while its owner cannot be reached.
RETRY_FOR = 60.0
#: Seconds between looks at a store that is behind.
BEHIND = 0.01
#: Bytes of an id at most.
ID_BYTES = 256
#: Bytes of one payload at most.
PAYLOAD_BYTES = 16 * 1024 * 1024

#: Tags of one instance at most.
TAGS = 100

#: What ids may not contain: '/' and control characters.
_FORBIDDEN = re.compile(r"[/\x00-\x1f\x7f-\x9f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

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

    def workflow_name(self, workflow: Callable[..., Any]) -> str:
        definition = self._engine.registry.workflow_index.get(workflow)
        if definition is None:
            name = getattr(workflow, "__name__", repr(workflow))
            raise InvalidInput(f"{name!r} is not registered on this app: decorate it with @app.workflow")
        return definition.name

    async def start(
        self,
        name: str,
        payload: Payload,
        instance_id: str | None = None,
        *,
        start_id: str | None = None,
        start_at: datetime | timedelta | None = None,
        if_exists: IfExists = "error",
        idempotency_key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        if not name:
            raise InvalidInput("the workflow's name is empty")
        engine = self._engine
        check_if_exists(if_exists)
        if idempotency_key is not None:
            check_key(idempotency_key, "the idempotency key")
        if instance_id is None:
            instance_id = (
                engine.clock.token(16).hex()
                if idempotency_key is None
                else id_for_key(engine.namespace, engine.app_id, name, idempotency_key)
            )
        check_id(instance_id)
        check_payload(payload, "the input")
        body = Start(
            name,
            engine.clock.token(16).hex() if start_id is None else start_id,
            payload,
            tags=checked_tags(tags) if tags else {},
            scheduled=None if start_at is None else start_time(start_at, engine.clock.now()),
            if_exists="" if if_exists == "error" else if_exists,
            key=idempotency_key or "",
        )
        await self._begin(instance_id, body)
        return instance_id

    async def rerun(
        self,
        instance_id: str,
        *,
        from_event: int | None = None,
        new_instance_id: str | None = None,
        payload: Payload = None,
    ) -> str:
        engine = self._engine
        check_id(instance_id)
        new = engine.clock.token(16).hex() if new_instance_id is None else new_instance_id
        check_id(new)
        check_payload(payload, "the input")
        if new == instance_id:
            raise InvalidInput("what is run again gets another id than the instance that it comes from")
        source = await read(engine.store, engine.actor(instance_id))
        if source is None:
            raise InstanceNotFound()
        if from_event is not None:
            record = fork(source, from_event, new, payload, engine.clock.now(), engine.clock.token)
            await Transfers(engine).restore(record)
            return new
        _, history = finished(source)
        first = history[0]
        assert isinstance(first, ExecutionStarted)
        # Its owner refuses it: whoever looks first and starts then may replace what another has begun and ended.
        start_id = engine.clock.token(16).hex()
        given = first.input if payload is None else payload
        await self._begin(new, Start(first.name, start_id, given, tags=first.tags, if_exists="refuse"))
        return new

    # --- looking -----------------------------------------------------------------------------------------------------

    async def get(self, instance_id: str) -> WorkflowState | None:
        check_id(instance_id)
        row = await self._engine.store.row(self._engine.actor(instance_id))
        return None if row is None else describe(row)

    async def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,  # noqa: ASYNC109 - the public name in Dapr too
    ) -> WorkflowState:
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

    async def raise_event(
        self, instance_id: str, name: str, payload: Payload, *, event_id: str | None = None
    ) -> None:
        if not name:
            raise InvalidInput("the event's name is empty")
        if event_id is not None:
            check_key(event_id, "the event id")
        check_payload(payload, "the event's data")
        await self._request(instance_id, "raise", Raise(name, payload, event_id or ""))

    async def pause(self, instance_id: str, reason: str = "") -> None:
        await self._request(instance_id, "suspend", Suspend(reason))

    async def resume(self, instance_id: str, reason: str = "") -> None:
        await self._request(instance_id, "resume", Resume(reason))

    async def cancel(self, instance_id: str, reason: str = "") -> None:
        await self._request(instance_id, "cancel", Cancel(reason))

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

        clock, monitor = self._engine.clock, self._engine.monitor
        began = clock.monotonic()
        give_up = began + RETRY_FOR
        self._engine.router.send(target, method, body, answered, identity=identity, give_up=give_up)
        try:
            result = await answer
        except PerdureError:
            monitor.refused(method, clock.monotonic() - began)
            raise
        monitor.answered[OPERATIONS.get(method, method)].append(clock.monotonic() - began)
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


def check_key(key: str, what: str) -> None:
    """`InvalidInput` unless it is 1 to 256 bytes without control characters."""
    if not isinstance(key, str):
        raise InvalidInput(f"{what} is text, not {type(key).__name__}")
    if not 1 <= len(key.encode("utf-8", "surrogatepass")) <= ID_BYTES or _CONTROL.search(key):
        raise InvalidInput(
            f"{what} has 1 to {ID_BYTES} bytes and no control characters; this is {key[:80]!r}"
        )


def check_if_exists(given: str) -> None:
    """`InvalidInput` for what is no `IfExists`."""
    if given not in IF_EXISTS:
        raise InvalidInput(f"if_exists is {given!r}; it must be one of: {', '.join(IF_EXISTS)}")


def checked_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """`InvalidInput` unless they are at most 100 texts with names, of 256 bytes each at most."""
    found = dict(tags)
    if len(found) > TAGS:
        raise InvalidInput(f"there are {len(found)} tags; at most {TAGS} are allowed")
    for name, value in found.items():
        check_key(name, "the name of a tag")
        if value != "":
            check_key(value, f"the tag {name!r}")
    return found


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
