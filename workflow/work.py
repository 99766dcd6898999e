"""One turn of a workflow actor: messages in, history and effects out, all in one commit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from perdure.actors.messages import Message
from perdure.actors.turn import Turn
from perdure.errors import (
    AlreadyExists,
    InstanceNotFound,
    InvalidState,
    LoopBlocked,
    NotRegistered,
    PerdureError,
)
from perdure.payload import Payload
from perdure.statestore.contract import Reminder
from perdure.workflow import events, metadata, requests, stall
from perdure.workflow.commands import (
    CancelTimer,
    Completed,
    ContinuedAsNew,
    CreateTimer,
    Failed,
    ScheduleTask,
    SendEvent,
    StartChild,
    StartDetached,
)
from perdure.workflow.events import (
    Arrival,
    ChildCompleted,
    ChildFailed,
    ChildScheduled,
    DetachedScheduled,
    Event,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    FailureDetails,
    Parent,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from perdure.workflow.instance import Instance
from perdure.workflow.metadata import PURGED, Metadata
from perdure.workflow.requests import (
    ActivityDone,
    ActivityRequest,
    ChildDone,
    Forget,
    Outgoing,
    Purge,
    Raise,
    Resume,
    Sent,
    Start,
    Suspend,
    Terminate,
    TimerDue,
    Wait,
    Waiting,
)
from perdure.workflow.stall import Stalled
from perdure.workflow.state import RuntimeStatus

if TYPE_CHECKING:
    from perdure.workflow.orchestrator import WorkflowBehaviour

log = logging.getLogger("perdure.workflow")

#: Handled before all other messages of a turn, without user code.
CONTROL = (Suspend, Resume, Terminate, Wait, Forget)
#: How long a tombstone keeps the start id of a purged instance, in microseconds.
TOMBSTONE = 24 * 3600 * 1_000_000


class Purged(PerdureError):
    """The instance of this start was purged or terminated before it began."""

    code = "ERR_PURGED"


class Work:
    """INVARIANT: `at` is later than the last turn's, and not before any timer that this turn fires."""

    __slots__ = ("actor", "arrivals", "at", "behaviour", "commit", "engine", "history", "row", "taking", "turn")

    def __init__(self, behaviour: WorkflowBehaviour, turn: Turn, *, taking: bool) -> None:
        self.behaviour = behaviour
        self.engine = behaviour.engine
        self.actor = turn.commit.actor
        self.turn = turn
        self.commit = turn.commit
        #: Whether arrivals go to the workflow code; otherwise they wait in the inbox.
        self.taking = taking
        self.arrivals: list[Arrival] = []
        self.history: list[Event] = []
        #: Whether the index row changes.
        self.row = False
        instance = behaviour.instance
        now = behaviour.engine.clock.now()
        self.at = max(now, instance.meta.turn + 1) if instance is not None else now

    @property
    def instance(self) -> Instance:
        instance = self.behaviour.instance
        assert instance is not None
        return instance

    # --- the whole turn --------------------------------------------------------------------------------------------

    def do(self) -> Turn:
        """Raises `Stalled` when the workflow code could not be run; memory must then be read again."""
        messages = self.turn.messages
        controls = False
        for message in messages:
            body = message.body
            if type(body) is TimerDue:
                self.at = max(self.at, body.due)
            elif isinstance(body, CONTROL):
                controls = True
        if controls:
            self._handle(m for m in messages if isinstance(m.body, CONTROL))
            messages = [m for m in messages if not isinstance(m.body, CONTROL)]
        if self.taking and self.behaviour.instance is not None:
            self._take_inbox()
        self._handle(messages)
        if self.arrivals:
            self._advance()
        if self.behaviour.instance is not None:
            self.close()
        return self.turn

    def _handle(self, messages: Iterable[Message]) -> None:
        for message in messages:
            HANDLERS[type(message.body)](self, message)

    def close(self) -> None:
        """Writes what every turn writes."""
        instance, commit, behaviour = self.instance, self.commit, self.behaviour
        if behaviour.acked:
            commit.delete = [*commit.delete, *(outbox_key(n) for n in behaviour.acked if n in instance.outbox)]
            for number in behaviour.acked:
                instance.outbox.pop(number, None)
            behaviour.acked.clear()
        meta = instance.meta
        put = commit.put
        number = meta.history
        for event in self.history:
            put[f"history-{number:06d}"] = events.encode(event)
            number += 1
        meta.history = instance.scanned = number
        if not self.turn.changes and not self.row:
            return
        meta.turn = self.at
        put["metadata"] = metadata.encode(meta)
        if self.row and not instance.purged:
            commit.row = instance.row()
        owes = instance.owes
        if owes != behaviour.activation.recover and (owes or instance.complete):
            commit.recover = owes

    # --- messages: each handler answers, or adds an arrival that is answered with the turn ----------------------------

    def _answer(self, message: Message, value: Any = True) -> None:
        self.turn.answers.append((message.answer, value))

    def _arrive(self, message: Message, body: Waiting) -> None:
        """A message that is for the code: now, or from the inbox when the code can be run."""
        self._answer(message)
        if self.taking:
            self.arrivals.append(self._arrival(body))
        else:
            self._receive(body)

    def _receive(self, body: Waiting) -> None:
        instance = self.instance
        number = instance.meta.inbox_next
        instance.meta.inbox_next = number + 1
        instance.inbox.append((number, body))
        self.commit.put[f"inbox-{number:06d}"] = requests.encode(body)

    def _take_inbox(self) -> None:
        instance = self.instance
        if not instance.inbox:
            return
        delete = []
        for number, body in instance.inbox:
            delete.append(f"inbox-{number:06d}")
            if type(body) is TimerDue:
                self.at = max(self.at, body.due)
        for _, body in instance.inbox:
            self.arrivals.append(self._arrival(body))
        instance.inbox.clear()
        instance.meta.inbox_first = instance.meta.inbox_next
        self.commit.delete = [*self.commit.delete, *delete]

    def _arrival(self, body: Waiting) -> Arrival:
        kind = type(body)
        if kind is ActivityDone:
            if body.failure is not None:  # type: ignore[union-attr]
                return TaskFailed(self.at, body.task_id, body.failure)  # type: ignore[union-attr]
            return TaskCompleted(self.at, body.task_id, body.result)  # type: ignore[union-attr]
        if kind is Raise:
            return EventRaised(self.at, body.name, body.data)  # type: ignore[union-attr]
        if kind is TimerDue:
            return TimerFired(self.at, body.task_id)  # type: ignore[union-attr]
        if kind is ChildDone:
            if body.failure is not None:  # type: ignore[union-attr]
                return ChildFailed(self.at, body.task_id, body.failure)  # type: ignore[union-attr]
            return ChildCompleted(self.at, body.task_id, body.result)  # type: ignore[union-attr]
        assert isinstance(body, Start)
        meta = self.instance.meta
        return ExecutionStarted(
            self.at,
            body.name,
            body.start_id,
            meta.execution_id,
            generation=meta.generation,
            input=body.input,
            version=body.version,
            parent=body.parent,
            trace=body.trace,
            tags=body.tags,
        )

    def activity_done(self, message: Message) -> None:
        body: ActivityDone = message.body
        instance = self.behaviour.instance
        if instance is None:
            self._answer(message)
            return
        if instance.match(body) is None:
            self._settle_outbox(instance, body)
            self._answer(message)
            return
        del instance.open[body.task_id]
        if instance.meta.task_deaths:
            instance.meta.task_deaths.pop(body.task_id, None)
        self._arrive(message, body)

    def _settle_outbox(self, instance: Instance, body: ActivityDone) -> None:
        """An activity that its execution did not wait for has run."""
        for number, entry in instance.outbox.items():
            sent = entry.body
            if isinstance(sent, ActivityRequest) and (sent.execution_id, sent.task_id, sent.nonce) == (
                body.execution_id,
                body.task_id,
                body.nonce,
            ):
                self.behaviour.acked.add(number)

    def child_done(self, message: Message) -> None:
        body: ChildDone = message.body
        instance = self.behaviour.instance
        if instance is None or instance.match(body) is None:
            self._answer(message)
            return
        del instance.open[body.task_id]
        self.engine.dispatcher.child_settled(self.actor, body.execution_id, body.task_id)
        self._arrive(message, body)

    def timer_due(self, message: Message) -> None:
        body: TimerDue = message.body
        instance = self.behaviour.instance
        if instance is None:
            self._answer(message)
            return
        self.commit.delete_reminders = [*self.commit.delete_reminders, timer_name(body.task_id)]
        if body.execution_id != instance.meta.execution_id or body.task_id not in instance.timers:
            self._answer(message)
            return
        instance.timers.discard(body.task_id)
        self._arrive(message, body)

    def raised(self, message: Message) -> None:
        instance = self.behaviour.instance
        if instance is None or instance.purged:
            self._answer(message, InstanceNotFound())
            return
        if message.identity is not None and not instance.meta.accept(message.identity, self.at):
            self._answer(message)
            return
        if instance.finished:
            self._answer(message, InvalidState(f"the instance is {instance.meta.status}; it takes no more events"))
            return
        self._arrive(message, message.body)

    def start(self, message: Message) -> None:
        body: Start = message.body
        instance = self.behaviour.instance
        if instance is not None and instance.meta.start_id == body.start_id:
            # The same start again: its outcome, if it is still owed, is in the outbox.
            self._answer(message, Purged() if instance.purged else True)
            return
        if instance is not None and not instance.purged and not instance.finished:
            self._answer(message, AlreadyExists(f"an active workflow with ID '{self.actor.id}' already exists"))
            return
        self._create(body, instance)
        # A new instance waits for nothing: its first turn is this one.
        self.taking = self.behaviour.may_run()
        self._arrive(message, body)

    def _create(self, body: Start, old: Instance | None) -> None:
        meta = Metadata(
            body.name,
            RuntimeStatus.PENDING,
            body.start_id,
            body.start_id,
            version=body.version,
            created=self.at,
            parent=body.parent,
            tags=body.tags,
        )
        new = Instance(self.actor, meta)
        if old is not None:
            meta.generation = old.meta.generation + 1
            meta.accepted, meta.number = old.meta.accepted, old.meta.number
            meta.outbox_next = old.meta.outbox_next
            self._reset(new, old)
        self.behaviour.replace(new)
        self.row = True

    def _reset(self, new: Instance, old: Instance) -> None:
        """The commit replaces all keys; what is owed goes on."""
        self.commit.reset = True
        self.commit.clear_reminders = True
        self.commit.delete = ()
        self.commit.put.clear()
        for number, entry in old.outbox.items():
            if number not in self.behaviour.acked:
                new.outbox[number] = entry
                self.commit.put[outbox_key(number)] = requests.encode(entry)
        self.behaviour.acked.clear()

    # --- control messages --------------------------------------------------------------------------------------------

    def _controlled(self, message: Message) -> Instance | None:
        """The instance that a control message is for; None when it has been answered."""
        instance = self.behaviour.instance
        if instance is None or instance.purged:
            self._answer(message, InstanceNotFound())
            return None
        if message.identity is not None and not instance.meta.accept(message.identity, self.at):
            self._answer(message)
            return None
        return instance

    def suspend(self, message: Message) -> None:
        instance = self._controlled(message)
        if instance is None:
            return
        if instance.finished:
            self._answer(message, InvalidState(f"the instance is {instance.meta.status}; it cannot be paused"))
            return
        self._answer(message)
        if instance.meta.status == RuntimeStatus.SUSPENDED:
            return
        if instance.meta.history:
            self.history.append(ExecutionSuspended(self.at, message.body.reason))
        self._set_status(RuntimeStatus.SUSPENDED, message.body.reason)
        self.taking = False

    def resume(self, message: Message) -> None:
        instance = self._controlled(message)
        if instance is None:
            return
        if instance.finished:
            self._answer(message, InvalidState(f"the instance is {instance.meta.status}; it cannot be resumed"))
            return
        self._answer(message)
        meta = instance.meta
        if meta.status not in (RuntimeStatus.SUSPENDED, RuntimeStatus.STALLED):
            return
        if meta.status == RuntimeStatus.SUSPENDED and meta.history:
            self.history.append(ExecutionResumed(self.at, message.body.reason))
        meta.deaths, meta.stall, meta.attempts = 0, "", 0
        meta.task_deaths = {}
        self._set_status(RuntimeStatus.RUNNING if meta.history else RuntimeStatus.PENDING)
        self.behaviour.resumed()
        self.taking = self.behaviour.may_run()
        self.turn.effects.append((self.behaviour.activation.wake, ()))

    def _set_status(self, status: RuntimeStatus, reason: str = "") -> None:
        meta = self.instance.meta
        meta.status, meta.reason = status, reason
        self.row = True

    def terminate(self, message: Message) -> None:
        body: Terminate = message.body
        instance = self.behaviour.instance
        if body.start_id and (instance is None or instance.meta.start_id != body.start_id):
            self._answer(message)
            if instance is None:
                self._bury(body.start_id)
            return
        instance = self._controlled(message)
        if instance is None:
            return
        self._answer(message)
        if instance.finished:
            return
        self.history.append(ExecutionTerminated(self.at, body.reason, body.output, body.recursive))
        if body.recursive:
            self._cascade(instance)
        failure = FailureDetails("WorkflowTerminated", body.reason or "the workflow was terminated")
        self._finish("terminated", body.output, failure if body.reason else None)

    def _cascade(self, instance: Instance) -> None:
        for task in instance.open.values():
            if isinstance(task, ChildScheduled):
                kind = self.engine.workflow_type(task.app_id)
                self._send(kind, task.instance_id, Terminate(recursive=True, start_id=task.start_id))

    def _bury(self, start_id: str) -> None:
        """Leaves a tombstone, so that a start that comes later is refused."""
        meta = Metadata("", PURGED, start_id, start_id, created=self.at)
        self.behaviour.replace(Instance(self.actor, meta))
        self.commit.put["metadata"] = metadata.encode(meta)
        self._forget_later()

    def _forget_later(self) -> None:
        due = self.at + TOMBSTONE
        self.commit.reminders = [*self.commit.reminders, Reminder(self.actor, FORGET, due)]

    def forget(self, message: Message) -> None:
        instance = self.behaviour.instance
        self._answer(message)
        if instance is None or not instance.purged:
            self.commit.delete_reminders = [*self.commit.delete_reminders, FORGET]
        elif instance.outbox:
            self._forget_later()
        else:
            self.commit.reset = True
            self.commit.delete_row = True
            self.behaviour.replace(None)

    def purge(self, message: Message, children: list[ChildScheduled]) -> None:
        """Called by the behaviour with all children of the history, which only the store has."""
        body: Purge = message.body
        old = self.instance
        meta = Metadata(
            old.meta.name,
            PURGED,
            old.meta.start_id,
            old.meta.execution_id,
            generation=old.meta.generation,
            created=self.at,
            turn=self.at,
            accepted=old.meta.accepted,
            number=old.meta.number,
            outbox_next=old.meta.outbox_next,
        )
        new = Instance(self.actor, meta)
        if body.force:
            log.warning("instance.forced_away", extra={"perdure_fields": {"instance": self.actor.id}})
            old.outbox.clear()
        self._reset(new, old)
        self.behaviour.replace(new)
        for child in children if body.recursive else ():
            kind = self.engine.workflow_type(child.app_id)
            self._send(kind, child.instance_id, Purge(recursive=True, force=body.force, start_id=child.start_id))
        self.commit.delete_row = True
        self._forget_later()
        self.commit.put["metadata"] = metadata.encode(meta)
        self._answer(message)
        self.close()

    def wait(self, message: Message) -> None:
        self.behaviour.waiters.append(message)
        # Answered by `committed`, which also looks at waits that are satisfied already.

    # --- the workflow code -------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Runs the code over the arrivals and writes down what it decided."""
        meta = self.instance.meta
        first = self.arrivals[0]
        if type(first) is ExecutionStarted and not self._begin(first):
            return
        run = self.behaviour.run
        assert run is not None
        rest: list[Arrival] = []
        try:
            for index, event in enumerate(self.arrivals):
                run.apply(event)
                self.history.append(event)
                if run.outcome is not None:
                    rest = self.arrivals[index + 1 :]
                    break
        except LoopBlocked as error:
            raise Stalled(stall.BLOCKED, str(error) or LoopBlocked.__doc__ or "") from error
        for command in run.take_commands():
            DECISIONS[type(command)](self, command)
        if meta.status in (RuntimeStatus.STALLED, RuntimeStatus.PENDING):
            meta.stall, meta.attempts = "", 0
            self._set_status(RuntimeStatus.RUNNING)
        meta.deaths = 0
        self.behaviour.code_settled()
        self._status_of(run.custom_status)
        self._outcome(run.outcome, rest)

    def _begin(self, started: ExecutionStarted) -> bool:
        meta = self.instance.meta
        meta.started = self.at
        self._set_status(RuntimeStatus.RUNNING)
        self.instance.started = started
        try:
            self.behaviour.run = self.engine.new_run(self.actor, started)
        except NotRegistered as error:
            self.history.append(started)
            self._finish("failed", None, FailureDetails("WorkflowNotRegistered", error.message, non_retriable=True))
            return False
        return True

    def _status_of(self, status: Payload) -> None:
        instance = self.instance
        if status != instance.custom_status:
            instance.custom_status = status
            if status is not None:
                self.commit.put["customStatus"] = status
            else:
                self.commit.delete = [*self.commit.delete, "customStatus"]
            self.row = True

    def _outcome(self, outcome: Completed | Failed | ContinuedAsNew | None, rest: list[Arrival]) -> None:
        if outcome is None:
            return
        if type(outcome) is Completed:
            self._finish("completed", outcome.result, None)
        elif type(outcome) is Failed:
            self._finish("failed", None, outcome.failure)
        elif type(outcome) is ContinuedAsNew:
            self._continue_as_new(outcome, rest)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def schedule_task(self, command: ScheduleTask) -> None:
        engine = self.engine
        event = TaskScheduled(
            self.at,
            command.id,
            command.name,
            engine.clock.token(8),
            command.key,
            command.input,
            command.app_id,
        )
        self.history.append(event)
        instance = self.instance
        instance.open[command.id] = event
        self.turn.effects.append((engine.dispatcher.dispatch, (self.actor, instance.meta, event)))

    def create_timer(self, command: CreateTimer) -> None:
        self.history.append(TimerCreated(self.at, command.id, command.fire_at, command.origin))
        instance = self.instance
        instance.timers.add(command.id)
        data = instance.meta.execution_id.encode()
        reminder = Reminder(self.actor, timer_name(command.id), command.fire_at, data)
        self.commit.reminders = [*self.commit.reminders, reminder]

    def cancel_timer(self, command: CancelTimer) -> None:
        instance = self.instance
        if command.id not in instance.timers:
            return
        instance.timers.discard(command.id)
        name = timer_name(command.id)
        kept = [reminder for reminder in self.commit.reminders if reminder.name != name]
        if len(kept) == len(self.commit.reminders):
            self.commit.delete_reminders = [*self.commit.delete_reminders, name]
        self.commit.reminders = kept

    def start_child(self, command: StartChild) -> None:
        engine = self.engine
        event = ChildScheduled(
            self.at,
            command.id,
            command.name,
            command.instance_id,
            engine.clock.token(16).hex(),
            engine.clock.token(8),
            command.input,
            command.app_id,
        )
        self.history.append(event)
        self.instance.open[command.id] = event
        self.turn.effects.append((engine.dispatcher.start_child, (self.actor, self.instance.meta, event)))

    def start_detached(self, command: StartDetached) -> None:
        start_id = self.engine.clock.token(16).hex()
        self.history.append(
            DetachedScheduled(
                self.at,
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
        self._send(self.engine.workflow_type(command.app_id), command.instance_id, body)

    def send_event(self, command: SendEvent) -> None:
        self.history.append(
            EventSent(self.at, command.id, command.instance_id, command.name, command.data, command.app_id)
        )
        kind = self.engine.workflow_type(command.app_id)
        self._send(kind, command.instance_id, Raise(command.name, command.data), numbered=True)

    def _send(self, kind: str, target: str, body: Sent, *, numbered: bool = False) -> None:
        """Puts a message in the outbox; it leaves after the commit."""
        instance = self.instance
        meta = instance.meta
        number = 0
        if numbered:
            meta.number += 1
            number = meta.number
        key = meta.outbox_next
        meta.outbox_next += 1
        entry = Outgoing(kind, target, body, number)
        instance.outbox[key] = entry
        self.commit.put[outbox_key(key)] = requests.encode(entry)
        if (self.behaviour.send_outbox, ()) not in self.turn.effects:
            self.turn.effects.append((self.behaviour.send_outbox, ()))

    # --- ends --------------------------------------------------------------------------------------------------------

    def _finish(self, status: str, result: Payload, failure: FailureDetails | None) -> None:
        instance = self.instance
        meta = instance.meta
        event = ExecutionCompleted(self.at, status, result, failure)
        self.history.append(event)
        instance.ended = event
        meta.completed = self.at
        self._set_status(RuntimeStatus(status))
        meta.deaths, meta.task_deaths, meta.stall, meta.attempts = 0, {}, "", 0
        self._leave_behind(instance, drop_activities=status == "terminated")
        if instance.inbox:
            self.commit.delete = [*self.commit.delete, *(f"inbox-{n:06d}" for n, _ in instance.inbox)]
            self.commit.delete = [key for key in self.commit.delete if key not in self.commit.put]
            for number, _ in instance.inbox:
                self.commit.put.pop(f"inbox-{number:06d}", None)
            instance.inbox.clear()
            meta.inbox_first = meta.inbox_next
        if instance.timers or self.commit.reminders:
            self.commit.clear_reminders = True
            self.commit.reminders = ()
            instance.timers.clear()
        self._tell_parent(meta.parent, result, failure, status)
        self.behaviour.close_run()

    def _tell_parent(
        self, parent: Parent | None, result: Payload, failure: FailureDetails | None, status: str
    ) -> None:
        if parent is None:
            return
        if status == "terminated":
            failure = failure or FailureDetails("WorkflowTerminated", "the child workflow was terminated")
        done = ChildDone(parent.execution_id, parent.task_id, parent.nonce, None if failure else result, failure)
        self._send(parent.type, parent.id, done)

    def _leave_behind(self, instance: Instance, *, drop_activities: bool) -> None:
        """What an execution asked for and did not wait for is still done: its requests go to the outbox."""
        meta = instance.meta
        dispatcher = self.engine.dispatcher
        for task in instance.open.values():
            if isinstance(task, TaskScheduled):
                if not drop_activities:
                    request = dispatcher.request(self.actor, meta, task)
                    self._send(dispatcher.activity_type(task.app_id), request.activity_id, request)
            elif not dispatcher.child_started(self.actor, meta.execution_id, task.id):
                kind = self.engine.workflow_type(task.app_id)
                if not drop_activities:
                    self._send(kind, task.instance_id, dispatcher.child_start(self.actor, meta, task))
        # Their first dispatch of this turn is the outbox's now.
        self.turn.effects[:] = [
            effect for effect in self.turn.effects if effect[0] not in (dispatcher.dispatch, dispatcher.start_child)
        ]
        instance.open.clear()

    def _continue_as_new(self, outcome: ContinuedAsNew, rest: list[Arrival]) -> None:
        behaviour, old = self.behaviour, self.instance
        assert behaviour.run is not None
        carried: list[EventRaised] = []
        if outcome.save_events:
            carried = list(behaviour.run.unread_events())
        # Arrivals that the ended execution never saw are not its to lose.
        carried += [event for event in rest if type(event) is EventRaised]
        self._leave_behind(old, drop_activities=False)
        previous = old.started
        assert previous is not None
        meta = Metadata(
            old.meta.name,
            RuntimeStatus.RUNNING,
            old.meta.start_id,
            self.engine.clock.token(16).hex(),
            generation=old.meta.generation + 1,
            version=old.meta.version,
            created=old.meta.created,
            started=old.meta.started,
            turn=self.at,
            parent=old.meta.parent,
            tags=old.meta.tags,
            accepted=old.meta.accepted,
            number=old.meta.number,
            outbox_next=old.meta.outbox_next,
        )
        new = Instance(self.actor, meta)
        self.history.clear()
        self._reset(new, old)
        self.commit.reminders = ()
        behaviour.replace(new)
        start = Start(
            previous.name,
            previous.start_id,
            outcome.input,
            previous.parent,
            previous.version,
            previous.trace,
            previous.tags,
        )
        self._receive(start)
        for event in carried:
            self._receive(Raise(event.name, event.data))
        self.row = True
        self.turn.effects.append((behaviour.activation.wake, ()))


def outbox_key(number: int) -> str:
    return f"outbox-{number:06d}"


def timer_name(task_id: int) -> str:
    return f"timer-{task_id}"


#: The name of a tombstone's reminder.
FORGET = "forget"


#: One small handler per message body, in the order of `requests.py`.
HANDLERS: dict[type, Callable[[Work, Message], None]] = {
    Start: Work.start,
    Raise: Work.raised,
    ActivityDone: Work.activity_done,
    ChildDone: Work.child_done,
    TimerDue: Work.timer_due,
    Suspend: Work.suspend,
    Resume: Work.resume,
    Terminate: Work.terminate,
    Wait: Work.wait,
    Forget: Work.forget,
}

#: One small handler per command, in the order of `commands.py`.
DECISIONS: dict[type, Callable[[Work, Any], None]] = {
    ScheduleTask: Work.schedule_task,
    CreateTimer: Work.create_timer,
    CancelTimer: Work.cancel_timer,
    StartChild: Work.start_child,
    StartDetached: Work.start_detached,
    SendEvent: Work.send_event,
}
