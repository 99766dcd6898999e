"""One instance, for people."""

from __future__ import annotations

from typing import Any

from perdure.cli import show
from perdure.cli.failures import CommandError


def show_end(found: dict[str, Any], as_json: bool) -> None:
    """Shows an instance that was waited for, and fails if it did."""
    show_instance(found, as_json)
    check_end(found)


def check_end(found: dict[str, Any]) -> None:
    """`CommandError` unless the instance has come to a good end."""
    if found["runtimeStatus"] in ("FAILED", "TERMINATED"):
        why = failure_of(found)
        said = f"{found['instanceID']} {found['runtimeStatus'].lower()}"
        raise CommandError(f"{said}: {why}" if why else said)


def failure_of(found: dict[str, Any]) -> str:
    """Why it failed, was terminated, is paused, stalled or waits; empty: nobody said."""
    return str(show.value_of(found, "failure.error_message") or found.get("reason") or "")


def show_instance(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show.show_json(found)
    else:
        show.show_fields(instance_fields(found))


def instance_fields(found: dict[str, Any]) -> dict[str, object]:
    """What there is to say of it, by name; values are texts."""
    fields: dict[str, object] = {
        "id": found["instanceID"],
        "workflow": found["workflowName"],
        "status": show.status_text(found["runtimeStatus"]),
    }
    for name in ("reason", "version", "parentInstanceID"):
        if found.get(name):
            fields[{"parentInstanceID": "parent"}.get(name, name)] = found[name]
    if found.get("generation", 1) > 1:
        fields["generation"] = found["generation"]
    for name in ("createdAt", "scheduledAt", "startedAt", "lastUpdatedAt", "completedAt"):
        if name in found:
            fields[{"lastUpdatedAt": "updated"}.get(name, name.removesuffix("At"))] = show.moment_text(
                found[name]
            )
    fields.update(_payloads(found))
    return fields


def _payloads(found: dict[str, Any]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name in ("input", "custom_status", "output"):
        value = show.value_of(found, name)
        if value is not None:
            fields[name.replace("_", " ")] = show.payload_text(value)
    kind = show.value_of(found, "failure.error_type")
    if kind is not None:
        fields["failure"] = show.styled(f"{kind}: {show.value_of(found, 'failure.error_message')}", "red")
        fields["stack"] = show.styled(show.value_of(found, "failure.stack_trace") or "", "dim")
    return fields
