"""How an instance comes to be: what a start finds under its id, and the time of one that was scheduled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.actors.messages import Message
from perdure.errors import AlreadyExists, KeyReused
from perdure.statestore.contract import Reminder
from perdure.workflow import controls, ending
from perdure.workflow.events import FailureDetails
from perdure.workflow.instance import Instance, describe
from perdure.workflow.keys import NO_STATUS, START
from perdure.workflow.metadata import Metadata
from perdure.workflow.receipts import Receipt, Receipts, start_digest
from perdure.workflow.requests import Start, StartDue
from perdure.workflow.stall import Purged
from perdure.workflow.state import RuntimeStatus

if TYPE_CHECKING:
    from perdure.workflow.work import Work


def start(work: Work, message: Message) -> None:
    body: Start = message.body
    old = work.behaviour.instance
    if old is not None:
        if old.meta.start_id == body.start_id:
            # The same start again: its outcome, if it is still owed, is in the outbox.
            work.answer(message, Purged() if old.purged else True)
            return
        if body.start_id in old.meta.past:
            # It comes late: that instance has been, and another has its id.
            work.answer(message)
            return
        if body.key and _started_before(work, message, old):
            return
        if not old.purged and not _makes_room(work, message, old):
            return
    instance = _create(work, body, old)
    # A new instance waits for nothing but its time: its first turn is this one.
    work.taking = work.behaviour.may_run()
    if not work.taking:
        if not instance.meta.early:
            instance.meta.reason = work.behaviour.held_back()
    elif message.redelivered or work.behaviour.suspicion.lately():
        # Its first turn may be what ended the process that tried it before: it is durable before it runs, so that
        # this can be counted.
        work.taking, work.suspects_code = False, True
    work.arrive(message, body)


def due(work: Work, message: Message) -> None:
    """The time of a scheduled start has come."""
    body: StartDue = message.body
    work.answer(message)
    instance = work.behaviour.instance
    if instance is None:
        return
    meta = instance.meta
    if meta.early and meta.start_id != body.start_id:
        # It comes late, for an instance that had this id: the reminder that is there is another's.
        return
    work.commit.delete_reminders = [*work.commit.delete_reminders, START]
    if not meta.early:
        return
    meta.early = False
    work.taking = work.behaviour.may_run()
    if not work.taking and meta.status == RuntimeStatus.PENDING:
        meta.reason = work.behaviour.held_back()
        work.row = True
    # If it may not run in this turn, it is to ask for that.
    work.turn.effects.append((work.behaviour.activation.wake, ()))


def _started_before(work: Work, message: Message, old: Instance) -> bool:
    """Whether a start with this key has been taken; then it is answered."""
    body: Start = message.body
    if old.receipts is None:
        return False
    digest = start_digest(body.name, body.input, body.tags)
    # What was purged is there no more.
    there = "" if old.purged else old.meta.start_id
    try:
        if not old.receipts.start(body.key, digest, work.at - work.engine.keep_keys, there):
            return False
    except KeyReused as error:
        work.answer(message, error)
    else:
        work.answer(message)
    return True


def _makes_room(work: Work, message: Message, old: Instance) -> bool:
    """Whether the instance that has the id gives way. If not, the start is answered, or comes again in a turn of its
    own."""
    body: Start = message.body
    if body.if_exists == "return":
        work.answer(message)
        return False
    if body.if_exists == "refuse":
        work.answer(
            message, AlreadyExists(f"there is an instance '{work.actor.id}', which is {old.meta.status}")
        )
        return False
    if old.finished:
        return True
    if body.if_exists != "replace":
        work.answer(message, AlreadyExists(f"an active workflow with ID '{work.actor.id}' already exists"))
        return False
    if not old.meta.turn:
        # It began in this turn: whoever started it is told so when it is durable, so it may not be gone by then.
        work.turn.messages = [other for other in work.turn.messages if other is not message]
        work.behaviour.activation.mailbox.append(message)
        return False
    _end(work, old)
    return True


def _end(work: Work, old: Instance) -> None:
    """Terminates an instance in the turn that begins the next one under its id."""
    # What has come for it in this turn is not for the next one.
    work.arrivals.clear()
    work.begin_unread()
    controls.cascade(work, old)
    old.meta.turn = work.at
    failure = FailureDetails("WorkflowTerminated", "another start took its place")
    ending.finish(work, "terminated", None, failure)
    # Its history goes with it. Whoever waits for it is told how it ended.
    work.history.clear()
    work.behaviour.replaced = describe(old.row())


def _create(work: Work, body: Start, old: Instance | None) -> Instance:
    meta = Metadata(
        body.name,
        RuntimeStatus.PENDING,
        body.start_id,
        body.start_id,
        version=body.version,
        created=work.at,
        parent=body.parent,
        tags=body.tags,
    )
    new = Instance(work.actor, meta)
    if old is not None:
        meta.generation = old.meta.generation + 1
        meta.accepted, meta.number = old.meta.accepted, old.meta.number
        meta.past = old.meta.past_with(old.meta.start_id, work.at)
        meta.outbox_next = old.meta.outbox_next
        work.reset(new, old)
    if body.scheduled is not None:
        meta.scheduled = body.scheduled
        meta.early = body.scheduled > work.at
        if meta.early:
            data = body.start_id.encode()
            work.commit.reminders = [Reminder(work.actor, START, body.scheduled, data)]
    if body.key:
        new.receipts = new.receipts or Receipts()
        receipt = Receipt(start_digest(body.name, body.input, body.tags), work.at, body.start_id)
        new.receipts.add_start(body.key, receipt, work.at - work.engine.keep_keys)
    work.commit.put["customStatus"] = NO_STATUS
    work.behaviour.replace(new)
    work.row = True
    return new
