"""The workflow API: Dapr's calls, and list, history and wait beside them.

Where Dapr answers 500 to a request that is at fault, this answers 409 (the id is taken; the state does not allow it)
or 404 (no such instance), with Dapr's error codes.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Literal

import msgspec
from aiohttp import web

from perdure.errors import DeadlineExceeded, InstanceNotFound
from perdure.sidecar.decoded import event_json, rfc3339
from perdure.sidecar.errors import Handler, Refusal
from perdure.sidecar.facade import Facade
from perdure.sidecar.polls import LongPolls
from perdure.sidecar.requests import (
    checked_id,
    dapr_instance_id,
    flag,
    instance_id,
    json_body,
    malformed,
    moment,
    name_in_path,
    request_key,
    seconds,
    start_id,
    start_options,
    text,
    whole,
)
from perdure.sidecar.routes import RETRY_AFTER, Route, accepted, json_response, started_response
from perdure.statestore.contract import Page
from perdure.workflow.events import Event, encode
from perdure.workflow.state import RuntimeStatus, WorkflowState

#: How long a wait lasts unless the request says; it may say up to MAX_WAIT_SECONDS.
DEFAULT_WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS = 3600.0
MAX_LIST = 1000
MAX_HISTORY = 1000
MAX_NUMBER = 10**12


def state_json(state: WorkflowState) -> dict[str, Any]:
    """An instance in Dapr's form, with what Dapr does not tell after it."""
    more = {
        "startedAt": state.started_at,
        "completedAt": state.completed_at,
        "scheduledAt": state.scheduled_at,
    }
    return {
        "instanceID": state.instance_id,
        "workflowName": state.name,
        "createdAt": rfc3339(state.created_at),
        "lastUpdatedAt": rfc3339(state.last_updated_at),
        "runtimeStatus": state.runtime_status.value.upper(),
        "properties": _properties(state),
        **_more_of_failure(state),
        **{name: rfc3339(moment) for name, moment in more.items() if moment is not None},
        "generation": state.generation,
        **({"executionID": state.execution_id} if state.execution_id else {}),
        **({"parentInstanceID": state.parent_instance_id} if state.parent_instance_id else {}),
        **({"reason": state.reason} if state.reason else {}),
        **({"version": state.version} if state.version else {}),
        **({"tags": state.tags} if state.tags else {}),
    }


def _properties(state: WorkflowState) -> dict[str, str]:
    failure = state.failure_details
    # An instance that was terminated may have both.
    failed = state.runtime_status is RuntimeStatus.FAILED
    found = {
        "dapr.workflow.input": state.serialized_input,
        "dapr.workflow.output": None if failed else state.serialized_output,
        "dapr.workflow.custom_status": state.serialized_custom_status,
    }
    if failure:
        found["dapr.workflow.failure.error_type"] = failure.type
        found["dapr.workflow.failure.error_message"] = failure.message
        found["dapr.workflow.failure.stack_trace"] = failure.stack or None
    return {name: value for name, value in found.items() if value is not None}


def _more_of_failure(state: WorkflowState) -> dict[str, Any]:
    """What Dapr's properties have no place for, as histories show it."""
    said = {"type", "message", "stack"}
    found: dict[str, Any] = msgspec.to_builtins(state.failure_details) or {}
    more = {name: value for name, value in found.items() if name not in said}
    return {"failure": more} if more else {}


def list_json(page: Page[WorkflowState]) -> dict[str, Any]:
    found: dict[str, Any] = {"instances": [state_json(state) for state in page.items]}
    return found if page.cursor is None else {**found, "cursor": page.cursor}


def history_json(page: Page[tuple[int, Event]], *, stored: bool = False) -> dict[str, Any]:
    """`stored`: each event as the store has it, msgpack in base64, for whoever wants exactly that."""
    found: dict[str, Any] = {
        "events": [
            {
                "number": number,
                **({"stored": b64encode(encode(event)).decode()} if stored else event_json(event)),
            }
            for number, event in page.items
        ]
    }
    return found if page.cursor is None else {**found, "next": int(page.cursor)}


