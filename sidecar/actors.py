"""The actor API: method calls, state keys, reminders, timers, and starting a workflow by an actor call."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from perdure.actors.expiry import expires_at, visible
from perdure.actors.operations import Change, DeleteKey, ReminderRequest, SetKey, TimerRequest
from perdure.actors.schedule import FailurePolicy, Schedule
from perdure.actors.schedule import decode as decode_schedule
from perdure.duration import Period, format_period
from perdure.errors import AlreadyExists, CorruptState, InvalidInput, NotFound, NotRegistered
from perdure.sidecar.decoded import decode_value, payload, time_text
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
    request_key,
    start_id,
    start_options,
    text,
    whole,
)
from perdure.sidecar.routes import Route, accepted, json_response, started_response
from perdure.statestore.contract import ActorId, Page, Reminder

#: Actor types of the runtime itself. Users can look at their state, and call nothing but `start` of a workflow.
RESERVED = "dapr.internal."
MAX_KEYS = 1000
#: Changes that one state transaction may have.
MAX_CHANGES = 10_000


class StartRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the actor call that starts a workflow."""

    name: str
    input: msgspec.Raw = msgspec.Raw()


class RaiseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the actor call that raises an event in a workflow."""

    name: str
    data: msgspec.Raw = msgspec.Raw()


class Target(msgspec.Struct):
    """The `request` of one operation of a state transaction, as Dapr has it."""

    key: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    etag: str | None = None
    metadata: dict[str, str] = {}


class Operation(msgspec.Struct):
    """One operation of a state transaction."""

    operation: str
    request: Target


class _Drop(msgspec.Struct):
    pass


class _Constant(msgspec.Struct):
    interval: str = "1s"
    max_retries: int | None = None
    #: As JSON of protobuf spells it.
    maxRetries: int | None = None


class _Policy(msgspec.Struct):
    drop: _Drop | None = None
    constant: _Constant | None = None


class Wake(msgspec.Struct, rename="camel"):
    """The body that sets a reminder or a timer, as Dapr has it."""

    due_time: str | None = None
    period: str | None = None
    ttl: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    overwrite: bool = True
    callback: str = ""
    failure_policy: _Policy | None = msgspec.field(default=None, name="failure_policy")
    policy: _Policy | None = msgspec.field(default=None, name="failurePolicy")


T = TypeVar("T")
_start_request = msgspec.json.Decoder(StartRequest)
_raise_request = msgspec.json.Decoder(RaiseRequest)
_operations = msgspec.json.Decoder(list[Operation])
_wake = msgspec.json.Decoder(Wake)


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
        reminder = f"{one}/reminders/{{name:[^/]*}}"
        timer = f"{one}/timers/{{name:[^/]*}}"
        state = "ERR_ACTOR_STATE_TRANSACTION_SAVE"
        return [
            *(
                Route(verb, method, self.call, "ERR_ACTOR_INVOKE_METHOD", safe=False)
                for verb in ("POST", "PUT", "GET", "DELETE")
            ),
            Route("GET", f"{one}/state", self.keys, "ERR_ACTOR_STATE_GET"),
            *(Route(verb, f"{one}/state", self.change, state) for verb in ("POST", "PUT")),
            Route("GET", f"{one}/state/{{key:[^/]*}}", self.value, "ERR_ACTOR_STATE_GET"),
            Route("GET", f"{one}/reminders", self.reminders, "ERR_ACTOR_REMINDER_GET"),
            *(
                Route(verb, reminder, self.set_reminder, "ERR_ACTOR_REMINDER_CREATE")
                for verb in ("POST", "PUT")
            ),
            Route("GET", reminder, self.reminder, "ERR_ACTOR_REMINDER_GET"),
            Route("DELETE", reminder, self.delete_reminder, "ERR_ACTOR_REMINDER_DELETE"),
            *(Route(verb, timer, self.set_timer, "ERR_ACTOR_TIMER_CREATE") for verb in ("POST", "PUT")),
            Route("DELETE", timer, self.delete_timer, "ERR_ACTOR_TIMER_DELETE"),
        ]

    # --- methods -----------------------------------------------------------------------------------------------------

    async def call(self, request: web.Request) -> web.Response:
        actor = _actor(request)
        method = name_in_path(request, "method", "method name", "ERR_ACTOR_METHOD")
        if actor.type.startswith(RESERVED):
            return await self._internal(request, actor, method)
        key = request_key(request)
        try:
            result = await self._actors.call(
                actor.type, actor.id, method, await json_body(request), idempotency_key=key
            )
        except NotRegistered as error:
            raise Refusal(404, "ERR_ACTOR_NO_ADDRESS", error.message) from error
        if result is None:
            return web.Response(status=204)
        return web.Response(body=result, content_type="application/json")

    async def _internal(self, request: web.Request, actor: ActorId, method: str) -> web.Response:
        callable = method in ("start", "raise") and request.method in ("POST", "PUT")
        if not callable or not actor.type.endswith(".workflow"):
            raise Refusal(
                403,
                "ERR_ACTOR_TYPE_RESERVED",
                f"{actor.type} belongs to the runtime: only POST …/method/start and …/method/raise of a workflow "
                "can be called",
            )
        if actor.type != self._workflow_type:
            raise Refusal(
                404, "ERR_ACTOR_NO_ADDRESS", f"this node serves {self._workflow_type}, not {actor.type}"
            )
        body = await body_bytes(request)
        if method == "raise":
            event = _wanted(body, _raise_request, '{"name": "<event>", "data": <any JSON>}')
            checked_name(event.name, "event name", "ERR_WORKFLOW_EVENT_NAME")
            data = bytes(event.data) or None
            await self._workflows.raise_event(actor.id, event.name, data, event_id=request_key(request))
            return accepted()
        wanted = _wanted(body, _start_request, '{"name": "<workflow>", "input": <any JSON>}')
        checked_name(wanted.name, "workflow name", "ERR_WORKFLOW_NAME")
        started = await self._workflows.start(
            wanted.name,
            bytes(wanted.input) or None,
            actor.id,
            start_id=start_id(request),
            **start_options(request),
        )
        return started_response(started, "/v1.0/workflows/dapr")

    # --- state -------------------------------------------------------------------------------------------------------

    async def keys(self, request: web.Request) -> web.Response:
        page = await self._actors.keys(
            _actor(request),
            text(request, "prefix"),
            text(request, "start") or None,
            whole(request, "limit", 100, 1, MAX_KEYS),
        )
        return json_response(keys_json(page))

    async def value(self, request: web.Request) -> web.Response:
        """204 for a key that a user's actor does not have, as Dapr answers. `metadata.ttlExpireTime` is the header
        that says when a value expires."""
        actor = _actor(request)
        key = name_in_path(request, "key", "state key", "ERR_ACTOR_STATE_KEY")
        # `start` is inclusive: if the key is there it is the first.
        page = await self._actors.keys(actor, key, key, 1)
        if page.items and page.items[0][0] == key:
            stored = page.items[0][1]
            if visible(stored, self._actors.now()) is not None:
                answer = json_response(decode_value(key, stored))
                at = expires_at(stored)
                if at is not None:
                    answer.headers["metadata.ttlExpireTime"] = str(time_text(at))
                return answer
        if actor.type.startswith(RESERVED):
            raise Refusal(404, "ERR_ACTOR_STATE_NOT_FOUND", f"{actor} has no state key {key!r}")
        return web.Response(status=204)

    async def change(self, request: web.Request) -> web.Response:
        """All of the changes or none of them, in a turn of the actor's own."""
        actor = _own_actor(request)
        changes = _changes(await body_bytes(request))
        await _hosted(self._actors.change_state(actor, changes), 400, "ERR_ACTOR_INSTANCE_MISSING")
        return web.Response(status=204)

    # --- reminders and timers ----------------------------------------------------------------------------------------

    async def reminders(self, request: web.Request) -> web.Response:
        return json_response(reminders_json(await self._actors.reminders(_actor(request))))

    async def reminder(self, request: web.Request) -> web.Response:
        actor, name = _actor(request), _name(request, "reminder")
        for found in await self._actors.reminders(actor):
            if found.name == name:
                return json_response(_reminder_json(found))
        raise Refusal(404, "ERR_ACTOR_REMINDER_NOT_FOUND", f"{actor} has no reminder {name!r}")

    async def set_reminder(self, request: web.Request) -> web.Response:
        actor, name = _own_actor(request), _name(request, "reminder")
        wanted = _wake_request(await body_bytes(request))
        asked = ReminderRequest(
            name,
            wanted.due_time,
            wanted.period,
            wanted.ttl,
            wanted.data if bytes(wanted.data) else msgspec.Raw(b"null"),
            wanted.overwrite,
            _failure_policy(wanted.failure_policy or wanted.policy),
        )
        try:
            await _hosted(self._actors.set_reminder(actor, asked), 403, "ERR_ACTOR_REMINDER_NON_HOSTED")
        except AlreadyExists as error:
            raise Refusal(409, "ERR_ACTOR_REMINDER_ALREADY_EXISTS", error.message) from error
        return web.Response(status=204)

    async def delete_reminder(self, request: web.Request) -> web.Response:
        actor, name = _own_actor(request), _name(request, "reminder")
        await _hosted(self._actors.delete_reminder(actor, name), 403, "ERR_ACTOR_REMINDER_NON_HOSTED")
        return web.Response(status=204)

    async def set_timer(self, request: web.Request) -> web.Response:
        actor, name = _own_actor(request), _name(request, "timer")
        wanted = _wake_request(await body_bytes(request))
        if not wanted.callback:
            raise malformed("the callback is missing: the name of a method of the actor")
        asked = TimerRequest(
            name,
            wanted.callback,
            wanted.due_time,
            wanted.period,
            wanted.ttl,
            wanted.data if bytes(wanted.data) else msgspec.Raw(b"null"),
        )
        try:
            await _hosted(self._actors.set_timer(actor, asked), 404, "ERR_ACTOR_NO_ADDRESS")
        except NotFound as error:
            raise malformed(error.message) from error
        return web.Response(status=204)

    async def delete_timer(self, request: web.Request) -> web.Response:
        actor, name = _own_actor(request), _name(request, "timer")
        await _hosted(self._actors.delete_timer(actor, name), 404, "ERR_ACTOR_NO_ADDRESS")
        return web.Response(status=204)


