"""Control messages: turns of the engine, without user code."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.actors.messages import Message
from perdure.errors import InstanceNotFound, InvalidState
from perdure.logs import fields
from perdure.statestore.contract import Reminder
from perdure.workflow import metadata
from perdure.workflow.decisions import cancel_child
from perdure.workflow.ending import finish
from perdure.workflow.events import (
    CancelRequested,
    ChildScheduled,
    ExecutionResumed,
    ExecutionSuspended,
    ExecutionTerminated,
    FailureDetails,
)
from perdure.workflow.instance import Instance
from perdure.workflow.keys import FORGET
from perdure.workflow.metadata import PURGED, Metadata
from perdure.workflow.requests import Cancel, Purge, Terminate
from perdure.workflow.stall import UNREADABLE
from perdure.workflow.state import RuntimeStatus

if TYPE_CHECKING:
    from perdure.workflow.work import Work

log = logging.getLogger("perdure.workflow")

#: How long a tombstone keeps the start id of a purged instance, in microseconds.
TOMBSTONE = 24 * 3600 * 1_000_000


def _controlled(work: Work, message: Message, finished: str = "") -> Instance | None:
    """The instance that a control message is for; None when it has been answered. `finished` says what cannot be
    done to a finished instance."""
    instance = work.behaviour.instance
    if instance is None or instance.purged:
        work.answer(message, InstanceNotFound())
        return None
    if message.identity is not None and instance.meta.knows(message.identity):
        work.answer(message)
        return None
    if finished and instance.finished:
        work.answer(message, InvalidState(f"the instance is {instance.meta.status}; it {finished}"))
        return None
    if message.identity is not None:
        instance.meta.accept(message.identity, work.at)
    return instance


def suspend(work: Work, message: Message) -> None:
    instance = _controlled(work, message, "cannot be paused")
    if instance is None:
        return
    work.answer(message)
    if instance.meta.status == RuntimeStatus.SUSPENDED:
        return
    if instance.meta.history:
        work.history.append(ExecutionSuspended(work.at, message.body.reason))
    work.set_status(RuntimeStatus.SUSPENDED, message.body.reason)
    if not instance.meta.started:
        work.give_slot_back()
    work.taking = False


def resume(work: Work, message: Message) -> None:
    instance = _controlled(work, message, "cannot be resumed")
    if instance is None:
        return
    work.answer(message)
    meta = instance.meta
    if meta.status not in (RuntimeStatus.SUSPENDED, RuntimeStatus.STALLED):
        return
    if meta.status == RuntimeStatus.SUSPENDED and meta.history:
        work.history.append(ExecutionResumed(work.at, message.body.reason))
    unreadable = meta.stall == UNREADABLE
    meta.deaths, meta.stall, meta.attempts = 0, "", 0
    meta.task_deaths = {}
    work.set_status(RuntimeStatus.RUNNING if meta.history else RuntimeStatus.PENDING)
    work.behaviour.resumed()
    if unreadable:
        # On what the store has now, not on what is in memory, where something is missing.
        work.turn.effects.append((work.behaviour.activation.load, ()))
        return
    work.taking = work.behaviour.may_run()
    work.turn.effects.append((work.behaviour.activation.wake, ()))


def terminate(work: Work, message: Message) -> None:
    body: Terminate = message.body
    instance = work.behaviour.instance
    if body.start_id and (instance is None or instance.meta.start_id != body.start_id):
        work.answer(message)
        if instance is None:
            bury(work, body.start_id)
        return
    instance = _controlled(work, message)
    if instance is None:
        return
    work.answer(message)
    if instance.finished:
        return
    work.begin_unread()
    work.history.append(ExecutionTerminated(work.at, body.reason, body.output, body.recursive))
    if body.recursive:
        cascade(work, instance)
    failure = FailureDetails("WorkflowTerminated", body.reason or "the workflow was terminated")
    finish(work, "terminated", body.output, failure if body.reason else None)


def cancel(work: Work, message: Message) -> None:
    body: Cancel = message.body
    instance = work.behaviour.instance
    if body.start_id and (instance is None or instance.meta.start_id != body.start_id):
        work.answer(message)
        if instance is None:
            bury(work, body.start_id)
        return
    instance = _controlled(work, message)
    if instance is None:
        return
    if instance.finished:
        work.answer(message)
    elif instance.meta.history or work.arrivals:
        work.arrive(message, body)
    else:
        # Nothing of it has run: there is nothing to undo.
        work.answer(message)
        work.begin_unread()
        work.history.append(CancelRequested(work.at, body.reason))
        failure = FailureDetails(
            "WorkflowCancelled", body.reason or "the workflow was cancelled before it began"
        )
        finish(work, "terminated", None, failure)


def cancelled(work: Work, failure: FailureDetails) -> None:
    """The code has come to its end by having been cancelled. Children that it did not wait for are cancelled too."""
    for task in work.instance.open.values():
        if isinstance(task, ChildScheduled):
            cancel_child(work, task, failure.message)
    finish(work, "terminated", None, failure)


def cascade(work: Work, instance: Instance) -> None:
    """Terminates the children that it waits for."""
    for task in instance.open.values():
        if isinstance(task, ChildScheduled):
            kind = work.engine.workflow_type(task.app_id)
            work.send(kind, task.instance_id, Terminate(recursive=True, start_id=task.start_id))


def bury(work: Work, start_id: str) -> None:
    """Leaves a tombstone, so that a start that comes later is refused."""
    meta = Metadata("", PURGED, start_id, start_id, created=work.at)
    work.behaviour.replace(Instance(work.actor, meta))
    work.commit.put["metadata"] = metadata.encode(meta)
    _forget_later(work)


def _forget_later(work: Work) -> None:
    due = max(work.at + TOMBSTONE, _keys_until(work))
    work.commit.reminders = [*work.commit.reminders, Reminder(work.actor, FORGET, due)]


def _keys_until(work: Work) -> int:
    """For how long callers may send again what this actor has taken."""
    instance = work.behaviour.instance
    if instance is None or instance.receipts is None:
        return 0
    return instance.receipts.last() + work.engine.keep_keys


def forget(work: Work, message: Message) -> None:
    instance = work.behaviour.instance
    work.answer(message)
    if instance is None or not instance.purged:
        work.commit.delete_reminders = [*work.commit.delete_reminders, FORGET]
    elif instance.outbox or _keys_until(work) > work.at:
        _forget_later(work)
    else:
        work.commit.reset = True
        work.commit.delete_row = True
        work.behaviour.replace(None)


def purge(work: Work, message: Message, children: list[ChildScheduled]) -> None:
    """Called by the behaviour with all children of the history, which only the store has."""
    body: Purge = message.body
    old = work.instance
    if message.identity is not None:
        old.meta.accept(message.identity, work.at)
    meta = Metadata(
        old.meta.name,
        PURGED,
        old.meta.start_id,
        old.meta.execution_id,
        generation=old.meta.generation,
        created=work.at,
        turn=work.at,
        accepted=old.meta.accepted,
        past=old.meta.past,
        number=old.meta.number,
        outbox_next=old.meta.outbox_next,
    )
    new = Instance(work.actor, meta)
    if body.force:
        log.warning("instance.forced_away", extra=fields(instance=work.actor.id))
        old.outbox.clear()
    work.reset(new, old)
    work.behaviour.replace(new)
    for child in children if body.recursive else ():
        kind = work.engine.workflow_type(child.app_id)
        work.send(kind, child.instance_id, Purge(recursive=True, force=body.force, start_id=child.start_id))
    work.commit.delete_row = True
    _forget_later(work)
    work.commit.put["metadata"] = metadata.encode(meta)
    work.answer(message)
    work.close()


def wait(work: Work, message: Message) -> None:
    # Once this turn is durable: until then the message may come back into the mailbox.
    work.turn.answers.append((work.behaviour.wait, message))


def granted(work: Work, message: Message) -> None:
    work.answer(message)
    admission = work.engine.admission
    if admission is not None:
        work.turn.effects.append((admission.granted, (work.actor,)))
