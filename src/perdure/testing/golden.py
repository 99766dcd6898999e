"""Histories that were kept, run again with the code of today: what deploying it would do to instances that go on."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from perdure.app import App
from perdure.errors import InvalidInput, NotRegistered, PerdureError
from perdure.workflow import events, record
from perdure.workflow.engine import workflow_type
from perdure.workflow.events import Event, ExecutionStarted
from perdure.workflow.executor import Instance, NonDeterminism
from perdure.workflow.replay import Replay
from perdure.workflow.run import InProcessExecutor

#: How the keys of a history begin.
HISTORY = "history-"
#: How many of the instances that could not go on are shown.
SHOWN = 3

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES: dict[str, type[msgspec.Struct]] = {kind.__name__: kind for kind in get_args(Event)}


class Replayed(msgspec.Struct, frozen=True):
    """Where the code stands at the end of a history that it agrees with."""

    #: "waiting", or how it ended: "completed", "failed", "terminated", …
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
    return _replayed(decode(history), app, instance_id)


def replay_export(file: str | PathLike[str], app: App) -> dict[str, Replayed]:
    """Runs the app's workflow code over each instance that `perdure export` has written to the file; by id, where the
    code stands. Those of other apps and those that have not begun are left out.

    `NonDeterminism` names those that would be STALLED if this code were deployed: with `broken` as the error of each.
    `InvalidInput` for a line that is no exported instance.
    """
    found: dict[str, Replayed] = {}
    broken: dict[str, PerdureError] = {}
    kind = workflow_type(app.namespace, app.app_id)
    with Path(file).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                exported = record.decode(line)
                history = _stored(exported)
            except PerdureError as error:
                raise InvalidInput(f"line {number} of {file}: {error.message}") from error
            if exported.type != kind or not history:
                continue
            try:
                found[exported.id] = _replayed(history, app, exported.id)
            except (NonDeterminism, NotRegistered) as error:
                broken[exported.id] = error
    if broken:
        shown = "; ".join(f"{id!r}: {error.message}" for id, error in list(broken.items())[:SHOWN])
        more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise NonDeterminism(
            f"{len(broken)} of {len(broken) + len(found)} instances could not go on with this code: {shown}{more}",
            broken=broken,
        )
    return found


def _stored(exported: record.Record) -> list[Event]:
    keys = [key for key in exported.values if key.startswith(HISTORY)]
    keys.sort(key=lambda key: int(key.removeprefix(HISTORY)))
    return [events.decode(exported.values[key]) for key in keys]


def _replayed(history: Sequence[Event], app: App, instance_id: str) -> Replayed:
    if not history or not isinstance(history[0], ExecutionStarted):
        raise InvalidInput(
            "the history does not begin with ExecutionStarted: it takes all events, from number 0 on"
        )
    executor = InProcessExecutor(app.registry)
    run = executor.run(Instance(app.app_id, app.namespace, instance_id), history[0])
    try:
        replaying = Replay(run)
        for event in history:
            replaying.feed(event)
        replaying.finish()
        ended = history[-1]
        if isinstance(ended, events.ExecutionCompleted):
            return Replayed(ended.status, output=_value(ended.result))
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