async def _hosted(work: Awaitable[None], status: int, code: str) -> None:
    try:
        await work
    except NotRegistered as error:
        raise Refusal(status, code, error.message) from error


def _actor(request: web.Request) -> ActorId:
    kind, id = request.match_info["type"], request.match_info["id"]
    if not kind or not id:
        raise Refusal(400, "ERR_ACTOR_INSTANCE_MISSING", "the path has no actor type or no actor id")
    return ActorId(
        checked_id(kind, "actor type", "ERR_ACTOR_TYPE"),
        checked_id(id, "actor id", "ERR_ACTOR_ID"),
    )


def _own_actor(request: web.Request) -> ActorId:
    """An actor that may be changed from outside."""
    actor = _actor(request)
    if actor.type.startswith(RESERVED):
        raise Refusal(
            403,
            "ERR_ACTOR_TYPE_RESERVED",
            f"{actor.type} belongs to the runtime: its state and its reminders are not changed from outside",
        )
    return actor


def _name(request: web.Request, what: str) -> str:
    return checked_id(request.match_info["name"], f"name of the {what}", f"ERR_ACTOR_{what.upper()}_NAME")


def _reminder_json(reminder: Reminder) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": reminder.name,
        "actorID": reminder.actor.id,
        "actorType": reminder.actor.type.rpartition("/")[2],
        "dueTime": time_text(reminder.due),
    }
    try:
        plan: Schedule = decode_schedule(reminder.data)
    except CorruptState:
        return {**found, "data": decode_value("reminder", reminder.data)}
    if plan.data is not None:
        found["data"] = payload(plan.data)
    if plan.period is not None:
        found["period"] = format_period(Period(plan.period, plan.left))
    if plan.expires is not None:
        found["ttl"] = time_text(plan.expires)
    return found


