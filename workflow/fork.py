"""A new instance from a part of a finished one's history: what ran before stays, the rest is done anew."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from perdure.errors import CorruptState, InvalidInput, InvalidState, NotFound
from perdure.payload import Payload
from perdure.statestore.contract import ActorId
from perdure.workflow import events, metadata
from perdure.workflow.events import (
    ChildScheduled,
    Event,
    ExecutionCompleted,
    ExecutionStarted,
    TaskScheduled,
    TimerCreated,
)
from perdure.workflow.instance import Instance, named
from perdure.workflow.keys import NO_STATUS, history_key, timer_name
from perdure.workflow.metadata import Metadata
from perdure.workflow.record import FORMAT, Record, Wake
from perdure.workflow.state import RuntimeStatus


def finished(source: Record) -> tuple[Metadata, list[Event]]:
    """What can be run again; `InvalidState` for an instance that goes on, `CorruptState` for one that cannot be read."""
    meta = metadata.decode(source.values["metadata"])
    if not RuntimeStatus(meta.status).finished:
        raise InvalidState(f"{source.id!r} is {meta.status}: only a finished instance can be run again")
    keys = [history_key(number) for number in range(meta.history)]
    missing = next((key for key in keys if key not in source.values), None)
    if missing is not None:
        raise CorruptState(f"key {missing} is missing")
    history = [named(key, events.decode, source.values[key]) for key in keys]
    if not history or not isinstance(history[0], ExecutionStarted):
        raise CorruptState(f"{source.id!r} has no history to begin from")
    return meta, history


def fork(
    source: Record, number: int, instance_id: str, input: Payload, at: int, token: Callable[[int], bytes]
) -> Record:
    """An instance that is where `source` was when its code had just asked for what event `number` says (an activity, a
    child or a timer): that, and all else that had no answer then, is asked for anew. `input`: that one's, if another.

    `NotFound` when there is no such event, `InvalidInput` when nothing can be run again from it."""
    old, history = finished(source)
    kept = _until(history, number, input)
    start_id = token(16).hex()
    meta = Metadata(
        old.name,
        RuntimeStatus.RUNNING,
        start_id,
        token(16).hex(),
        version=old.version,
        history=len(kept),
        created=at,
        started=at,
        turn=at,
        tags=old.tags,
    )
    instance = Instance(ActorId(source.type, instance_id), meta)
    instance.scan(kept)
    first = kept[0]
    assert isinstance(first, ExecutionStarted)
    made: list[Event] = [
        msgspec.structs.replace(
            first,
            start_id=start_id,
            execution_id=meta.execution_id,
            generation=1,
            parent=None,
            trace=None,
            seed=first.seed or first.execution_id,
        )
    ]
    wakes: list[Wake] = []
    for event in kept[1:]:
        if isinstance(event, TaskScheduled) and event.id in instance.open:
            changes = {"input": input} if input is not None and event is kept[number] else {}
            key = event.key.replace(old.execution_id, meta.execution_id)
            event = msgspec.structs.replace(event, nonce=token(8), key=key, **changes)
        elif isinstance(event, ChildScheduled) and event.id in instance.open:
            changes = {"input": input} if input is not None and event is kept[number] else {}
            id = f"{instance_id}:1:{event.id:04x}"
            event = msgspec.structs.replace(
                event, nonce=token(8), start_id=token(16).hex(), instance_id=id, **changes
            )
        elif isinstance(event, TimerCreated) and event.id in instance.timers:
            # It takes as long as it was to take.
            event = msgspec.structs.replace(event, fire_at=at + max(event.fire_at - event.at, 0))
            wakes.append(Wake(timer_name(event.id), event.fire_at, meta.execution_id.encode()))
        made.append(event)
    values = {history_key(place): events.encode(event) for place, event in enumerate(made)}
    values["metadata"] = metadata.encode(meta)
    values["customStatus"] = NO_STATUS
    return Record(
        format=FORMAT,
        type=source.type,
        id=instance_id,
        workflow=meta.name,
        status=meta.status,
        values=values,
        reminders=wakes,
    )


def _until(history: list[Event], number: int, input: Payload) -> list[Event]:
    """The history up to the end of the turn in which event `number` was decided."""
    if not 0 <= number < len(history):
        raise NotFound(f"the history has no event {number}: it has 0 to {len(history) - 1}")
    target = history[number]
    if not isinstance(target, TaskScheduled | ChildScheduled | TimerCreated):
        raise InvalidInput(
            f"event {number} is {type(target).__name__}: only from TaskScheduled, ChildScheduled and TimerCreated can "
            "an instance be run again"
        )
    if input is not None and isinstance(target, TimerCreated):
        raise InvalidInput(f"event {number} is a timer, which has no input")
    kept = [event for event in history if event.at <= target.at]
    if isinstance(kept[-1], ExecutionCompleted):
        raise InvalidInput(f"the workflow ended in the turn of event {number}: it did not wait for that")
    return kept
