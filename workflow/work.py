"""One turn of a workflow actor: messages in, history and effects out, all in one commit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from perdure.actors.messages import Message
from perdure.actors.turn import Turn
from perdure.errors import (
    InstanceNotFound,
    InvalidState,
    KeyReused,
    LoopBlocked,
    NotRegistered,
)
from perdure.payload import Payload
from perdure.workflow import controls, decisions, ending, events, metadata, requests, stall, starting
from perdure.workflow.commands import (
    Cancelled,
    CancelTask,
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
    CancelRequested,
    ChildCompleted,
    ChildFailed,
    Event,
    EventRaised,
    ExecutionStarted,
    FailureDetails,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from perdure.workflow.instance import Instance
from perdure.workflow.keys import NO_STATUS, outbox_key, timer_name
from perdure.workflow.receipts import ACCEPTED, Receipt, Receipts, event_digest
from perdure.workflow.requests import (
    ActivityDone,
    ActivityRequest,
    Cancel,
    ChildDone,
    Forget,
    Granted,
    Outgoing,
    Raise,
    Release,
    Resume,
    Sent,
    Start,
    StartDue,
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
CONTROL = frozenset((Suspend, Resume, Terminate, Wait, Forget, Granted, StartDue))


class Work:
    """INVARIANT: `at` is later than the last turn's, and not before any timer that this turn fires."""

    __slots__ = (
        "actor",
        "arrivals",
        "at",
        "behaviour",
        "commit",
        "engine",
        "history",
        "row",
        "suspects_code",
        "taking",
        "turn",
    )

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
        #: Whether the code may be what killed the process: counted if there is something for it to run on.
        self.suspects_code = False
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
            elif type(body) in CONTROL:
                controls = True
                if type(body) is StartDue:
                    self.at = max(self.at, body.due)
            if message.redelivered:
                # Whoever handled it before may have died of it: nobody's answer waits for that to happen again. All or
                # none: what the code ends in this turn must not end with something of it in the inbox.
                self.taking = False
        if controls:
            self._handle(m for m in messages if type(m.body) in CONTROL)
            messages = [m for m in messages if type(m.body) not in CONTROL]
        if self.taking and self.behaviour.instance is not None:
            self.take_inbox()
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
        if behaviour.outbox.acked:
            settled = [
                outbox_key(n) for n in behaviour.outbox.acked if instance.outbox.pop(n, None) is not None
            ]
            behaviour.outbox.acked.clear()
            # What a reset in this turn was to carry over is just not carried over.
            commit.delete = [*commit.delete, *(key for key in settled if commit.put.pop(key, None) is None)]
        meta = instance.meta
        dispatcher = self.engine.dispatcher
        if dispatcher.news and self.actor in dispatcher.news and not instance.finished:
            waiting = dispatcher.waiting(self.actor)
            self.row = self.row or waiting != meta.waiting
            meta.waiting = waiting
        if self.suspects_code and instance.inbox:
            meta.deaths += 1
            self.row = True
        put = commit.put
        number = meta.history
        for event in self.history:
            put[f"history-{number:06d}"] = events.encode(event)
            number += 1
        if instance.complete:
            instance.scanned = number
        meta.history = number
        receipts = instance.receipts
        if receipts is not None and (receipts.changed or commit.reset):
            put[ACCEPTED] = receipts.encode()
            receipts.changed = False
        if not self.turn.changes and not self.row and not behaviour.suspicion.survived:
            return
        behaviour.suspicion.survived = False
        meta.turn = self.at
        put["metadata"] = metadata.encode(meta)
        if self.row and not instance.purged:
            commit.row = instance.row()
        owes = instance.owes
        if owes != behaviour.activation.recover and (owes or instance.complete):
            commit.recover = owes

    # --- messages: each handler answers, or adds an arrival that is answered with the turn ----------------------------

    def answer(self, message: Message, value: Any = True) -> None:
        self.turn.answers.append((message.answer, value))

    def arrive(self, message: Message, body: Waiting) -> None:
        """A message that is for the code: now, or from the inbox when the code can be run."""
        self.answer(message)
        if self.taking:
            self.arrivals.append(self._arrival(body))
        else:
            self.receive(body)

    def receive(self, body: Waiting) -> None:
        instance = self.instance
        number = instance.meta.inbox_next
        instance.meta.inbox_next = number + 1
        instance.inbox.append((number, body))
        self.commit.put[f"inbox-{number:06d}"] = requests.encode(body)

    def take_inbox(self) -> None:
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
                return TaskFailed(self.at, body.task_id, body.failure, body.details)  # type: ignore[union-attr]
            return TaskCompleted(self.at, body.task_id, body.result)  # type: ignore[union-attr]
        if kind is Raise:
            return EventRaised(self.at, body.name, body.data)  # type: ignore[union-attr]
        if kind is TimerDue:
            return TimerFired(self.at, body.task_id)  # type: ignore[union-attr]
        if kind is ChildDone:
            if body.failure is not None:  # type: ignore[union-attr]
                return ChildFailed(self.at, body.task_id, body.failure)  # type: ignore[union-attr]
            return ChildCompleted(self.at, body.task_id, body.result)  # type: ignore[union-attr]
        if kind is Cancel:
            return CancelRequested(self.at, body.reason)  # type: ignore[union-attr]
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
            scheduled=body.scheduled,
            trace=body.trace,
            tags=body.tags,
        )

    def activity_done(self, message: Message) -> None:
        body: ActivityDone = message.body
        instance = self.behaviour.instance
        # The owner sent the request, whichever node ran it.
        settled = self.engine.dispatcher.settled
        self.turn.effects.append((settled, (self.actor, body.execution_id, body.task_id)))
        if instance is None:
            self.answer(message)
            return
        if instance.match(body) is None:
            self._settle_outbox(instance, body)
            self.answer(message)
            return
        task = instance.open.pop(body.task_id)
        if instance.meta.task_deaths:
            instance.meta.task_deaths.pop(body.task_id, None)
        engine = self.engine
        # Not as an effect, which would cost as much again: should the commit not pass, it is counted twice.
        if body.failure is None:
            engine.monitor.settled[task.name].append(self.at - task.at)
        else:
            engine.monitor.activity_settled(task.name, self.at - task.at)
        if engine.tracing is not None and instance.started is not None:
            told = (self.actor.id, instance.started, task, body.failure, self.at)
            self.turn.effects.append((engine.tracing.activity_ended, told))
        self.arrive(message, body)

    def _settle_outbox(self, instance: Instance, body: ActivityDone) -> None:
        """An activity that its execution did not wait for has run."""
        for number, entry in instance.outbox.items():
            sent = entry.body
            if isinstance(sent, ActivityRequest) and (sent.execution_id, sent.task_id, sent.nonce) == (
                body.execution_id,
                body.task_id,
                body.nonce,
            ):
                self.behaviour.outbox.done(number)

    def child_done(self, message: Message) -> None:
        body: ChildDone = message.body
        instance = self.behaviour.instance
        if instance is None or instance.match(body) is None:
            self.answer(message)
            return
        task = instance.open.pop(body.task_id)
        self.engine.dispatcher.child_settled(self.actor, body.execution_id, body.task_id)
        if self.engine.tracing is not None and instance.started is not None:
            told = (self.actor.id, instance.started, task, body.failure, self.at)
            self.turn.effects.append((self.engine.tracing.child_ended, told))
        self.arrive(message, body)

    def timer_due(self, message: Message) -> None:
        body: TimerDue = message.body
        instance = self.behaviour.instance
        if instance is None:
            self.answer(message)
            return
        self.commit.delete_reminders = [*self.commit.delete_reminders, timer_name(body.task_id)]
        if body.execution_id != instance.meta.execution_id or body.task_id not in instance.timers:
            self.answer(message)
            return
        timer = instance.timers.pop(body.task_id)
        if self.engine.tracing is not None and instance.started is not None:
            told = (self.actor.id, instance.started, timer, self.at)
            self.turn.effects.append((self.engine.tracing.timer_fired, told))
        self.arrive(message, body)

    def raised(self, message: Message) -> None:
        body: Raise = message.body
        instance = self.behaviour.instance
        if body.id and instance is not None and self._raised_before(message, instance):
            return
        if instance is None or instance.purged:
            self.answer(message, InstanceNotFound())
            return
        if message.identity is not None and instance.meta.knows(message.identity):
            self.answer(message)
            return
        if instance.finished:
            self.answer(
                message, InvalidState(f"the instance is {instance.meta.status}; it takes no more events")
            )
            return
        if message.identity is not None:
            instance.meta.accept(message.identity, self.at)
        if body.id:
            receipts = instance.receipts = instance.receipts or Receipts()
            since = self.at - self.engine.keep_keys
            receipts.add_event(body.id, Receipt(event_digest(body.name, body.data), self.at), since)
        self.arrive(message, body)

    def _raised_before(self, message: Message, instance: Instance) -> bool:
        """Whether its caller has raised this event before; then it is answered."""
        body: Raise = message.body
        receipts = instance.receipts
        if receipts is None:
            return False
        try:
            if not receipts.event(
                body.id, event_digest(body.name, body.data), self.at - self.engine.keep_keys
            ):
                return False
        except KeyReused as error:
            self.answer(message, error)
        else:
            self.answer(message)
        return True

    def reset(self, new: Instance, old: Instance) -> None:
        """The commit replaces all keys; what is owed goes on."""
        self.commit.reset = True
        self.commit.clear_reminders = True
        self.commit.delete = ()
        self.commit.put.clear()
        for number, entry in old.outbox.items():
            if number not in self.behaviour.outbox.acked:
                new.outbox[number] = entry
                self.commit.put[outbox_key(number)] = requests.encode(entry)
        new.receipts = old.receipts
        self.behaviour.outbox.acked.clear()

    # --- what handlers, decisions and ends use ---

    def set_status(self, status: RuntimeStatus, reason: str = "") -> None:
        meta = self.instance.meta
        meta.status, meta.reason = status, reason
        self.row = True

    def send(self, kind: str, target: str, body: Sent, *, numbered: bool = False) -> None:
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
        if (self.behaviour.outbox.send, ()) not in self.turn.effects:
            self.turn.effects.append((self.behaviour.outbox.send, ()))

    def give_slot_back(self) -> None:
        """If its workflow is limited in the cluster: the instance has ended, or may not start for long."""
        admission, meta = self.engine.admission, self.instance.meta
        if admission is not None and admission.spread(meta):
            target = self.engine.slots(meta.name)
            self.send(target.type, target.id, Release(self.actor.id, meta.start_id, meta.slot))
            meta.slot += 1

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
                    if type(run.outcome) is not ContinuedAsNew:
                        # Acknowledged with this turn: it stays as an event that nobody waited for.
                        self.history += [each for each in rest if type(each) is EventRaised]
                    break
        except LoopBlocked as error:
            raise Stalled(stall.BLOCKED, str(error) or LoopBlocked.__doc__ or "") from error
        if self.engine.tracing is not None:
            self._trace_events()
        for command in run.take_commands():
            DECISIONS[type(command)](self, command)
        if meta.status in (RuntimeStatus.STALLED, RuntimeStatus.PENDING):
            meta.stall, meta.attempts = "", 0
            self.set_status(RuntimeStatus.RUNNING)
        meta.deaths = 0
        self.behaviour.suspicion.code_settled()
        self._status_of(run.custom_status)
        self._outcome(run.outcome, rest)

    def _trace_events(self) -> None:
        tracing, started = self.engine.tracing, self.instance.started
        raised = [event for event in self.arrivals if type(event) is EventRaised]
        if raised and tracing is not None and started is not None:
            self.turn.effects.append((tracing.events_raised, (self.actor.id, started, raised)))

    def _begin(self, started: ExecutionStarted) -> bool:
        meta = self.instance.meta
        if not meta.started:
            waited = self.at - max(meta.created, meta.scheduled)
            self.turn.effects.append((self.engine.monitor.started[meta.name].append, (waited,)))
        meta.started = self.at
        self.set_status(RuntimeStatus.RUNNING)
        self.instance.started = started
        try:
            self.behaviour.run = self.engine.new_run(self.actor, started)
        except NotRegistered as error:
            if self.engine.elsewhere(started.name):
                reason = f"{error.message}; other nodes of the app have it"
                raise Stalled(stall.UNREGISTERED, reason) from error
            self.history.append(started)
            ending.finish(
                self,
                "failed",
                None,
                FailureDetails("WorkflowNotRegistered", error.message, non_retriable=True),
            )
            return False
        return True

    def begin_unread(self) -> None:
        """An execution that ends before its code ran has a start in its history all the same."""
        instance = self.instance
        start = next((body for _, body in instance.inbox if isinstance(body, Start)), None)
        if instance.meta.history or start is None:
            return
        started = self._arrival(start)
        assert isinstance(started, ExecutionStarted)
        self.history.append(started)
        instance.started = started

    def _status_of(self, status: Payload) -> None:
        instance = self.instance
        if status != instance.custom_status:
            instance.custom_status = status
            self.commit.put["customStatus"] = NO_STATUS if status is None else status
            self.row = True

    def _outcome(
        self, outcome: Completed | Failed | Cancelled | ContinuedAsNew | None, rest: list[Arrival]
    ) -> None:
        if outcome is None:
            return
        if type(outcome) is Completed:
            ending.finish(self, "completed", outcome.result, None)
        elif type(outcome) is Failed:
            ending.finish(self, "failed", None, outcome.failure)
        elif type(outcome) is Cancelled:
            controls.cancelled(self, outcome.failure)
        elif type(outcome) is ContinuedAsNew:
            ending.continue_as_new(self, outcome, rest)


#: One small handler per message body, in the order of `requests.py`.
HANDLERS: dict[type, Callable[[Work, Message], None]] = {
    Start: starting.start,
    Raise: Work.raised,
    ActivityDone: Work.activity_done,
    ChildDone: Work.child_done,
    TimerDue: Work.timer_due,
    Suspend: controls.suspend,
    Resume: controls.resume,
    Terminate: controls.terminate,
    Cancel: controls.cancel,
    Wait: controls.wait,
    Forget: controls.forget,
    Granted: controls.granted,
    StartDue: starting.due,
}

#: One small handler per command, in the order of `commands.py`.
DECISIONS: dict[type, Callable[[Work, Any], None]] = {
    ScheduleTask: decisions.schedule_task,
    CancelTask: decisions.cancel_task,
    CreateTimer: decisions.create_timer,
    CancelTimer: decisions.cancel_timer,
    StartChild: decisions.start_child,
    StartDetached: decisions.start_detached,
    SendEvent: decisions.send_event,
}
