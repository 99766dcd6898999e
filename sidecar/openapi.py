"""The description of the HTTP API that `/openapi.json` serves, kept by hand beside the handlers."""

from __future__ import annotations

from typing import Any

from perdure.sidecar.requests import KEY_HEADER
from perdure.sidecar.schemas import schemas
from perdure.sidecar.token import HEADER
from perdure.workflow.state import RuntimeStatus
from perdure.workflow.workflows import IF_EXISTS

Json = dict[str, Any]

# Ids of at most 64 characters are within 256 bytes whatever the characters are: what the description allows is
# always accepted, and what is longer is accepted as far as its bytes allow.
_ID = r"^[^/\x00-\x1f\x7f-\x9f]{1,64}$"
_NAME = r"^[^\x00-\x1f\x7f-\x9f]{1,64}$"
_WORDS: Json = {"type": "string", "maxLength": 1024, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}


def describe_api(version: str, max_body: int) -> Json:
    paths: Json = {}
    paths.update(_workflow_paths())
    paths.update(_actor_paths())
    paths.update(_node_paths())
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Perdure",
            "version": version,
            "description": "Dapr's workflow and actor API, and what is beyond it. Bodies are JSON in UTF-8, whatever "
            f"their content type, of at most {max_body} bytes. Query parameters that are not listed are ignored. The "
            "workflow calls are served under /v1.0-beta1 and /v1.0-alpha1, too.",
        },
        "paths": paths,
        # Optional, since a node may have none.
        "security": [{}, {"apiToken": []}],
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "apiToken": {
                    "type": "apiKey",
                    "in": "header",
                    "name": HEADER,
                    "description": "Where the node was started with an API token. `Authorization: Bearer` is taken, too.",
                }
            },
        },
    }


# --- workflows ---------------------------------------------------------------------------------------------------


def _workflow_paths() -> Json:
    base = "/v1.0/workflows/{component}"
    component = _path("component", None, "Any text, as in Dapr: `dapr`.", "dapr")
    id = _path("id", _ID, "The instance id: up to 256 bytes without control characters and '/'.")
    started = {
        202: _started("Started."),
        404: _error("The node serves another app."),
        409: _error("The id is taken."),
    }
    name = _path("name", _NAME, "The workflow's name.")
    page = {200: _answer("A page of instances.", "Workflows"), 404: _error("The node serves another app.")}
    return {
        f"{base}/{{name}}/start": {
            "post": _operation(
                "Starts a workflow.",
                [component, name, *_start_options(), _APP],
                started,
                body=_payload("The input."),
            )
        },
        base: {
            "get": _operation("Lists instances, newest first.", [component, *_list_filters(), _APP], page)
        },
        **_looks(f"{base}/{{id}}", [component, id, _APP]),
        **_changes(f"{base}/{{id}}", [component, id, _APP]),
        **_transfers(f"{base}/{{id}}", [component, id]),
    }


def _looks(one: str, instance: list[Json]) -> Json:
    state = {200: _answer("The instance.", "Workflow"), **_NO_INSTANCE}
    too_early = {504: _error("Not within the time given; ask again.")}
    page = [
        _query("start", _whole(0, 10**12, 0), "The number of the first event."),
        _query("limit", _whole(1, 1000, 1000), "How many at most."),
        _query(
            "stored",
            {"type": "boolean", "default": False},
            "Events as the store has them: msgpack, in base64.",
        ),
    ]
    events = {200: _answer("A page of events.", "History"), **_NO_INSTANCE}
    return {
        one: {"get": _operation("One instance.", instance, state)},
        f"{one}/wait": {
            "get": _operation(
                "Waits until an instance has started or finished.",
                [*instance, *_wait_options()],
                {**state, **too_early},
            )
        },
        f"{one}/history": {"get": _operation("An instance's history.", [*instance, *page], events)},
    }


