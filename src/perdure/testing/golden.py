"""Histories that were kept, run again with the code of today: what deploying it would do to instances that go on."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from perdure.app import App
from perdure.errors import InvalidInput
from perdure.workflow import events
from perdure.workflow.commands import Completed, ContinuedAsNew, Failed
from perdure.workflow.events import Event, ExecutionStarted
from perdure.workflow.executor import Instance
from perdure.workflow.replay import Replay
from perdure.workflow.run import InProcessExecutor

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES: dict[str, type[msgspec.Struct]] = {kind.__name__: kind for kind in get_args(Event)}


class Replayed(msgspec.Struct, frozen=True):
    """Where the code stands at the end of a history that it agrees with."""

    #: "waiting", "completed", "failed", "terminated" or "continued".
    status: str
    #: What it waits for: "activity 'charge' (task 3)", "event 'approval'", …
    waits: tuple[str, ...] = ()
    #: What the code returned, decoded from JSON.
    output: Any = None


def replay(
    history: str | PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    app: App,
    *,
    instance_id: str = "replayed",
) -> Replayed:
    """Runs the app's workflow code over a history, as a node does that loads the instance. Nothing is started, no
    activity runs.

    `history`: what `perdure workflow history ID --json` prints, as a file's path or as it is parsed, or what
    `perdure.history` of an environment gave. `instance_id` is what the code is told that it is.

    `NonDeterminism` when the code does something else than it did then: deployed, it would leave the instance STALLED.
    `NotRegistered` when the app has no workflow of this name. `InvalidInput` for what is no whole history.
    """
    found = decode(history)
    if not found or not isinstance(found[0], ExecutionStarted):
        raise InvalidInput(
            "the history does not begin with ExecutionStarted: it takes all events, from number 0 on"
        )
    started = found[0]
    executor = InProcessExecutor(app.registry)
    run = executor.run(Instance(app.app_id, app.namespace, instance_id), started)
    try:
        replaying = Replay(run)
        for event in found:
            replaying.feed(event)
        replaying.finish()
        if isinstance(found[-1], events.ExecutionCompleted):
            ended = found[-1]
            return Replayed(ended.status, output=_value(ended.result))
        match run.outcome:
            case Completed(result):
                return Replayed("completed", output=_value(result))
            case Failed():
                return Replayed("failed")
            case ContinuedAsNew():
                return Replayed("continued")
        return Replayed("waiting", tuple(run.waiting_for()))
    finally:
        run.close()


def decode(
    history: str | PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]],
) -> list[Event]:
    """The events of a history in JSON. `InvalidInput` names the event that is none."""
    if isinstance(history, str | PathLike):
        try:
            return decode(json.loads(Path(history).read_text()))
        except ValueError as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"{history} is not JSON: {error}") from error
    found: list[Mapping[str, Any]] = list(
        history.get("events", ()) if isinstance(history, Mapping) else history
    )
    first = found[0].get("number", 0) if found and isinstance(found[0], Mapping) else 0
    return [_event(number, event) for number, event in enumerate(found, first)]


def _event(number: int, event: Mapping[str, Any]) -> Event:
    try:
        if event.get("number", number) != number:
            raise ValueError(f"event {number} is missing: the next is {event['number']}")
        kind = _TYPES.get(event["type"])
        if kind is None:
            raise ValueError(f"there is no event of type {event['type']!r}")
        return msgspec.convert(_struct(kind, event), kind)  # type: ignore[return-value]
    except (msgspec.ValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"event {number} of the history cannot be read: {error}") from error


def _struct(kind: type[msgspec.Struct], shown: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a struct from how they are shown to people; see `perdure.sidecar.decoded`."""
    found = {"type": kind.__name__} if issubclass(kind, events.HistoryEvent) else {}
    hints = get_type_hints(kind)
    for field in kind.__struct_fields__:
        if field in shown:
            found[field] = _field(hints[field], shown[field])
    return found


def _field(hint: Any, shown: Any) -> Any:
    parts = get_args(hint) or (hint,)
    if bytes in parts:
        return _payload(shown)
    if int in parts and isinstance(shown, str):
        return (datetime.fromisoformat(shown) - _EPOCH) // timedelta(microseconds=1)
    for part in parts:
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and isinstance(shown, Mapping):
            return _struct(part, shown)
    return shown


def _payload(shown: Any) -> bytes:
    if isinstance(shown, Mapping) and list(shown) == ["base64"] and isinstance(shown["base64"], str):
        return base64.b64decode(shown["base64"])
    return msgspec.json.encode(shown)


def _value(payload: bytes | None) -> Any:
    return None if payload is None else msgspec.json.decode(payload)
