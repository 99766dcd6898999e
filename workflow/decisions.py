"""What the workflow code asked for, as history events and effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.statestore.contract import Reminder
from perdure.workflow.commands import (
    CancelTimer,
    CreateTimer,
    ScheduleTask,
    SendEvent,
    StartChild,
    StartDetached,
)
from perdure.workflow.events import (
    ChildScheduled,
    DetachedScheduled,
    EventSent,
    TaskScheduled,
    TimerCreated,
)
from perdure.workflow.keys import timer_name
from perdure.workflow.requests import Raise, Start

if TYPE_CHECKING:
    from perdure.workflow.work import Work


def schedule_task(work: Work, command: ScheduleTask) -> None:
    engine = work.engine
    event = TaskScheduled(
        work.at,
        command.id,
        command.name,
        engine.clock.token(8),
        command.key,
        command.input,
        command.app_id,
    )
    work.history.append(event)
    instance = work.instance
    instance.open[command.id] = event
    work.turn.effects.append((engine.dispatcher.dispatch, (work.actor, instance.meta, event)))


def create_timer(work: Work, command: CreateTimer) -> None:
    work.history.append(TimerCreated(work.at, command.id, command.fire_at, command.origin))
    instance = work.instance
    instance.timers.add(command.id)
    data = instance.meta.execution_id.encode()
    reminder = Reminder(work.actor, timer_name(command.id), command.fire_at, data)
    work.commit.reminders = [*work.commit.reminders, reminder]


def cancel_timer(work: Work, command: CancelTimer) -> None:
    instance = work.instance
    if command.id not in instance.timers:
        return
    instance.timers.discard(command.id)
    name = timer_name(command.id)
    kept = [reminder for reminder in work.commit.reminders if reminder.name != name]
    if len(kept) == len(work.commit.reminders):
        work.commit.delete_reminders = [*work.commit.delete_reminders, name]
    work.commit.reminders = kept


def start_child(work: Work, command: StartChild) -> None:
    engine = work.engine
    event = ChildScheduled(
        work.at,
        command.id,
        command.name,
        command.instance_id,
        engine.clock.token(16).hex(),
        engine.clock.token(8),
        command.input,
        command.app_id,
    )
    work.history.append(event)
    work.instance.open[command.id] = event
    work.turn.effects.append((engine.dispatcher.start_child, (work.actor, work.instance.meta, event)))


def start_detached(work: Work, command: StartDetached) -> None:
    start_id = work.engine.clock.token(16).hex()
    work.history.append(
        DetachedScheduled(
            work.at,
            command.id,
            command.name,
            command.instance_id,
            start_id,
            command.input,
            command.app_id,
            command.scheduled,
        )
    )
    body = Start(command.name, start_id, command.input)
    work.send(work.engine.workflow_type(command.app_id), command.instance_id, body)


def send_event(work: Work, command: SendEvent) -> None:
    work.history.append(
        EventSent(work.at, command.id, command.instance_id, command.name, command.data, command.app_id)
    )
    kind = work.engine.workflow_type(command.app_id)
    work.send(kind, command.instance_id, Raise(command.name, command.data), numbered=True)