def _changes(one: str, instance: list[Json]) -> Json:
    reason = _query("reason", _WORDS, "Kept in the history.")
    recursive = _query("recursive", {"type": "boolean", "default": True}, "Child workflows, too.")
    force = _query("force", {"type": "boolean", "default": False}, "Even if it is not finished.")
    event = _path("event", _NAME, "The event's name; case does not matter.")
    found = {
        "raiseEvent/{event}": _action(
            "Raises an event.", [*instance, event, _KEY], body=_payload("The event's data.")
        ),
        "rerun": _operation(
            "Runs a finished instance again, as a new one.",
            [*instance, *_rerun_options()],
            {
                202: _started("Started."),
                409: _error("It is not finished, or the new id is taken."),
                **_NO_INSTANCE,
            },
            body=_payload(
                "The input of the activity or child of that event, or else of the workflow, if another."
            ),
        ),
        "pause": _action("Pauses an instance.", [*instance, reason]),
        "resume": _action("Resumes an instance.", [*instance, reason]),
        "cancel": _action("Lets an instance come to an end, undoing what it has to.", [*instance, reason]),
        "terminate": _action(
            "Ends an instance.", [*instance, reason, recursive], body=_payload("Becomes its output.")
        ),
        "purge": _action("Removes a finished instance.", [*instance, recursive, force]),
    }
    return {f"{one}/{verb}": {"post": operation} for verb, operation in found.items()}


def _transfers(one: str, instance: list[Json]) -> Json:
    replace = _query("replace", {"type": "boolean", "default": False}, "Whatever has the id gives way.")
    record = {"$ref": "#/components/schemas/Record"}
    body = {
        "required": True,
        "description": "What an export answered: of the same app, and at most 64 MB.",
        "content": {"application/json": {"schema": record}},
    }
    exported = {200: _answer("The instance, with every state key as it is stored.", "Record"), **_NO_INSTANCE}
    return {
        f"{one}/export": {"get": _operation("An instance as it is stored.", instance, exported)},
        f"{one}/import": {
            "post": _action("Puts an exported instance into the store.", [*instance, replace], body=body)
        },
    }


def _list_filters() -> list[Json]:
    status = {"type": "array", "items": {"type": "string", "enum": [one.value for one in RuntimeStatus]}}
    return [
        {**_query("status", status, "Only these; several may be given."), "explode": False},
        _query("name", _WORDS, "Only this workflow."),
        _query("prefix", _WORDS, "Only ids that begin so."),
        _query("createdFrom", _TIME, "Only those created then or later."),
        _query("createdTo", _TIME, "Only those created before."),
        _query("cursor", {**_WORDS, "maxLength": 4096}, "From an earlier answer: the next page."),
        _query("limit", _whole(1, 1000, 100), "How many at most."),
    ]


def _rerun_options() -> list[Json]:
    return [
        _query(
            "fromEvent",
            {"type": "integer", "minimum": 0, "maximum": 10**12},
            "The number of the history event, of an activity, child or timer that the code asked for, from which it "
            "goes on. Without it, it begins from the start.",
        ),
        _query(
            "instanceID", {"type": "string", "pattern": r"^[A-Za-z0-9_-]{0,64}$"}, "The id of the new one."
        ),
    ]


def _wait_options() -> list[Json]:
    until = {"type": "string", "enum": ["started", "finished"], "default": "finished"}
    return [
        _query("until", until, "What to wait for."),
        _query("timeout", {"type": "number", "minimum": 0, "maximum": 3600, "default": 30}, "Seconds."),
    ]


# --- actors ------------------------------------------------------------------------------------------------------


def _actor_paths() -> Json:
    one = "/v1.0/actors/{type}/{id}"
    actor = [
        _path("type", _ID, "The actor type.", "Cart"),
        _path("id", _ID, "The actor id: up to 256 bytes without control characters and '/'."),
    ]
    key = _path("key", _NAME, "The state key.", "metadata")
    return {
        f"{one}/method/{{method}}": {verb: _call(actor, verb) for verb in ("post", "put", "get", "delete")},
        f"{one}/state": {
            **{verb: _transaction(actor) for verb in ("post", "put")},
            "get": _operation(
                "Lists an actor's state keys.",
                [
                    *actor,
                    _query("prefix", _WORDS, "Only such keys."),
                    _query(
                        "start",
                        _WORDS,
                        "The first key, or a cursor from an earlier answer.",
                    ),
                    _query("limit", _whole(1, 1000, 100), "How many at most."),
                ],
                {200: _answer("A page of keys.", "Keys")},
            ),
        },
        f"{one}/state/{{key}}": {
            "get": _operation(
                "One state value, decoded.",
                [*actor, key],
                {
                    200: _content("The value as JSON.", {}),
                    204: {"description": "No such key."},
                    404: _error("No such key of an actor of the runtime itself."),
                },
            )
        },
        **_actor_changes(one, actor),
        f"{one}/reminders": {
            "get": _operation(
                "An actor's reminders.", actor, {200: _answer("All its timed reminders.", "Reminders")}
            )
        },
    }


