"""What the activation of a user's actor does with its messages."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from perdure import payload
from perdure.actors.activation import Activation
from perdure.actors.actor import Actor
from perdure.actors.book import ReminderBook
from perdure.actors.calls import RunningTurn, running_turn
from perdure.actors.context import ActorContext
from perdure.actors.messages import Message, nobody
from perdure.actors.methods import Method, find
from perdure.actors.proxy import bind
from perdure.actors.reminder_turns import ReminderTurns
from perdure.actors.state import StoredKeys
from perdure.actors.timers import Timer, Timers
from perdure.actors.turn import Turn
from perdure.actors.user_turn import UserTurn
from perdure.errors import ActorMethodFailed, LoopBlocked, Moved, OutcomeUnknown, PerdureError, StoreError
from perdure.logs import fields
from perdure.statestore.contract import Reminder, Snapshot

if TYPE_CHECKING:
    from perdure.actors.user_type import UserActorType

log = logging.getLogger("perdure.actors")

#: Seconds that `on_deactivate` has.
DEACTIVATE_TIMEOUT = 5.0

#: What user code may raise without harm to others; what else there is (KeyboardInterrupt) ends the process.
_RAISED = (Exception, asyncio.CancelledError, LoopBlocked)


class UserBehaviour:
    """Implements `perdure.actors.turn.Behaviour` for one actor of a user's class: one message, one turn.

    A message's body says what it is: payload bytes or None (a call), a `Reminder`, or a `Timer` (a tick).

    INVARIANT: what a turn changes goes through its context, and reaches a commit only while that turn is `_running`.
    """

    __slots__ = (
        "_book",
        "_context",
        "_refused",
        "_reminders",
        "_running",
        "_stored",
        "_timers",
        "activation",
        "kind",
    )

    def __init__(self, kind: UserActorType, activation: Activation) -> None:
        self.kind = kind
        self.activation = activation
        self._timers = Timers(activation.host.clock, self._tick)
        #: The turn whose code runs now; None again as soon as it is over or void.
        self._running: UserTurn | None = None
        #: The reminder's message whose turn the store rejected, and why.
        self._refused: tuple[Message, str] | None = None
        self._begin_anew(None)

    def _begin_anew(self, snapshot: Snapshot | None) -> None:
        host = self.activation.host
        self._stored = StoredKeys(snapshot, self._read_key)
        self._book = ReminderBook(self.activation.actor, host.store.reminders)
        self._reminders = ReminderTurns(self._book, host.clock.now)
        self._context = self._new_context()

    def _new_context(self) -> ActorContext:
        return ActorContext(
            self.activation.actor,
            clock=self.activation.host.clock,
            caller=self.kind.caller,
            stored=self._stored,
            book=self._book,
            timers=self._timers,
            save=self._save,
        )

    async def _read_key(self, key: str) -> bytes | None:
        page = await self.activation.host.store.keys(self.activation.actor, key, key, 1)
        return page.items[0][1] if page.items and page.items[0][0] == key else None

    # --- Behaviour ---------------------------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot | None) -> None:
        turn = self._abandon()
        if turn is not None:
            # A save() in it met another version than it expected, so nothing of that save is stored.
            if turn.saved:
                turn.message.answer(_lost(turn))
            else:
                self.activation.mailbox.appendleft(turn.message)
        self._timers.close()
        self._begin_anew(snapshot)

    def step(self) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        mailbox = self.activation.mailbox
        while mailbox:
            message = mailbox.popleft()
            if self.activation.expired(message):
                continue
            work = self._work(message)
            if work is not None:
                self._running = UserTurn(message, self._context)
                return self._run(self._running, work)
        return None

    def committed(self, turn: Turn) -> None:
        self._refused = None
        if self._running is not None:
            self._running.saved = True
        self._context.committed()

    def rejected(self, turn: Turn, reason: str) -> None:
        again, self._refused = self._refused, None
        for message in turn.messages:
            if type(message.body) is Reminder and (again is None or again[0] is not message):
                # Counts as a failure of its handler, so that it is not fired again for ever.
                self._refused = (message, reason)
                continue
            self.activation.mailbox.remove(message)
            message.answer(StoreError(reason))

    def evictable(self) -> bool:
        return True

    def close(self) -> None:
        turn = self._abandon()
        if turn is not None:
            turn.message.answer(_lost(turn))
        self._timers.close()
        target = self._context.object
        if target is not None and self._context.active and self.kind.deactivates:
            task = turn.task if turn is not None else None
            self.activation.host.clock.spawn(self._deactivate(target, task))

    # --- a turn ------------------------------------------------------------------------------------------------------

    def _work(self, message: Message) -> Coroutine[Any, Any, Any] | None:
        """What the message asks for; None when it needs no turn and is answered."""
        body = message.body
        if self._refused is not None and self._refused[0] is message:
            return _fail(StoreError(self._refused[1]))
        if type(body) is Reminder:
            return self._remind(body)
        if type(body) is Timer:
            return self._call_timer(body) if self._timers.live(body) else None
        try:
            method = find(self.kind.methods, self.kind.name, message.method)
            arguments = method.arguments(body)
        except PerdureError as error:
            message.answer(error)
            return None
        return self._call(method, arguments)

    async def _run(self, turn: UserTurn, work: Coroutine[Any, Any, Any]) -> Turn | None:
        """Runs the turn of one message. None when it was made void meanwhile: whoever did that has the message."""
        if self._running is not turn:
            work.close()
            return None
        turn.task = asyncio.current_task()
        message = turn.message
        running_turn.set(RunningTurn(self.activation.actor, turn.task, message.chain, message.deadline))
        bind(self.kind.caller)
        turn.context.open = True
        try:
            answer = await work
        except _RAISED as error:
            turn.context.open = False
            answer = await self._raised(turn, error)
        finally:
            turn.context.open = False
        return self._end(turn, answer)

    async def _raised(self, turn: UserTurn, error: BaseException) -> ActorMethodFailed | None:
        """The turn's code failed: its changes and its object are void; what the store has, stays."""
        if self._running is not turn:
            return None
        if isinstance(error, asyncio.CancelledError) and turn.task is not None and turn.task.cancelling():
            # Nobody but the end of the loop cancels this task. Awaiting something cancelled raises the same.
            self._running = None
            turn.message.answer(_lost(turn))
            raise error
        self._book.forget()
        self._context = self._new_context()
        body = turn.message.body
        if type(body) is Reminder:
            await self._reminders.failed(body, error)
        elif type(body) is Timer:
            log.error(
                "timer.failed",
                extra=fields(actor=self.activation.actor, timer=body.spec.name),
                exc_info=error,
            )
        return _failure(self.kind.name, turn.message.method, error)

    def _end(self, turn: UserTurn, answer: Any) -> Turn | None:
        if self._running is not turn:
            return None
        self._running = None
        message = turn.message
        made = self.activation.begin([message])
        self._context.fill(made.commit)
        made.answers.append((message.answer, answer))
        if type(message.body) is Timer:
            made.effects.append((self._timers.done, (message.body,)))
        return made

    def _abandon(self) -> UserTurn | None:
        """Makes the running turn void. Its code sees a cancellation; whatever it still does changes nothing."""
        turn, self._running = self._running, None
        self._context.open = False
        if turn is not None and turn.task is not None:
            turn.task.cancel()
        return turn

    async def _save(self) -> None:
        turn = self._running
        assert turn is not None
        made = self.activation.begin([])
        turn.context.fill(made.commit)
        if not made.changes:
            # Timers wait for a commit only to share its fate.
            turn.context.committed()
            return
        turn.saving = True
        # What a task beside this one would change now is neither in this commit nor in the next.
        turn.context.open = False
        try:
            await self.activation.checkpoint(made)
            turn.saving = False
        except StoreError:
            turn.saving = False
            raise
        finally:
            turn.context.open = self._running is turn

    # --- what turns do -----------------------------------------------------------------------------------------------

    async def _object(self) -> Actor:
        context = self._context
        if context.object is None:
            context.object = self.kind.cls._make(context)
            await context.object.on_activate()
            context.active = True
        return context.object

    async def _call(self, method: Method, arguments: tuple[Any, ...]) -> payload.Payload:
        result = method.fn(await self._object(), *arguments)
        if inspect.isawaitable(result):
            result = await result
        return method.encode_result(result)

    async def _call_timer(self, timer: Timer) -> None:
        callback: Callable[..., Any] = getattr(await self._object(), timer.spec.callback)
        takes_data = bool(inspect.signature(callback).parameters)
        result = callback(timer.spec.data) if takes_data else callback()
        if inspect.isawaitable(result):
            await result

    async def _remind(self, reminder: Reminder) -> None:
        # Kept here: code that ignores its cancellation must not change what a later turn commits.
        reminders = self._reminders
        plan = await reminders.begin(reminder)
        if plan is not None:
            data = payload.decode(plan.data, f"the data of reminder {reminder.name!r}")
            target = await self._object()
            await target.on_reminder(reminder.name, data)
            await reminders.done(reminder, plan)

    def _tick(self, timer: Timer) -> None:
        # Through the mailbox, so that ticks and calls take their turns in the order in which they came.
        self.activation.deliver(Message(self.activation.actor, timer.spec.callback, timer, nobody))

    async def _deactivate(self, target: Actor, task: asyncio.Task[Any] | None) -> None:
        try:
            async with asyncio.timeout(DEACTIVATE_TIMEOUT):
                if task is not None:
                    # One thing at a time, also for code that is being cancelled.
                    await asyncio.wait([task])
                await target.on_deactivate()
        except _RAISED as error:
            log.error("deactivation.failed", extra=fields(actor=self.activation.actor), exc_info=error)


async def _fail(error: Exception) -> None:
    raise error


def _lost(turn: UserTurn) -> PerdureError:
    """What the caller is told when its turn became void."""
    if turn.saved or turn.saving:
        return OutcomeUnknown(f"{turn.message.target} was lost in a call of which a part was saved")
    return Moved()


def _failure(kind: str, method: str, error: BaseException) -> ActorMethodFailed:
    name, text = type(error).__name__, str(error)
    return ActorMethodFailed(
        f"{kind}.{method} raised {name}: {text}" if text else f"{kind}.{method} raised {name}",
        error_type=name,
        error_message=text,
    )
