"""One instance as its page shows it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from perdure.console.reader import Reader, Record, readable
from perdure.console.subject import Subject
from perdure.console.text import MAX_CELL, MAX_EVENT, compact, cut, moment, shown, shown_value
from perdure.console.timeline import Span, Step
from perdure.sidecar.decoded import event_json
from perdure.statestore.contract import Reminder
from perdure.workflow.events import FailureDetails
from perdure.workflow.explain import OpenTask, Place
from perdure.workflow.instance import describe
from perdure.workflow.keys import history_key
from perdure.workflow.metadata import PURGED, Metadata
from perdure.workflow.replay import sides
from perdure.workflow.state import RuntimeStatus, WorkflowState

Json = dict[str, Any]

#: Of an event's fields: what it is about, and what it carries.
_NAMES = ("name", "status", "instance_id", "origin", "fire_at", "reason")
_PAYLOADS = ("input", "data", "result", "output")
#: Things waited for that are listed; there may be thousands.
MAX_WAITS = 100


class InstancePage:
    """Reads what the page of an instance needs, in parts: the whole but for its history; steps; events."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._reader = Reader(subject)

    async def view(self, instance_id: str) -> Json:
        """`found` false: there is no such instance, or (`purged`) no longer."""
        record = await self._reader.look(instance_id)
        meta, row = record.meta, record.row
        if row is None:
            return {"found": False, "id": instance_id, "purged": meta is not None and meta.status == PURGED}
        state = describe(row)
        found = {
            "found": True,
            "id": instance_id,
            "actorType": record.actor.type,
            "version": record.version,
            **state_json(state),
            "owner": self._subject.owner(*record.actor),
            "inMemory": self._subject.engine.explainer.in_memory(record.actor),
            "trouble": record.trouble,
            "history": record.timeline.count,
            "steps": len(record.timeline.steps),
        }
        if meta is None:
            return found
        found = {**found, **meta_json(meta), "waiting": None}
        if not state.runtime_status.finished:
            await self._add_waiting(found, record, meta)
        return found

    async def steps(self, instance_id: str, start: int, limit: int) -> Json:
        """A page of the timeline. `steps` counts all."""
        record = await self._reader.look(instance_id)
        timeline = record.timeline
        pending = await self._pending(record)
        return {
            "start": start,
            "steps": len(timeline.steps),
            "items": [
                step_json(number, step, pending)
                for number, step in enumerate(timeline.steps[start : start + limit], start)
            ],
        }

    async def events(self, instance_id: str, start: int, limit: int, *, stored: bool = False) -> Json:
        """A page of the history, decoded; with `stored` also (the beginning of) what each event is in the store."""
        actor = self._subject.engine.actor(instance_id)
        page = await self._subject.store.keys(actor, "history-", history_key(start), limit)
        return {"start": start, "items": [_event(key, value, stored) for key, value in page.items]}

    async def _pending(self, record: Record) -> dict[int, Reminder]:
        """The timers that will fire, by task id: a cancelled one leaves no event, but has no reminder any more."""
        if not record.timeline.open or record.meta is None:
            return {}
        found: dict[int, Reminder] = {}
        for reminder in await self._subject.store.reminders(record.actor):
            prefix, _, number = reminder.name.partition("-")
            if prefix == "timer" and number.isdecimal():
                found[int(number)] = reminder
        return found

    async def _add_waiting(self, found: Json, record: Record, meta: Metadata) -> None:
        pending = await self._pending(record)
        open_steps = [step for step in record.timeline.open.values() if not cancelled(step, pending)]
        listed = open_steps[:MAX_WAITS]
        activities = [step for step in listed if step.kind == "activity" and step.open]
        tasks = [OpenTask(step.spans[-1].task, step.name, step.app) for step in activities]
        told = await self._subject.engine.explainer.explain(record.actor, meta, tasks, found["owner"])
        places = {id(step): place for step, place in zip(activities, told.places, strict=True)}
        waits = told.waits
        found["inMemory"] = told.in_memory
        found["waiting"] = {
            "items": [wait_json(step, places.get(id(step))) for step in listed],
            "total": len(open_steps),
            "events": None if waits.found is None else plain_events(waits.found),
            "nothing": waits.found == () and not open_steps,
            "why": waits.why,
            "later": waits.later,
        }