def _actor_changes(one: str, actor: list[Json]) -> Json:
    done = {204: {"description": "Done."}, **_RESERVED, 404: _error("No such actor type.")}
    reminder = [*actor, _path("name", _ID, "The reminder's name.", "daily")]
    timer = [*actor, _path("name", _ID, "The timer's name.", "tick")]
    taken = {409: _error("There is one of this name, and `overwrite` is false.")}
    wake = _content("When, how often, and with what.", {"$ref": "#/components/schemas/Wake"})
    set_reminder = _operation(
        "Sets a reminder.", reminder, {**done, **taken}, body={**wake, "required": False}
    )
    set_timer = _operation("Sets a timer.", timer, done, body={**wake, "required": True})
    return {
        f"{one}/reminders/{{name}}": {
            "post": set_reminder,
            "put": set_reminder,
            "get": _operation(
                "One reminder.",
                reminder,
                {200: _answer("As it stands.", "Reminder"), 404: _error("There is none of this name.")},
            ),
            "delete": _operation("Deletes a reminder.", reminder, done),
        },
        f"{one}/timers/{{name}}": {
            "post": set_timer,
            "put": set_timer,
            "delete": _operation("Deletes a timer.", timer, done),
        },
    }


def _transaction(actor: list[Json]) -> Json:
    done = {204: {"description": "All of it is stored."}, **_RESERVED}
    changes = _content("Changes, all or none.", {"$ref": "#/components/schemas/StateTransaction"})
    return _operation("Changes an actor's state.", actor, done, body={**changes, "required": True})


def _call(actor: list[Json], verb: str) -> Json:
    operation = _operation(
        "Calls a method.",
        [*actor, _path("method", _NAME, "The method's name.", "add")],
        {
            200: _content("The method's result.", {}),
            202: _started("The actor type is a workflow's, the method `start` or `raise`: it is stored."),
            204: {"description": "The method has no result."},
            403: _error("The actor type belongs to the runtime."),
            404: _error("No such actor type or method."),
            409: _error("The id is taken."),
            504: _error("No answer in time: it may or may not have been executed."),
        },
    )
    if verb in ("post", "put"):
        operation["requestBody"] = _payload("The method's argument.")
    return operation


# --- the node ----------------------------------------------------------------------------------------------------


