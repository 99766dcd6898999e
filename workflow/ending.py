"""How an execution ends: its result, what it leaves behind, or the next execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.actors.turn import Effect
from perdure.payload import Payload
from perdure.workflow.commands import (
    ContinuedAsNew,
)
from perdure.workflow.events import (
    Arrival,
    CancelRequested,
    EventRaised,
    ExecutionCompleted,
    FailureDetails,
    Parent,
    TaskScheduled,
)
from perdure.workflow.instance import Instance
from perdure.workflow.keys import NO_STATUS, inbox_key
from perdure.workflow.metadata import Metadata
from perdure.workflow.requests import Cancel, ChildDone, Raise, Start
from perdure.workflow.state import RuntimeStatus

if TYPE_CHECKING:
    from perdure.workflow.work import Work


def finish(work: Work, status: str, result: Payload, failure: FailureDetails | None) -> None:
    instance = work.instance
    meta = instance.meta
    event = ExecutionCompleted(work.at, status, result, failure)
    work.history.append(event)
    instance.ended = event
    meta.completed = work.at
    monitor, ran = work.engine.monitor, work.at - (meta.started or work.at)
    if status == "completed":
        work.turn.effects.append((monitor.completed[meta.name].append, (ran,)))
    else:
        work.turn.effects.append((monitor.ended, (meta.name, status, ran)))
    if work.engine.tracing is not None:
        _trace_end(work, instance, status, failure)
    work.set_status(RuntimeStatus(status))
    meta.deaths, meta.task_deaths, meta.stall, meta.attempts, meta.waiting = 0, {}, "", 0, ""
    _leave_behind(work, instance, drop_activities=status == "terminated")
    if instance.inbox:
        work.commit.delete = [*work.commit.delete, *(inbox_key(n) for n, _ in instance.inbox)]
        work.commit.delete = [key for key in work.commit.delete if key not in work.commit.put]
        for number, _ in instance.inbox:
            work.commit.put.pop(inbox_key(number), None)
        instance.inbox.clear()
        meta.inbox_first = meta.inbox_next
    if instance.timers or work.commit.reminders or meta.early:
        work.commit.clear_reminders = True
        meta.early = False
        work.commit.reminders = ()
        instance.timers.clear()
    _tell_parent(work, meta.parent, result, failure, status)
    work.give_slot_back()
    work.behaviour.close_run()


def _trace_end(work: Work, instance: Instance, status: str, failure: FailureDetails | None) -> None:
    tracing, started = work.engine.tracing, instance.started
    if tracing is not None and started is not None:
        left = list(instance.open.values())
        told = (work.actor.id, started, status, failure, left, work.at)
        work.turn.effects.append((tracing.execution_ended, told))


def _tell_parent(
    work: Work, parent: Parent | None, result: Payload, failure: FailureDetails | None, status: str
) -> None:
    if parent is None:
        return
    if status == "terminated":
        failure = failure or FailureDetails("WorkflowTerminated", "the child workflow was terminated")
    done = ChildDone(parent.execution_id, parent.task_id, parent.nonce, None if failure else result, failure)
    work.send(parent.type, parent.id, done)


def _leave_behind(work: Work, instance: Instance, *, drop_activities: bool) -> None:
    """What an execution asked for and did not wait for is still done: its requests go to the outbox."""
    meta = instance.meta
    dispatcher = work.engine.dispatcher
    settled: list[Effect] = []
    for task in instance.open.values():
        if isinstance(task, TaskScheduled):
            request = dispatcher.request(work.actor, meta, task)
            if drop_activities:
                settled.append((dispatcher.cancel, (request, f"the workflow was {meta.status}")))
            else:
                work.send(dispatcher.activity_type(task.app_id), request.activity_id, request)
        elif dispatcher.child_started(work.actor, meta.execution_id, task.id):
            settled.append((dispatcher.child_settled, (work.actor, meta.execution_id, task.id)))
        else:
            kind = work.engine.workflow_type(task.app_id)
            if not drop_activities:
                work.send(kind, task.instance_id, dispatcher.child_start(work.actor, meta, task))
    # Their first dispatch of this turn is the outbox's now.
    work.turn.effects[:] = [
        effect
        for effect in work.turn.effects
        if effect[0] not in (dispatcher.dispatch, dispatcher.start_child)
    ]
    work.turn.effects += settled
    instance.open.clear()


def continue_as_new(work: Work, outcome: ContinuedAsNew, rest: list[Arrival]) -> None:
    behaviour, old = work.behaviour, work.instance
    assert behaviour.run is not None
    carried: list[EventRaised] = []
    if outcome.save_events:
        carried = list(behaviour.run.unread_events())
    # Arrivals that the ended execution never saw are not its to lose.
    carried += [event for event in rest if type(event) is EventRaised]
    previous, tracing = old.started, work.engine.tracing
    assert previous is not None
    _trace_end(work, old, "continued_as_new", None)
    _leave_behind(work, old, drop_activities=False)
    meta = Metadata(
        old.meta.name,
        RuntimeStatus.RUNNING,
        old.meta.start_id,
        work.engine.clock.token(16).hex(),
        generation=old.meta.generation + 1,
        version=old.meta.version,
        created=old.meta.created,
        started=old.meta.started,
        turn=work.at,
        parent=old.meta.parent,
        tags=old.meta.tags,
        accepted=old.meta.accepted,
        past=old.meta.past,
        number=old.meta.number,
        outbox_next=old.meta.outbox_next,
        slot=old.meta.slot,
        scheduled=old.meta.scheduled,
    )
    new = Instance(work.actor, meta)
    work.history.clear()
    work.reset(new, old)
    work.commit.put["customStatus"] = NO_STATUS
    work.commit.reminders = ()
    behaviour.replace(new)
    start = Start(
        previous.name,
        previous.start_id,
        outcome.input,
        previous.parent,
        previous.version,
        # A trace of its own: one of a workflow that goes on for ever would have no end.
        tracing.follows(previous) if tracing is not None else previous.trace,
        previous.tags,
    )
    work.receive(start)
    for event in carried:
        work.receive(Raise(event.name, event.data))
    for cancel in rest:
        if type(cancel) is CancelRequested:
            work.receive(Cancel(cancel.reason))
    work.row = True
    work.turn.effects.append((behaviour.activation.wake, ()))
