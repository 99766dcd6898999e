"""The workflow actor: which turn comes next for one instance."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from perdure.actors.activation import Activation, Phase
from perdure.actors.messages import Message
from perdure.actors.turn import Turn
from perdure.errors import CorruptState, LoopBlocked, Moved, StoreError
from perdure.logs import fields
from perdure.statestore.contract import Snapshot
from perdure.workflow import stall, transfer
from perdure.workflow.events import ChildScheduled
from perdure.workflow.executor import Run
from perdure.workflow.instance import Instance, UnreadableHistory
from perdure.workflow.outbox import Outbox
from perdure.workflow.purge import purge
from perdure.workflow.rebuild import rebuild_behaviour
from perdure.workflow.recovery import DEATH_LIMIT
from perdure.workflow.requests import Cancel, Purge, Raise, Restore, Start, Wait
from perdure.workflow.stall import Stalled
from perdure.workflow.state import RuntimeStatus, WorkflowState
from perdure.workflow.suspicion import Suspicion
from perdure.workflow.unreadable import Unreadable
from perdure.workflow.waiters import told
from perdure.workflow.work import CONTROL, Work

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

log = logging.getLogger("perdure.workflow")

#: Seconds that a message waits for a turn before it is received into the inbox.
RECEIVE_AFTER = 0.02
#: What does not wait behind messages for the workflow code.
OVERTAKING = CONTROL | {Purge, Restore}
#: What gets a turn of its own.
APART = frozenset((Purge, Restore))
#: What can be received before the whole history is known.
UNMATCHED = (Start, Raise, Cancel, Wait)


class WorkflowBehaviour:
    """Implements `perdure.actors.turn.Behaviour` for one instance."""

    __slots__ = (
        "_blocked",
        "_rebuilding",
        "_receive_timer",
        "_stall_turn",
        "_stalled",
        "_stalling",
        "_unreadable",
        "activation",
        "dispatched",
        "engine",
        "instance",
        "outbox",
        "replaced",
        "run",
        "suspicion",
        "waiters",
    )

    def __init__(self, engine: WorkflowEngine, activation: Activation) -> None:
        self.engine = engine
        self.activation = activation
        self.instance: Instance | None = None
        #: Stands for an instance whose metadata cannot be read.
        self._unreadable: Unreadable | None = None
        #: The suspended workflow code; None: not begun, finished, or to be rebuilt by replay.
        self.run: Run | None = None
        #: How an instance ended in whose place the turn under way begins another.
        self.replaced: WorkflowState | None = None
        #: Messages that wait for the instance to start or finish.
        self.waiters: list[Message] = []
        #: A stall that is to be committed.
        self._stalled: Stalled | None = None
        #: The turn that commits a stall, and which.
        self._stall_turn: Turn | None = None
        self._stalling: Stalled | None = None
        #: The code is not tried before the instance is resumed or loaded elsewhere.
        self._blocked = False
        self._rebuilding = False
        self._receive_timer = False
        #: What is owed has been sent again, or was never out.
        self.dispatched = False
        self.outbox = Outbox(self, activation)
        self.suspicion = Suspicion(self, activation)

    # --- Behaviour ---------------------------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot | None) -> None:
        self.close_run()
        self._rebuilding = False
        if self._stall_turn is not None:
            self._stalled, self._stall_turn = self._stalling, None
        self.replaced = None
        self._unreadable = None
        try:
            self.instance = Instance.read(self.activation.actor, snapshot)
        except UnreadableHistory as error:
            self.instance = error.instance
            # Counted as read, so that nothing waits for what cannot be had.
            self.instance.scanned = self.instance.meta.history
            if not (self.instance.finished or self.instance.purged):
                self._stalled = Stalled(stall.UNREADABLE, error.message)
        except CorruptState as error:
            log.error("state.unreadable", extra=fields(instance=self.activation.actor.id, reason=error))
            self.instance = None
            self._unreadable = Unreadable(error.message)
        self.dispatched = False
        self.outbox.restored()
        if self.instance is not None and self.instance.meta.stall == stall.CRASHED:
            self._blocked = True
        if self.instance is not None and self.instance.meta.waiting:
            self.engine.dispatcher.waits(self.activation.actor)
        self._settle()

    def step(self) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        instance = self.instance
        mailbox = self.activation.mailbox
        if self._unreadable is not None:
            return self._step_unreadable(self._unreadable)
        if instance is not None and not (instance.finished or instance.purged):
            return self._step_active(instance)
        if self.engine.dispatcher.news and self._has_news():
            # It waits for nothing that anybody has to know of.
            del self.engine.dispatcher.news[self.activation.actor]
        if instance is not None and not self.dispatched:
            proof = self.suspicion.dispatch_again(instance)
            if proof is not None:
                return proof
        if instance is not None and self.engine.dispatcher.lost and self._has_lost():
            proof = self.suspicion.send_lost(instance)
            if proof is not None:
                return proof
        if mailbox:
            apart = next((m for m in mailbox if type(m.body) in APART), None)
            if apart is not None:
                return self._apart(apart)
            return self._turn(taking=True)
        if self.outbox.acked or self.suspicion.survived:
            return self._turn(taking=False)
        return None

    def committed(self, turn: Turn) -> None:
        instance = self.instance
        self._settle()
        self.outbox.committed()
        if self.replaced is not None:
            # Before the next one, which has its id already, and may have finished.
            ended, self.replaced = self.replaced, None
            waiters, self.waiters = self.waiters, []
            for message in waiters:
                message.answer(ended)
        self._stall_turn = self._stalling = None
        dispatcher = self.engine.dispatcher
        if dispatcher.news and instance is not None:
            actor = self.activation.actor
            if actor in dispatcher.news and instance.meta.waiting == dispatcher.waiting(actor):
                del dispatcher.news[actor]
        if instance is not None and instance.inbox:
            # This turn was not one of the code: the step that was to follow has been used up by it.
            self.activation.wake()
        if self.waiters:
            self.waiters = told(self.waiters, self.instance)
        if self.engine.replay_check.wants(self, turn):
            self.engine.replay_check.start(self)

    def _settle(self) -> None:
        admission = self.engine.admission
        if admission is not None:
            instance = self.instance
            admission.settle(self.activation.actor, instance.meta if instance is not None else None)

    def rejected(self, turn: Turn, reason: str) -> None:
        instance = self.instance
        # `restore` has just made of a stall that did not pass one that is to be committed again.
        again, self._stalling = self._stalling, None
        if instance is not None and not instance.finished and again is None:
            self._stalled = Stalled(stall.REJECTED, reason)
            return
        self._stalled = None
        # Not even the stall could be stored: these messages are the ones that cannot be.
        for message in turn.messages:
            if message in self.activation.mailbox:
                self.activation.mailbox.remove(message)
            message.answer(StoreError(reason))

    def evictable(self) -> bool:
        if self.waiters or self.outbox.busy or self._rebuilding or self._stalled is not None:
            return False
        if self._has_lost():
            return False
        instance = self.instance
        if instance is None:
            return True
        if instance.outbox or self.suspicion.survived:
            return False
        if instance.finished or instance.purged:
            return True
        if self.wants_code(instance):
            return False
        if self._blocked and instance.meta.stall not in (stall.CRASHED, stall.UNREADABLE):
            # Read again, its code would be tried again.
            return False
        return self.suspicion.admitted and not instance.meta.task_deaths

    def close(self) -> None:
        self.close_run()
        self.suspicion.close()
        self.outbox.close()
        waiters, self.waiters = self.waiters, []
        for message in waiters:
            message.answer(Moved())

    # --- what a turn changes here ------------------------------------------------------------------------------------

    def replace(self, instance: Instance | None) -> None:
        """Another execution, a new instance, or none takes the place of this one."""
        self.close_run()
        self.instance = instance
        self._blocked = False
        # Whoever reads the old history does it for nobody now.
        self._rebuilding = False
        # What the old instance still owes was there when a process died, perhaps.
        self.suspicion.clear()
        if instance is None or not instance.outbox:
            self.dispatched = True
        if self._stalled is not None and self._stalled.kind == stall.UNREADABLE:
            self._stalled = None

    def close_run(self) -> None:
        run, self.run = self.run, None
        if run is not None:
            run.close()

    def may_run(self) -> bool:
        """Whether arrivals can go to the code in this turn."""
        instance = self.instance
        if instance is None or self._blocked or self._rebuilding or self._stalled is not None:
            return False
        if instance.meta.early:
            return False
        if not self.suspicion.code_proven:
            return False
        if instance.meta.status == RuntimeStatus.SUSPENDED or not self._admitted(instance, stored=False):
            return False
        return self.run is not None or instance.meta.history == 0

    def _admitted(self, instance: Instance, *, stored: bool = True) -> bool:
        """Whether it has started, or no limit keeps it from that."""
        admission = self.engine.admission
        if admission is None or instance.meta.started:
            return True
        return admission.admit(self.activation.actor, instance.meta, stored=stored)

    def held_back(self) -> str:
        """Why a limit keeps the instance from starting; empty: none does."""
        instance, admission = self.instance, self.engine.admission
        if instance is None or admission is None or self._admitted(instance, stored=False):
            return ""
        return admission.reason(instance.meta.name)

    def resumed(self) -> None:
        """Somebody wants the code to be tried again."""
        self._blocked = False
        self.suspicion.code_proven = True

    def _step_unreadable(self, unreadable: Unreadable) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        if not unreadable.shown:
            return unreadable.show(self.activation, self.engine.store)
        turn = unreadable.step(self.activation)
        if turn is not None:
            self._unreadable = None
        return turn

    # --- an active instance ------------------------------------------------------------------------------------------

    def _step_active(self, instance: Instance) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        if self._stalled is not None and instance.complete:
            stalled, self._stalled = self._stalled, None
            return self.stall(instance, stalled)
        mailbox = self.activation.mailbox
        if not self.dispatched and instance.complete:
            proof = self.suspicion.dispatch_again(instance)
            if proof is not None:
                return proof
        if self.engine.dispatcher.lost and self._has_lost() and instance.complete:
            proof = self.suspicion.send_lost(instance)
            if proof is not None:
                return proof
        controls = bool(mailbox) and any(type(m.body) in OVERTAKING for m in mailbox)
        if controls and instance.complete:
            return self._control()
        if not self.wants_code(instance):
            return self._idle(instance)
        if not self.suspicion.admitted or self._rebuilding:
            if not (self._rebuilding or instance.complete):
                # What it owes, and so that it has to ask to be let in, is known when all of its history has been read.
                self._rebuild(instance)
            return self._receive_old()
        # Replay runs the code too: what may have killed the process is counted before it.
        if not self.suspicion.code_proven and instance.complete:
            return self.suspicion.prove_code(instance)
        if self.run is None and (instance.meta.history or not instance.complete):
            self._rebuild(instance)
            return self._receive_old()
        return self._turn(taking=True)

    def wants_code(self, instance: Instance) -> bool:
        """Whether there is something that the code could be given."""
        if self._blocked or self._stalled is not None or instance.meta.status == RuntimeStatus.SUSPENDED:
            return False
        if instance.meta.early:
            return False
        return bool(self.activation.mailbox or instance.inbox) and self._admitted(instance)

    def _idle(self, instance: Instance) -> Turn | None:
        """The code is not to be run: what is here is received at once; otherwise there is only tidying up."""
        if not instance.complete:
            if not self._rebuilding:
                self._rebuild(instance)
            return self._receive_old() if self.activation.mailbox else None
        if self.activation.mailbox or self.outbox.acked or self.suspicion.survived:
            return self._turn(taking=False)
        if self.engine.dispatcher.news and self._has_news():
            return self._turn(taking=False)
        return None

    def _has_lost(self) -> bool:
        """Whether nodes are gone that had activities of this instance."""
        lost = self.engine.dispatcher.lost
        return bool(lost) and self.activation.actor in lost

    def _has_news(self) -> bool:
        """Whether the status is to say something else about the nodes that it waits for."""
        news = self.engine.dispatcher.news
        return bool(news) and self.activation.actor in news

    def _turn(self, *, taking: bool) -> Turn | None:
        mailbox = self.activation.mailbox
        messages = list(mailbox)
        mailbox.clear()
        return self._work(messages, taking=taking)

    def _work(self, messages: list[Message], *, taking: bool) -> Turn | None:
        """A turn that consumes these messages, which are no longer in the mailbox."""
        mailbox = self.activation.mailbox
        turn = self.activation.begin(messages)
        try:
            return Work(self, turn, taking=taking).do()
        except Stalled as stalled:
            self._stalled = stalled
        except LoopBlocked as error:
            # As in `rebuild_behaviour`.
            self._stalled = Stalled(stall.BLOCKED, str(error))
        except Exception as error:
            if not taking:
                mailbox.extendleft(reversed(messages))
                raise
            log.exception("turn.failed", extra=fields(instance=self.activation.actor.id))
            self._stalled = Stalled(stall.INTERNAL, f"internal error: {error!r}")
        # What this turn changed in memory is not true: the stall is committed on what the store has.
        mailbox.extendleft(reversed(messages))
        self.activation.load()
        return None

    def _control(self) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        """Control messages overtake the rest, which stays in the mailbox."""
        mailbox = self.activation.mailbox
        apart = next((m for m in mailbox if type(m.body) in APART), None)
        if apart is not None:
            return self._apart(apart)
        controls = [m for m in mailbox if type(m.body) in CONTROL]
        rest = [m for m in mailbox if type(m.body) not in CONTROL]
        mailbox.clear()
        mailbox.extend(rest)
        return self._work(controls, taking=False)

    def _apart(self, message: Message) -> Turn | Coroutine[Any, Any, Turn | None]:
        self.activation.mailbox.remove(message)
        if type(message.body) is Purge:
            return purge(self, message)
        turn = self.activation.begin([message])
        transfer.restore(Work(self, turn, taking=False), message)
        return turn

    # --- receiving ---------------------------------------------------------------------------------------------------

    def _receive_old(self) -> Turn | None:
        """The code cannot be run yet. No caller waits for it longer than `RECEIVE_AFTER`."""
        mailbox = self.activation.mailbox
        instance = self.instance
        whole = instance is None or instance.complete
        # What matches by the history waits until that has been read: it would be taken for a duplicate.
        messages = list(mailbox) if whole else [m for m in mailbox if _unmatched(m)]
        if not messages:
            return None
        waited = self.engine.clock.monotonic() - messages[0].arrived
        if waited >= RECEIVE_AFTER:
            rest = [] if whole else [m for m in mailbox if not _unmatched(m)]
            mailbox.clear()
            mailbox.extend(rest)
            return self._work(messages, taking=False)
        if not self._receive_timer:
            self._receive_timer = True
            self.engine.clock.call_later(RECEIVE_AFTER - waited, self._receive_due)
        return None

    def _receive_due(self) -> None:
        self._receive_timer = False
        self.activation.wake()

    # --- stalling ----------------------------------------------------------------------------------------------------

    def stall(self, instance: Instance, stalled: Stalled) -> Turn | None:
        """Commits why the instance cannot go on, and receives what waits."""
        self._blocked = True
        meta = instance.meta
        if stalled.kind == stall.UNREGISTERED and not meta.history:
            self.engine.unregistered[self.activation.actor] = meta.name
        same = meta.status == RuntimeStatus.STALLED and meta.reason == stalled.reason
        log.error(
            "instance.stalled",
            extra=fields(instance=self.activation.actor.id, kind=stalled.kind, reason=stalled.reason),
        )
        mailbox = self.activation.mailbox
        messages = [m for m in mailbox if type(m.body) not in APART]
        rest = [m for m in mailbox if type(m.body) in APART]
        mailbox.clear()
        mailbox.extend(rest)
        turn = self.activation.begin(messages)
        self._stall_turn, self._stalling = turn, stalled
        turn.effects.append((self.engine.monitor.stalled, (meta.name, stalled.kind)))
        work = Work(self, turn, taking=False)
        if not same:
            meta.status, meta.reason, meta.stall = RuntimeStatus.STALLED, stalled.reason, stalled.kind
        meta.attempts += 1
        if stalled.kind != stall.CRASHED:
            # The process outlived it.
            meta.deaths = 0
        work.row = True
        if not meta.started:
            work.give_slot_back()
        self.suspicion.code_proven = True
        self.suspicion.leave()
        try:
            return work.do()
        except Exception:
            self.activation.mailbox.extendleft(reversed(messages))
            raise

    def stall_now(self, kind: str, reason: str) -> None:
        """Something outside a turn found that the instance cannot go on."""
        self._stalled = Stalled(kind, reason)
        self.close_run()
        self.activation.wake()

    # --- owed work ---------------------------------------------------------------------------------------------------

    def redispatch(self) -> None:
        """Sends again whatever the history and the outbox show as unresolved."""
        instance = self.instance
        if instance is None:
            return
        dispatcher = self.engine.dispatcher
        actor, meta = self.activation.actor, instance.meta
        for task in list(instance.open.values()):
            if type(task) is ChildScheduled:
                if not dispatcher.child_started(actor, meta.execution_id, task.id):
                    dispatcher.start_child(actor, meta, task)
            elif not (meta.task_deaths.get(task.id, 0) > DEATH_LIMIT):
                dispatcher.dispatch(actor, meta, task)  # type: ignore[arg-type]
        self.outbox.send()

    # --- replay ------------------------------------------------------------------------------------------------------

    def _rebuild(self, instance: Instance) -> None:
        self._rebuilding = True
        self.engine.clock.spawn(rebuild_behaviour(self, instance))

    def rebuilt(self, instance: Instance, run: Run | None, stalled: Stalled | None) -> None:
        """What the rebuilding of this instance has led to: its code as it was, or why it cannot go on."""
        if self.instance is not instance:
            if run is not None:
                run.close()
            return
        self._rebuilding = False
        if stalled is not None:
            instance.scanned = instance.meta.history
        if instance.finished:
            if run is not None:
                run.close()
        else:
            self.run = run
            self._stalled = stalled or self._stalled
        self.activation.wake()

    # --- the rest ----------------------------------------------------------------------------------------------------

    def wait(self, message: Message) -> None:
        """The instance is as this `Wait` finds it; it is answered now, or when it has come so far."""
        if self.activation.phase is Phase.GONE:
            message.answer(Moved())
            return
        self.waiters = told([*self.waiters, message], self.instance)


def _unmatched(message: Message) -> bool:
    """Whether it can be received before the whole history is known. Not what ends an instance: its children have to
    be known."""
    body = message.body
    return isinstance(body, UNMATCHED) and not (type(body) is Start and body.if_exists == "replace")