def _node_paths() -> Json:
    ready = {
        "get": _plain(
            "Dapr's readiness.", {204: {"description": "Ready."}, 500: _error("Not ready, and why.")}
        )
    }
    anything: Json = {"type": "object"}
    return {
        "/v1.0/healthz": ready,
        "/v1.0/healthz/outbound": ready,
        "/v1.0/metadata": {
            "get": _plain("About the node.", {200: _answer("The node.", "Metadata"), **_NO_TOKEN})
        },
        "/v1.0/cluster": {
            "get": _operation(
                "The cluster: its nodes, and who hosts what.", [], {200: _answer("The cluster.", "Cluster")}
            )
        },
        "/v1.0/doctor": {
            "get": _operation(
                "Looks at the whole store, which takes a while.",
                [],
                {200: _answer("What it found.", "Findings")},
            )
        },
        "/livez": {"get": _plain("Whether the process lives.", {200: _content("It does.", anything)})},
        "/readyz": {
            "get": _plain(
                "Whether the node serves.",
                {200: _answer("Yes.", "Readiness"), 503: _answer("No, and why.", "Readiness")},
            )
        },
        "/metrics": {
            "get": _plain(
                "Metrics, in Prometheus' text format.",
                {
                    200: {
                        "description": "All of them.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                    **_NO_TOKEN,
                },
            )
        },
        "/openapi.json": {
            "get": _plain("This description.", {200: _content("OpenAPI 3.0.", anything), **_NO_TOKEN})
        },
    }


# --- parts -------------------------------------------------------------------------------------------------------


def _path(name: str, pattern: str | None, description: str, example: str | None = None) -> Json:
    schema = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
    found: Json = {"name": name, "in": "path", "required": True, "description": description, "schema": schema}
    if example is not None:
        found["example"] = example
    return found


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _whole(low: int, high: int, default: int) -> Json:
    return {"type": "integer", "minimum": low, "maximum": high, "default": default}


_INSTANCE_ID = _query(
    "instanceID",
    {"type": "string", "pattern": r"^[\p{L}\p{Nd}_-]{0,64}$"},
    "The instance id: letters, digits, '_' and '-', as in Dapr. Without it one is made.",
)


_START_ID = _query(
    "startID",
    {"type": "string", "pattern": r"^[A-Za-z0-9_-]{16,64}$"},
    "Random, made by whoever starts: the same start again, with the same instance id, changes nothing.",
)
_APP = _query("appID", {"type": "string"}, "The app that is meant: the node refuses what is for another.")
_TIME: Json = {"type": "string", "format": "date-time"}
# Narrower than what is accepted: what fits is always a time.
_WHEN = (
    r"^(20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z"
    r"|0|[0-9]{1,6}(ms|s|m|h))$"
)
_TAG = r"^[ -<>-~]{1,256}=[ -~]{0,256}$"
_KEY: Json = {
    "name": KEY_HEADER,
    "in": "header",
    "required": False,
    "description": "The caller's: the same request with the same key again is a success, and changes nothing. "
    "Known for a day.",
    "schema": {"type": "string", "pattern": r"^[!-~]([ -~]{0,254}[!-~])?$"},
}


def _start_options() -> list[Json]:
    tags: Json = {"type": "array", "maxItems": 100, "items": {"type": "string", "pattern": _TAG}}
    if_exists: Json = {"type": "string", "enum": list(IF_EXISTS), "default": "error"}
    return [
        _INSTANCE_ID,
        _START_ID,
        _query(
            "startTime",
            {"type": "string", "pattern": _WHEN},
            "When it begins: a time (RFC 3339), or a delay from now such as 90s or PT1H.",
        ),
        _query(
            "ifExists",
            if_exists,
            "What if an instance has the id: `error` refuses the start while that one is active, and else replaces it; "
            "`return` leaves it as it is; `replace` terminates it.",
        ),
        {**_query("tag", tags, "name=value; may be given again."), "explode": True},
        _KEY,
    ]


def _payload(description: str) -> Json:
    return {"required": False, "description": description, "content": {"application/json": {"schema": {}}}}


def _content(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _answer(description: str, schema: str) -> Json:
    return _content(description, {"$ref": f"#/components/schemas/{schema}"})


def _error(description: str) -> Json:
    return _answer(description, "Error")


def _started(description: str) -> Json:
    path: Json = {"type": "string", "format": "uri-reference"}
    return {
        **_answer(description, "Started"),
        "headers": {
            "Location": {"description": "Where its state is.", "schema": path},
            "Retry-After": {
                "description": "Seconds until it is worth a look.",
                "schema": {"type": "integer"},
            },
        },
    }


_NO_INSTANCE = {404: _error("There is no such instance.")}
_NO_TOKEN = {401: _error("The node wants its API token.")}
_RESERVED = {403: _error("The actor type belongs to the runtime, or no node hosts it.")}
_ALWAYS = {
    400: _error("The request is not valid; the message says what was wrong and what would be right."),
    **_NO_TOKEN,
    413: _error("The body is too large."),
    500: _error("It failed."),
    503: _error("It cannot be done now; the same request may succeed later."),
}


def _operation(
    summary: str, parameters: list[Json], answers: dict[int, Json], *, body: Json | None = None
) -> Json:
    found = _plain(summary, {**answers, **_ALWAYS})
    found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = body
    return found


def _action(summary: str, parameters: list[Json], *, body: Json | None = None) -> Json:
    answers = {
        202: _content("Done.", {"type": "object", "maxProperties": 0}),
        403: _error("A browser sent it for a page of another site."),
        409: _error("The instance's state does not allow it."),
    }
    return _operation(summary, parameters, {**answers, **_NO_INSTANCE}, body=body)


def _plain(summary: str, answers: dict[int, Json]) -> Json:
    return {"summary": summary, "responses": {str(status): answers[status] for status in sorted(answers)}}