def wait_json(step: Step, place: Place | None) -> Json:
    """An open step, or one whose next attempt is to come, as something that is waited for."""
    span = step.spans[-1]
    before = step.spans[-2].error if len(step.spans) > 1 else ""
    return {
        "kind": step.kind if step.open else "retry",
        "name": step.name,
        "task": span.task if step.open else step.timer,
        "since": moment(span.at if step.open else span.ended),
        "due": moment(step.due),
        "attempt": len(step.spans),
        "error": span.error or before,
        "instance": step.instance,
        "app": step.app,
        **({"node": place.node, "state": place.state} if place is not None else {}),
    }


def plain_events(waits: Sequence[str]) -> list[str]:
    """The events that the code waits for without a time limit: those with one are in the history."""
    return [
        wait.removeprefix("event ")
        for wait in waits
        if wait.startswith("event ") and not (" until " in wait and wait.endswith(")"))
    ]


def cancelled(step: Step, pending: dict[int, Reminder]) -> bool:
    """Whether the timer of an open step was cancelled: nothing will fire it."""
    return step.timer >= 0 and step.timer not in pending


def state_json(state: WorkflowState) -> Json:
    both = sides(state.reason)
    return {
        "name": state.name,
        "status": state.runtime_status.value,
        "created": moment(state.created_at),
        "updated": moment(state.last_updated_at),
        "started": moment(state.started_at),
        "completed": moment(state.completed_at),
        "scheduled": moment(state.scheduled_at),
        "input": shown(state.serialized_input),
        "output": shown(state.serialized_output),
        "customStatus": shown(state.serialized_custom_status),
        "failure": None if state.failure_details is None else failure_json(state.failure_details),
        "reason": state.reason,
        "sides": None if both is None else {"history": both[0], "code": both[1]},
        "executionId": state.execution_id,
        "generation": state.generation,
        "parent": state.parent_instance_id or "",
        "workflowVersion": state.version,
        "tags": state.tags,
    }


def failure_json(failure: FailureDetails) -> Json:
    return {
        "type": failure.type,
        "message": failure.message,
        "stack": failure.stack,
        "inner": None if failure.inner is None else failure_json(failure.inner),
    }


def meta_json(meta: Metadata) -> Json:
    parent = meta.parent
    return {
        "turn": moment(meta.turn),
        "attempts": meta.attempts,
        "stall": meta.stall if meta.status == RuntimeStatus.STALLED else "",
        "deaths": meta.deaths,
        "unread": meta.inbox_next - meta.inbox_first,
        "parentName": parent.name if parent is not None else "",
        "parentType": parent.type if parent is not None else "",
    }


def step_json(number: int, step: Step, pending: dict[int, Reminder]) -> Json:
    gone = step.open and cancelled(step, pending)
    return {
        "step": number,
        "kind": step.kind,
        "name": step.name,
        "instance": step.instance,
        "app": step.app,
        "due": None if gone else moment(step.due),
        "spans": [_span(span, gone) for span in step.spans],
    }


def _span(span: Span, gone: bool) -> Json:
    return {
        "number": span.number,
        "at": moment(span.at),
        "task": span.task,
        "ended": moment(span.ended),
        "endNumber": span.end_number,
        "outcome": span.outcome or ("cancelled" if gone else ""),
        "error": span.error,
    }


def _event(key: str, value: bytes, stored: bool) -> Json:
    event = readable(key, value)
    number = int(key.removeprefix("history-"))
    found: Json = {"number": number, "key": key, "bytes": len(value)}
    if stored:
        found["stored"] = b64encode(value[:MAX_EVENT]).decode()
    if isinstance(event, str):
        fields: Json = {"error": event}
        return {
            **found,
            "type": "unreadable",
            "at": None,
            "brief": event,
            "fields": shown_value(fields, MAX_EVENT),
        }
    fields = event_json(event)
    kind, _ = fields.pop("type"), fields.pop("at")
    return {
        **found,
        "type": kind,
        "at": event.at,
        "brief": brief(fields),
        "fields": shown_value(fields, MAX_EVENT),
    }


def brief(fields: Json) -> str:
    """What of an event's fields tells people most, on one line."""
    parts = [str(fields[name]) for name in _NAMES if fields.get(name)]
    failure = fields.get("failure")
    if failure:
        parts.append(f"{failure['type']}: {failure['message']}")
    parts += [compact(fields[name]) for name in _PAYLOADS if name in fields]
    if not parts and "id" in fields:
        parts.append(f"task {fields['id']}")
    return cut(" ".join(parts), MAX_CELL)