def _wanted(body: bytes, decoder: msgspec.json.Decoder[T], example: str) -> T:
    if not body:
        raise malformed(f"the body is empty; send {example}")
    check_json(body)
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise malformed(f"the body is not what this call takes: {error}; send {example}") from None


def _changes(body: bytes) -> list[Change]:
    example = 'send [{"operation": "upsert", "request": {"key": "<key>", "value": <any JSON>}}]'
    check_json(body or b"?")
    try:
        wanted = _operations.decode(body)
    except msgspec.MsgspecError as error:
        raise malformed(f"the body is no state transaction: {error}; {example}") from None
    if len(wanted) > MAX_CHANGES:
        raise malformed(f"a state transaction has at most {MAX_CHANGES} operations, not {len(wanted)}")
    return [_change(one) for one in wanted]


def _change(wanted: Operation) -> Change:
    target = wanted.request
    if target.etag:
        raise malformed(
            f"the operation on {target.key!r} has an etag: there are none, as nothing changes an actor's state beside "
            "its turns"
        )
    if wanted.operation == "delete":
        return DeleteKey(target.key)
    if wanted.operation != "upsert":
        raise malformed(f"an operation is upsert or delete, not {wanted.operation[:40]!r}")
    ttl = target.metadata.get("ttlInSeconds")
    if ttl is not None and not (ttl.isascii() and ttl.isdigit() and 0 < len(ttl) <= 12 and int(ttl) > 0):
        raise malformed(
            f"ttlInSeconds of {target.key!r} is a whole number of seconds from 1 on, not {ttl[:40]!r}"
        )
    return SetKey(target.key, target.value, None if ttl is None else f"{ttl}s")


def _wake_request(body: bytes) -> Wake:
    if not body:
        return Wake()
    check_json(body)
    try:
        return _wake.decode(body)
    except msgspec.MsgspecError as error:
        raise malformed(
            f'the body cannot be read: {error}; send {{"dueTime": "10s", "period": "R5/PT1M", "data": <any JSON>}}'
        ) from None


def _failure_policy(wanted: _Policy | None) -> FailurePolicy | None:
    if wanted is None:
        return None
    if (wanted.drop is None) == (wanted.constant is None):
        raise malformed(
            'a failure policy is {"drop": {}} or {"constant": {"interval": "1s", "max_retries": 3}}'
        )
    if wanted.constant is None:
        return FailurePolicy.drop()
    constant = wanted.constant
    retries = constant.max_retries if constant.max_retries is not None else constant.maxRetries
    try:
        return FailurePolicy.constant(constant.interval, retries)
    except InvalidInput as error:
        raise malformed(error.message) from error