class WorkflowApi:
    def __init__(self, facade: Facade, polls: LongPolls) -> None:
        self._workflows = facade.workflows
        self._app_id = facade.app_id
        self._polls = polls

    def routes(self, version: str) -> list[Route]:
        base = f"/{version}/workflows/{{component:[^/]*}}"
        one = f"{base}/{{id:[^/]*}}"
        routes = [
            Route("POST", f"{base}/{{name:[^/]*}}/start", self.start, "ERR_START_WORKFLOW"),
            Route("GET", base, self.list, "ERR_LIST_WORKFLOWS"),
            Route("GET", one, self.get, "ERR_GET_WORKFLOW"),
            Route("POST", f"{one}/raiseEvent/{{event:[^/]*}}", self.raise_event, "ERR_RAISE_EVENT_WORKFLOW"),
            Route("POST", f"{one}/rerun", self.rerun, "ERR_RERUN_WORKFLOW"),
            Route("POST", f"{one}/pause", self.pause, "ERR_PAUSE_WORKFLOW"),
            Route("POST", f"{one}/resume", self.resume, "ERR_RESUME_WORKFLOW"),
            Route("POST", f"{one}/cancel", self.cancel, "ERR_CANCEL_WORKFLOW"),
            Route("POST", f"{one}/terminate", self.terminate, "ERR_TERMINATE_WORKFLOW"),
            Route("POST", f"{one}/purge", self.purge, "ERR_PURGE_WORKFLOW"),
            Route("GET", f"{one}/history", self.history, "ERR_GET_WORKFLOW_HISTORY"),
            Route("GET", f"{one}/wait", self.wait, "ERR_WAIT_WORKFLOW"),
        ]
        return [route._replace(handler=self._of_app(route.handler)) for route in routes]

    def _of_app(self, handler: Handler) -> Handler:
        """Refuses what is meant for another app, as Dapr's `appID` says."""

        async def checked(request: web.Request) -> web.StreamResponse:
            wanted = request.query.get("appID")
            if wanted and wanted != self._app_id:
                raise Refusal(
                    404,
                    "ERR_WORKFLOW_APP_ID_INVALID",
                    f"this node serves the app {self._app_id!r}, not {wanted[:100]!r}: ask one of its nodes",
                )
            return await handler(request)

        return checked

    async def start(self, request: web.Request) -> web.Response:
        name = name_in_path(request, "name", "workflow name", "ERR_WORKFLOW_NAME")
        given = dapr_instance_id(request.query.get("instanceID"))
        started = await self._workflows.start(
            name, await json_body(request), given, start_id=start_id(request), **start_options(request)
        )
        version, _, component = request.rel_url.raw_path.split("/")[1:4]
        return started_response(started, f"/{version}/workflows/{component}")

    async def rerun(self, request: web.Request) -> web.Response:
        new = request.query.get("instanceID")
        event = request.query.get("fromEvent")
        started = await self._workflows.rerun(
            instance_id(request),
            from_event=None if event is None else whole(request, "fromEvent", 0, 0, MAX_NUMBER),
            new_instance_id=checked_id(new, "instance id", "ERR_INSTANCE_ID") if new else None,
            payload=await json_body(request),
        )
        version, _, component = request.rel_url.raw_path.split("/")[1:4]
        return started_response(started, f"/{version}/workflows/{component}")

    async def get(self, request: web.Request) -> web.Response:
        id = instance_id(request)
        state = await self._workflows.get(id)
        if state is None:
            raise InstanceNotFound(f"there is no workflow instance {id!r}")
        return _state_response(state)

    async def list(self, request: web.Request) -> web.Response:
        page = await self._workflows.list(
            statuses=_statuses(request),
            name=text(request, "name") or None,
            id_prefix=text(request, "prefix"),
            created_from=moment(request, "createdFrom"),
            created_to=moment(request, "createdTo"),
            cursor=text(request, "cursor", limit=4096) or None,
            limit=whole(request, "limit", 100, 1, MAX_LIST),
        )
        return json_response(list_json(page))

    async def history(self, request: web.Request) -> web.Response:
        page = await self._workflows.history(
            instance_id(request),
            start=whole(request, "start", 0, 0, MAX_NUMBER),
            limit=whole(request, "limit", MAX_HISTORY, 1, MAX_HISTORY),
        )
        return json_response(history_json(page, stored=flag(request, "stored", False)))

    async def wait(self, request: web.Request) -> web.Response:
        id = instance_id(request)
        until = _until(request)
        timeout = seconds(request, "timeout", DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS)
        try:
            state = await self._polls.run(request, self._workflows.wait(id, until=until, timeout=timeout))
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{id!r} has not {until} within {timeout:g} s; ask again") from error
        return _state_response(state)

    async def raise_event(self, request: web.Request) -> web.Response:
        id = instance_id(request)
        event = name_in_path(request, "event", "event name", "ERR_WORKFLOW_EVENT_NAME")
        await self._workflows.raise_event(id, event, await json_body(request), event_id=request_key(request))
        return accepted()

    async def pause(self, request: web.Request) -> web.Response:
        await self._workflows.pause(instance_id(request), text(request, "reason"))
        return accepted()

    async def resume(self, request: web.Request) -> web.Response:
        await self._workflows.resume(instance_id(request), text(request, "reason"))
        return accepted()

    async def cancel(self, request: web.Request) -> web.Response:
        await self._workflows.cancel(instance_id(request), text(request, "reason"))
        return accepted()

    async def terminate(self, request: web.Request) -> web.Response:
        id = instance_id(request)
        reason = text(request, "reason")
        recursive = flag(request, "recursive", True)
        output = await json_body(request)
        await self._workflows.terminate(id, output, reason=reason, recursive=recursive)
        return accepted()

    async def purge(self, request: web.Request) -> web.Response:
        id = instance_id(request)
        recursive = flag(request, "recursive", True)
        await self._workflows.purge(id, recursive=recursive, force=flag(request, "force", False))
        return accepted()


def _state_response(state: WorkflowState) -> web.Response:
    response = json_response(state_json(state))
    if not state.runtime_status.finished:
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def _until(request: web.Request) -> Literal["started", "finished"]:
    value = request.query.get("until", "finished")
    if value == "started":
        return "started"
    if value == "finished":
        return "finished"
    raise malformed(f"until must be started or finished, not {value[:40]!r}")


def _statuses(request: web.Request) -> set[str]:
    """`status` may be repeated, and may hold several, separated by commas; case does not matter."""
    given = ",".join(request.query.getall("status", ())).lower()
    found = {status.strip() for status in given.split(",")} - {""}
    unknown = found - {status.value for status in RuntimeStatus}
    if unknown:
        known = ", ".join(status.value for status in RuntimeStatus)
        raise malformed(f"status {min(unknown)[:40]!r} does not exist; there are: {known}")
    return found
