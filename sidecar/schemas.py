"""The JSON schemas of what the HTTP API answers, for its description."""

from __future__ import annotations

from typing import Any

from perdure.workflow.state import RuntimeStatus

Json = dict[str, Any]


def _object(required: Json, optional: Json | None = None) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def schemas() -> Json:
    text: Json = {"type": "string"}
    count: Json = {"type": "integer", "minimum": 0}
    return {
        "Error": _object({"errorCode": {"type": "string", "pattern": "^ERR_[A-Z_]+"}, "message": text}),
        "Started": _object({"instanceID": text}),
        "Workflow": _workflow_schema(),
        "Workflows": _page("instances", {"$ref": "#/components/schemas/Workflow"}, cursor=text),
        "History": _page("events", _event_schema(), next=count),
        "Record": _record_schema(),
        "Keys": _page("keys", _object({"key": text, "size": count}), cursor=text),
        "Reminders": _page(
            "reminders", _object({"name": text, "dueTime": _TIME, "data": {"nullable": True}})
        ),
        "Reminder": _object(
            {"name": text, "actorID": text, "actorType": text, "dueTime": _TIME},
            {"period": text, "ttl": _TIME, "data": {"nullable": True}},
        ),
        "Wake": _wake_schema(),
        "StateTransaction": _transaction_schema(),
        "Readiness": _object({"ready": {"type": "boolean"}}, {"reason": text}),
        "Metadata": _metadata_schema(),
        "Cluster": _cluster_schema(),
        "Findings": _page(
            "findings",
            _object(
                {"level": {"enum": ["ok", "warning", "error"]}, "subject": text, "said": text},
                {"advice": text},
            ),
        ),
    }


_TIME: Json = {"type": "string", "format": "date-time"}


def _page(items: str, item: Json, **optional: Json) -> Json:
    return _object({items: {"type": "array", "items": item}}, optional)


def _record_schema() -> Json:
    """What an export answers and an import takes: `perdure.workflow.record`."""
    text: Json = {"type": "string"}
    value: Json = {"type": "string", "format": "byte"}
    wake = _object({"name": text, "due": {"type": "integer"}}, {"data": value})
    return _object(
        {
            "perdure": {"type": "integer", "minimum": 1},
            "type": text,
            "id": text,
            "values": {"type": "object", "additionalProperties": value},
        },
        {"workflow": text, "status": text, "reminders": {"type": "array", "items": wake}},
    )


def _wake_schema() -> Json:
    """What sets a reminder or a timer."""
    text: Json = {"type": "string"}
    constant = _object({}, {"interval": text, "max_retries": {"type": "integer", "minimum": 0}})
    return _object(
        {},
        {
            "dueTime": {**text, "description": "A delay (`1h30m`, `PT5S`) or a time; without it: now."},
            "period": {**text, "description": "`10s`, `PT1M`, or `R5/PT1M`: five times; without it: once."},
            "ttl": {**text, "description": "A delay or a time from which on it fires no more."},
            "data": {"nullable": True},
            "overwrite": {"type": "boolean", "default": True, "description": "Of a reminder."},
            "failure_policy": {
                **_object({}, {"drop": {"type": "object"}, "constant": constant}),
                "description": "Of a reminder: one of the two.",
            },
            "callback": {**text, "description": "Of a timer: the name of a method of the actor."},
        },
    )


def _transaction_schema() -> Json:
    text: Json = {"type": "string"}
    target = _object({"key": text}, {"value": {"nullable": True}, "metadata": {"type": "object"}})
    operation = _object({"operation": {"enum": ["upsert", "delete"]}, "request": target})
    return {"type": "array", "items": operation, "description": "`metadata.ttlInSeconds`: text, in seconds."}


def _workflow_schema() -> Json:
    text: Json = {"type": "string"}
    required = {
        "instanceID": text,
        "workflowName": text,
        "createdAt": _TIME,
        "lastUpdatedAt": _TIME,
        "runtimeStatus": {"type": "string", "enum": [one.value.upper() for one in RuntimeStatus]},
        "properties": {
            "type": "object",
            "description": "dapr.workflow.input, .output, .custom_status (JSON as text), .failure.error_type, "
            ".failure.error_message, .failure.stack_trace",
            "additionalProperties": text,
        },
        "generation": {"type": "integer", "minimum": 1},
    }
    optional = {
        **dict.fromkeys(("startedAt", "completedAt", "scheduledAt"), _TIME),
        **dict.fromkeys(("executionID", "parentInstanceID", "reason", "version"), text),
        "tags": {"type": "object", "additionalProperties": text},
        "failure": {"type": "object", "description": "What properties do not say of it, as in a history."},
    }
    return _object(required, optional)


def _event_schema() -> Json:
    text: Json = {"type": "string"}
    shown = _object({"number": {"type": "integer", "minimum": 0}, "type": text, "at": _TIME})
    stored = _object({"number": {"type": "integer", "minimum": 0}, "stored": {**text, "format": "byte"}})
    return {"anyOf": [shown, stored]}


def _metadata_schema() -> Json:
    text: Json = {"type": "string"}
    names: Json = {"type": "array", "items": text}
    active = {"type": "array", "items": _object({"type": text, "count": {"type": "integer", "minimum": 0}})}
    return _object(
        {
            "id": text,
            "namespace": text,
            "runtimeVersion": text,
            "actors": active,
            "actorRuntime": {"type": "object"},
            "workflows": names,
            "activities": names,
            "node": {"type": "object"},
        }
    )


def _cluster_schema() -> Json:
    text: Json = {"type": "string"}
    count: Json = {"type": "integer", "minimum": 0}
    counts: Json = {"type": "object", "additionalProperties": count}
    names: Json = {"type": "array", "items": text}
    flag: Json = {"type": "boolean"}
    node = _object(
        {
            **dict.fromkeys(("id", "address", "http", "appID", "namespace"), text),
            "this": {**flag, "description": "The node that answers."},
            "leads": {**flag, "description": "Placement is led from its process."},
            "weight": {"type": "integer"},
            **dict.fromkeys(("actorTypes", "workflows", "activities"), names),
            "partitions": counts,
            "answered": {**flag, "description": "If not, what follows is missing."},
        },
        {
            "release": text,
            "startedAt": _TIME,
            "activations": counts,
            **dict.fromkeys(("activitiesRunning", "activitiesQueued", "commitsPending"), count),
            "queues": {
                "type": "object",
                "description": "Of activities and workflows, by name, where anything is limited or waits.",
                "additionalProperties": {"type": "object", "additionalProperties": counts},
            },
            "clockDifference": {"type": "number", "description": "Seconds that its clock is ahead."},
            "roundTrip": {"type": "number", "description": "Seconds."},
        },
    )
    return _object(
        {
            "term": count,
            "epoch": count,
            "leader": text,
            "partitions": count,
            "nodes": {"type": "array", "items": node},
            "actorTypes": {
                "type": "array",
                "items": _object(
                    {"name": text, **dict.fromkeys(("partitions", "nodes", "activations"), count)}
                ),
            },
            "handovers": {
                "type": "array",
                "items": _object(
                    {"actorType": text, "partitions": count, "from": {**text, "nullable": True}, "to": text}
                ),
            },
        }
    )
