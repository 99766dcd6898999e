"""Workflow instances over HTTP."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from perdure.client.answers import (
    About,
    read_about,
    read_events,
    read_started,
    read_state,
    read_states,
)
from perdure.client.connection import Connection
from perdure.duration import format_go, format_time
from perdure.errors import AlreadyExists, DeadlineExceeded, InstanceNotFound, InvalidInput
from perdure.payload import Payload
from perdure.statestore.contract import Page
from perdure.workflow.client import (
    check_id,
    check_if_exists,
    check_key,
    check_limit,
    check_payload,
    check_statuses,
    checked_tags,
    microseconds,
    not_within,
)
from perdure.workflow.events import Event
from perdure.workflow.moment import start_time
from perdure.workflow.names import remembered
from perdure.workflow.registry import function_name
from perdure.workflow.state import WorkflowState
from perdure.workflow.workflows import IfExists

#: Seconds that one request waits; then the next one does.
STEP = 25.0
#: Seconds between two such requests at least.
AGAIN = 0.1

_BASE = "/v1.0/workflows/dapr"
#: The ids that the start call takes that is Dapr's; the actor call takes any.
_DAPR_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Query = list[tuple[str, str]]


class HttpWorkflows:
    """The workflow instances of a node's app (`perdure.workflow.workflows.Workflows`), asked over HTTP.

    What a node that gives no answer may have done already is asked again only if that does no harm: a start carries
    its start id, and what else changes an instance may come twice, but for an event.
    """

    def __init__(self, server: str, *, api_token: str | None, app_id: str | None, retry_for: float) -> None:
        self._connection = Connection(server, api_token=api_token, retry_for=retry_for)
        self._app_id = app_id
        self._about: About | None = None

    async def close(self) -> None:
        await self._connection.close()

    @property
    def _server(self) -> str:
        return self._connection.server

    def _query(self, **given: str | None) -> Query:
        found = [(name, value) for name, value in given.items() if value is not None]
        return found if self._app_id is None else [*found, ("appID", self._app_id)]

    # --- starting ----------------------------------------------------------------------------------------------------

    def workflow_name(self, workflow: Callable[..., Any]) -> str:
        name = remembered(workflow) or function_name(workflow)
        if not name:
            raise InvalidInput(f"{workflow!r} has no name: give the workflow's name as text")
        return name

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
        check_if_exists(if_exists)
        if idempotency_key is not None:
            check_key(idempotency_key, "the idempotency key")
        elif instance_id is None:
            # Made here, so that asking again means the same instance.
            instance_id = secrets.token_hex(16)
        if instance_id is not None:
            check_id(instance_id)
        check_payload(payload, "the input")
        query = self._query(
            startID=start_id or secrets.token_hex(16),
            startTime=None if start_at is None else _start_time(start_at),
            ifExists=None if if_exists == "error" else if_exists,
        )
        if tags:
            query += [("tag", f"{name}={value}") for name, value in checked_tags(tags).items()]
        headers = _key(idempotency_key)
        if instance_id is None or _DAPR_ID.fullmatch(instance_id):
            path = f"{_BASE}/{quote(name, safe='')}/start"
            if instance_id is not None:
                query.append(("instanceID", instance_id))
            body = payload
        else:
            path = f"/v1.0/actors/{await self._workflow_type()}/{quote(instance_id, safe='')}/method/start"
            body = _started_by_call(name, payload)
        answer = await self._connection.request("POST", path, query, body, headers=headers)
        return read_started(answer, self._server)

    async def rerun(
        self,
        instance_id: str,
        *,
        from_event: int | None = None,
        new_instance_id: str | None = None,
        payload: Payload = None,
    ) -> str:
        # Made here, so that asking again means the same instance.
        new = secrets.token_hex(16) if new_instance_id is None else new_instance_id
        check_id(new)
        check_payload(payload, "the input")
        query = self._query(instanceID=new, fromEvent=None if from_event is None else str(from_event))
        path = f"{_path(instance_id)}/rerun"
        # If it was lost whether it exists, it does.
        await self._connection.request("POST", path, query, payload, done=AlreadyExists)
        return new

    async def _workflow_type(self) -> str:
        """The actor type of the app's workflows, as a part of a path."""
        if self._about is None:
            self._about = read_about(
                await self._connection.request("GET", "/v1.0/metadata", []), self._server
            )
        return quote(f"dapr.internal.{self._about.namespace}.{self._app_id or self._about.id}.workflow")

    # --- looking -----------------------------------------------------------------------------------------------------

    async def get(self, instance_id: str) -> WorkflowState | None:
        try:
            answer = await self._connection.request("GET", _path(instance_id), self._query())
        except InstanceNotFound:
            return None
        return read_state(answer, self._server)

    async def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,  # noqa: ASYNC109 - the public name in Dapr too
    ) -> WorkflowState:
        path = f"{_path(instance_id)}/wait"
        begun = time.monotonic()
        end = None if timeout is None else begun + max(timeout, 0)
        while True:
            asked = time.monotonic()
            step = STEP if end is None else min(STEP, max(end - asked, 0))
            query = self._query(until=until, timeout=f"{step:.3f}")
            try:
                answer = await self._connection.request("GET", path, query, until=end)
                return read_state(answer, self._server)
            except DeadlineExceeded:
                if end is not None and time.monotonic() >= end:
                    raise not_within(instance_id, until, timeout) from None
            # A node that says so too early must not be asked without a pause.
            await asyncio.sleep(max(AGAIN - (time.monotonic() - asked), 0))

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
        query = self._query(
            status=",".join(statuses) or None,
            name=name,
            prefix=id_prefix or None,
            createdFrom=_time(created_from),
            createdTo=_time(created_to),
            cursor=cursor,
            limit=str(limit),
        )
        return read_states(await self._connection.request("GET", _BASE, query), self._server)

    async def history(
        self, instance_id: str, *, start: int = 0, limit: int = 1000
    ) -> Page[tuple[int, Event]]:
        query = self._query(start=str(start), limit=str(limit), stored="true")
        answer = await self._connection.request("GET", f"{_path(instance_id)}/history", query)
        return read_events(answer, self._server)

    # --- steering ----------------------------------------------------------------------------------------------------

    async def raise_event(
        self, instance_id: str, name: str, payload: Payload, *, event_id: str | None = None
    ) -> None:
        if not name:
            raise InvalidInput("the event's name is empty")
        if event_id is not None:
            check_key(event_id, "the event id")
        check_payload(payload, "the event's data")
        path = f"{_path(instance_id)}/raiseEvent/{quote(name, safe='')}"
        # Without an id, the event would come twice.
        await self._connection.request(
            "POST", path, self._query(), payload, headers=_key(event_id), repeatable=event_id is not None
        )

    async def pause(self, instance_id: str, reason: str = "") -> None:
        query = self._query(reason=reason or None)
        await self._connection.request("POST", f"{_path(instance_id)}/pause", query)

    async def resume(self, instance_id: str, reason: str = "") -> None:
        query = self._query(reason=reason or None)
        await self._connection.request("POST", f"{_path(instance_id)}/resume", query)

    async def cancel(self, instance_id: str, reason: str = "") -> None:
        query = self._query(reason=reason or None)
        await self._connection.request("POST", f"{_path(instance_id)}/cancel", query)

    async def terminate(
        self, instance_id: str, payload: Payload = None, *, reason: str = "", recursive: bool = True
    ) -> None:
        path = f"{_path(instance_id)}/terminate"
        check_payload(payload, "the output")
        query = self._query(reason=reason or None, recursive=_flag(recursive))
        await self._connection.request("POST", path, query, payload)

    async def purge(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> None:
        query = self._query(recursive=_flag(recursive), force=_flag(force))
        path = f"{_path(instance_id)}/purge"
        await self._connection.request("POST", path, query, done=InstanceNotFound)


def _path(instance_id: str) -> str:
    check_id(instance_id)
    return f"{_BASE}/{quote(instance_id, safe='')}"


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _time(moment: datetime | None) -> str | None:
    found = microseconds(moment)
    return None if found is None else format_time(found)


def _started_by_call(name: str, payload: Payload) -> bytes:
    """The body of the actor call, around the input as it is."""
    return b'{"name":' + msgspec.json.encode(name) + (b',"input":' + payload if payload else b"") + b"}"


def _key(key: str | None) -> dict[str, str] | None:
    return None if key is None else {"Idempotency-Key": key}


def _start_time(given: datetime | timedelta) -> str:
    """A delay stays one: it counts from when the node takes the start."""
    if isinstance(given, timedelta):
        start_time(given, 0)  # Whether it can be one.
        return format_go(max(given // timedelta(microseconds=1), 0))
    return format_time(start_time(given, 0))
