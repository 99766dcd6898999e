"""What the workflow code asked for, as history events and effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.statestore.contract import Reminder
from perdure.workflow.commands import (
    CancelTask,
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
    FailureDetails,
    TaskCancelled,
    TaskScheduled,
    TimerCreated,
    TraceContext,
)
from perdure.workflow.keys import timer_name
from perdure.workflow.requests import Cancel, Raise, Start

if TYPE_CHECKING:
    from perdure.workflow.work import Work


def _asked(work: Work, task_id: int) -> TraceContext | None:
    """The trace context that goes with something asked for; where nobody traces here, that of whoever started the
    workflow."""
    started, tracing = work.instance.started, work.engine.tracing
    if started is None or tracing is None:
        return started.trace if started is not None else None
    return tracing.asked(started, task_id)


def schedule_task(work: Work, command: ScheduleTask) -> None:
    engine, instance = work.engine, work.instance
    started = instance.started
    event = TaskScheduled(
        work.at,
        command.id,
        command.name,
        engine.clock.token(8),
        command.key,
        command.input,
        command.app_id,
        # Mostly there is none, and then it is not worth a call.
        None
        if engine.tracing is None and started is not None and started.trace is None
        else _asked(work, command.id),
        command.attempt,
    )
    work.history.append(event)
    instance.open[command.id] = event
    work.turn.effects.append((engine.dispatcher.dispatch, (work.actor, instance.meta, event)))


def cancel_task(work: Work, command: CancelTask) -> None:
    """Whatever is asked for in this very turn does not leave; who has anything else is told."""
    work.history.append(TaskCancelled(work.at, command.id))
    engine, instance, meta = work.engine, work.instance, work.instance.meta
    task = instance.open.pop(command.id, None)
    if task is None:
        return  # it has answered in this turn
    meta.task_deaths.pop(command.id, None)
    dispatcher, effects = engine.dispatcher, work.turn.effects
    first = [
        effect
        for effect in effects
        if effect[0] in (dispatcher.dispatch, dispatcher.start_child) and effect[1][2] is task
    ]
    if first:
        effects.remove(first[0])
    elif isinstance(task, TaskScheduled):
        request = dispatcher.request(work.actor, meta, task)
        effects.append((dispatcher.cancel, (request, "the workflow does not wait for it any more")))
    else:
        effects.append((dispatcher.child_settled, (work.actor, meta.execution_id, task.id)))
        cancel_child(work, task, f"{meta.name} {work.actor.id} does not wait for it any more")
    if engine.tracing is not None and instance.started is not None:
        ended = (
            engine.tracing.activity_ended if isinstance(task, TaskScheduled) else engine.tracing.child_ended
        )
        failure = FailureDetails("TaskCancelledError", "it was cancelled")
        effects.append((ended, (work.actor.id, instance.started, task, failure, work.at)))


def cancel_child(work: Work, task: ChildScheduled, reason: str) -> None:
    """Lets a child come to an end; where its start has not come yet, that is refused."""
    kind = work.engine.workflow_type(task.app_id)
    work.send(kind, task.instance_id, Cancel(reason, task.start_id))


def create_timer(work: Work, command: CreateTimer) -> None:
    event = TimerCreated(work.at, command.id, command.fire_at, command.origin)
    work.history.append(event)
    instance = work.instance
    instance.timers[command.id] = event
    data = instance.meta.execution_id.encode()
    reminder = Reminder(work.actor, timer_name(command.id), command.fire_at, data)
    work.commit.reminders = [*work.commit.reminders, reminder]


def cancel_timer(work: Work, command: CancelTimer) -> None:
    instance = work.instance
    if instance.timers.pop(command.id, None) is None:
        return
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
        _asked(work, command.id),
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
    started, tracing = work.instance.started, work.engine.tracing
    trace = tracing.follows(started) if tracing is not None and started is not None else None
    body = Start(command.name, start_id, command.input, trace=trace, scheduled=command.scheduled)
    work.send(work.engine.workflow_type(command.app_id), command.instance_id, body)


def send_event(work: Work, command: SendEvent) -> None:
    work.history.append(
        EventSent(work.at, command.id, command.instance_id, command.name, command.data, command.app_id)
    )
    kind = work.engine.workflow_type(command.app_id)
    work.send(kind, command.instance_id, Raise(command.name, command.data), numbered=True)
