"""The actor API: method calls, state keys and reminders for a look, and starting a workflow by an actor call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from perdure.errors import NotRegistered
from perdure.sidecar.decoded import decode_value, time_text
from perdure.sidecar.errors import Refusal
from perdure.sidecar.facade import Facade
from perdure.sidecar.requests import (
    body_bytes,
    check_json,
    checked_id,
    checked_name,
    json_body,
    malformed,
    name_in_path,
    text,
    whole,
)
from perdure.sidecar.routes import Route, json_response
from perdure.statestore.contract import ActorId, Page, Reminder

#: Actor types of the runtime itself. Users can look at their state, and call nothing but `start` of a workflow.
RESERVED = "dapr.internal."
MAX_KEYS = 1000


class StartRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the actor call that starts a workflow."""

    name: str
    input: msgspec.Raw = msgspec.Raw()


_start_request = msgspec.json.Decoder(StartRequest)


def keys_json(page: Page[tuple[str, bytes]]) -> dict[str, Any]:
    found: dict[str, Any] = {"keys": [{"key": key, "size": len(value)} for key, value in page.items]}
    return found if page.cursor is None else {**found, "cursor": page.cursor}


def reminders_json(reminders: Sequence[Reminder]) -> dict[str, Any]:
    return {
        "reminders": [
            {
                "name": reminder.name,
                "dueTime": time_text(reminder.due),
                "data": decode_value("reminder", reminder.data) if reminder.data else None,
            }
            for reminder in reminders
        ]
    }


class ActorApi:
    def __init__(self, facade: Facade) -> None:
        self._actors = facade.actors
        self._workflows = facade.workflows
        self._workflow_type = f"{RESERVED}{facade.namespace}.{facade.app_id}.workflow"

    def routes(self, version: str) -> list[Route]:
        one = f"/{version}/actors/{{type:[^/]*}}/{{id:[^/]*}}"
        method = f"{one}/method/{{method:[^/]*}}"
        calls = [
            Route(verb, method, self.call, "ERR_ACTOR_INVOKE_METHOD", safe=False)
            for verb in ("POST", "PUT", "GET", "DELETE")
        ]
        return [
            *calls,
            Route("GET", f"{one}/state", self.keys, "ERR_ACTOR_STATE_GET"),
            Route("GET", f"{one}/state/{{key:[^/]*}}", self.value, "ERR_ACTOR_STATE_GET"),
            Route("GET", f"{one}/reminders", self.reminders, "ERR_ACTOR_REMINDER_GET"),
        ]

    async def call(self, request: web.Request) -> web.Response:
        actor = _actor(request)
        method = name_in_path(request, "method", "method name", "ERR_ACTOR_METHOD")
        if actor.type.startswith(RESERVED):
            return await self._internal(request, actor, method)
        try:
            result = await self._actors.call(actor.type, actor.id, method, await json_body(request))
        except NotRegistered as error:
            raise Refusal(404, "ERR_ACTOR_NO_ADDRESS", error.message) from error
        if result is None:
            return web.Response(status=204)
        return web.Response(body=result, content_type="application/json")

    async def _internal(self, request: web.Request, actor: ActorId, method: str) -> web.Response:
        if method != "start" or not actor.type.endswith(".workflow") or request.method not in ("POST", "PUT"):
            raise Refusal(
                403,
                "ERR_ACTOR_TYPE_RESERVED",
                f"{actor.type} belongs to the runtime: only POST …/method/start of a workflow can be called",
            )
        if actor.type != self._workflow_type:
            raise Refusal(
                404, "ERR_ACTOR_NO_ADDRESS", f"this node serves {self._workflow_type}, not {actor.type}"
            )
        wanted = _wanted(await body_bytes(request))
        started = await self._workflows.start(wanted.name, bytes(wanted.input) or None, actor.id)
        return json_response({"instanceID": started}, 202)

    async def keys(self, request: web.Request) -> web.Response:
        page = await self._actors.keys(
            _actor(request),
            text(request, "prefix"),
            text(request, "start") or None,
            whole(request, "limit", 100, 1, MAX_KEYS),
        )
        return json_response(keys_json(page))

    async def value(self, request: web.Request) -> web.Response:
        """204 for a key that a user's actor does not have, as Dapr answers."""
        actor = _actor(request)
        key = name_in_path(request, "key", "state key", "ERR_ACTOR_STATE_KEY")
        # `start` is inclusive: if the key is there it is the first.
        page = await self._actors.keys(actor, key, key, 1)
        if page.items and page.items[0][0] == key:
            return json_response(decode_value(key, page.items[0][1]))
        if actor.type.startswith(RESERVED):
            raise Refusal(404, "ERR_ACTOR_STATE_NOT_FOUND", f"{actor} has no state key {key!r}")
        return web.Response(status=204)

    async def reminders(self, request: web.Request) -> web.Response:
        return json_response(reminders_json(await self._actors.reminders(_actor(request))))


def _actor(request: web.Request) -> ActorId:
    kind, id = request.match_info["type"], request.match_info["id"]
    if not kind or not id:
        raise Refusal(400, "ERR_ACTOR_INSTANCE_MISSING", "the path has no actor type or no actor id")
    return ActorId(
        checked_id(kind, "actor type", "ERR_ACTOR_TYPE"),
        checked_id(id, "actor id", "ERR_ACTOR_ID"),
    )


def _wanted(body: bytes) -> StartRequest:
    example = 'send {"name": "<workflow>", "input": <any JSON>}'
    if not body:
        raise malformed(f"the body is empty; {example}")
    check_json(body)
    try:
        wanted = _start_request.decode(body)
    except msgspec.MsgspecError as error:
        raise malformed(f"the body is not a start request: {error}; {example}") from None
    checked_name(wanted.name, "workflow name", "ERR_WORKFLOW_NAME")
    return wanted
