"""What the activation of a user's actor does with its messages."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from perdure import payload
from perdure.actors import operations, outcomes, replies
from perdure.actors.activation import Activation, Phase
from perdure.actors.actor import Actor
from perdure.actors.book import ReminderBook
from perdure.actors.calls import RunningTurn, running_turn
from perdure.actors.context import ActorContext
from perdure.actors.expiry import EXPIRE, SLACK, wake
from perdure.actors.inner_turns import InnerTurns, ticket_of
from perdure.actors.messages import Message, nobody
from perdure.actors.methods import Method, find
from perdure.actors.outcomes import Partly
from perdure.actors.proxy import bind
from perdure.actors.reminder_turns import ReminderTurns
from perdure.actors.state import StoredKeys
from perdure.actors.timers import Timer, Timers
from perdure.actors.turn import Turn
from perdure.actors.user_turn import UserTurn
from perdure.errors import (
    ActorMethodFailed,
    LoopBlocked,
    Moved,
    PerdureError,
    StoreError,
)
from perdure.logs import fields
from perdure.statestore.contract import Page, Reminder, Snapshot

if TYPE_CHECKING:
    from perdure.actors.user_type import UserActorType

log = logging.getLogger("perdure.actors")

#: Seconds that `on_deactivate` has.
DEACTIVATE_TIMEOUT = 5.0

#: What a message asks for: begun by the turn itself, so that nothing is left where it never begins.
Work = Callable[[], Coroutine[Any, Any, Any]]

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
        "_inner",
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
        #: The turns inside of it; None where nobody may enter.
        self._inner: InnerTurns | None = None
        if kind.reentrant:
            self._inner = InnerTurns()
            activation.enter = self._enter
        #: The reminder's message whose turn the store rejected, and why.
        self._refused: tuple[Message, str] | None = None
        self._begin_anew(None)

    def _begin_anew(self, snapshot: Snapshot | None) -> None:
        host = self.activation.host
        self._stored = StoredKeys(snapshot, self._read_keys)
        self._book = ReminderBook(self.activation.actor, host.store.reminders)
        self._reminders = ReminderTurns(self._book, host.clock.now)
        self._context = self._new_context()

    def _new_context(self) -> ActorContext:
        return ActorContext(
            self.activation.actor,
            self.kind.cls,
            clock=self.activation.host.clock,
            caller=self.kind.caller,
            stored=self._stored,
            book=self._book,
            timers=self._timers,
            save=self._save,
        )

    async def _read_keys(self, prefix: str, start: str | None, limit: int) -> Page[tuple[str, bytes]]:
        return await self.activation.host.store.keys(self.activation.actor, prefix, start, limit)

    # --- Behaviour ---------------------------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot | None) -> None:
        turn = self._abandon()
        if turn is not None:
            # A save() in it met another version than it expected, so nothing of that save is stored.
            if turn.saved:
                turn.message.answer(outcomes.lost(turn))
            else:
                self.activation.mailbox.appendleft(turn.message)
        self._timers.close()
        self._begin_anew(snapshot)

    def step(self) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        mailbox = self.activation.mailbox
        while mailbox:
            message = mailbox.popleft()
            if type(message.answer) is Partly:
                # Its last commit did not pass, but those before it did.
                message.answer(Moved())
                continue
            if self.activation.expired(message):
                continue
            work = self._work(message)
            if work is not None:
                self._running = UserTurn(message, self._context)
                return self._run(self._running, work)
        return None

    def committed(self, turn: Turn) -> None:
        self._refused = None
        context = self._context
        context.committed()
        inner = self._inner
        if self._running is not None:
            outcomes.note_saved(self._running)
            for one in inner.turns if inner is not None else ():
                one.saved = True
                one.mark = context.mark()
        elif inner is not None and inner.spoiled:
            inner.spoiled = False
            self._context = self._new_context()

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
            turn.message.answer(outcomes.lost(turn))
        self._timers.close()
        target = self._context.object
        if target is not None and self._context.active and self.kind.deactivates:
            task = turn.task if turn is not None else None
            self.activation.host.clock.spawn(self._deactivate(target, task))

    # --- a turn ------------------------------------------------------------------------------------------------------

    def _work(self, message: Message) -> Work | None:
        """What the message asks for; None when it needs no turn and is answered."""
        body = message.body
        if self._refused is not None and self._refused[0] is message:
            return partial(_fail, StoreError(self._refused[1]))
        if type(body) is Reminder:
            return partial(self._expire if body.name == EXPIRE else self._remind, body)
        if type(body) is Timer:
            return partial(self._call_timer, body) if self._timers.live(body) else None
        if message.method in operations.OPERATIONS:
            return self._operate(message)
        return self._requested(message)

    def _requested(self, message: Message) -> Work | None:
        """The call of a method; None when it cannot be, which is answered."""
        try:
            method = find(self.kind.methods, self.kind.name, message.method)
            arguments = method.arguments(message.body)
        except PerdureError as error:
            message.answer(error)
            return None
        if message.key is not None:
            return partial(self._call_once, message, method, arguments)
        return partial(self._call, method, arguments)

    async def _run(self, turn: UserTurn, work: Work) -> Turn | None:
        """Runs the turn of one message. None when it was made void meanwhile: whoever did that has the message."""
        if self._running is not turn:
            return None
        self._begin(turn)
        turn.context.open = True
        try:
            answer = await work()
            if turn.context.state.soonest is not None:
                await turn.context.prepare()
        except _RAISED as error:
            turn.context.open = False
            answer = await self._raised(turn, error)
        finally:
            turn.context.open = False
        return self._end(turn, answer)

    def _begin(self, turn: UserTurn) -> None:
        """The first thing in the turn's own task."""
        message = turn.message
        turn.task = asyncio.current_task()
        door = None if self._inner is None else _Door(self, turn)
        turn.running = RunningTurn(
            self.activation.actor, turn.task, message.chain, message.deadline, message.tickets, door
        )
        running_turn.set(turn.running)
        bind(self.kind.caller)
        if door is not None:
            turn.context.holder = turn.running

    async def _raised(self, turn: UserTurn, error: BaseException) -> ActorMethodFailed | None:
        """The turn's code failed: its changes and its object are void; what the store has, stays."""
        if self._running is not turn:
            return None
        if isinstance(error, asyncio.CancelledError) and turn.task is not None and turn.task.cancelling():
            # Nobody but the end of the loop cancels this task. Awaiting something cancelled raises the same.
            self._running = None
            turn.message.answer(outcomes.lost(turn))
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
        failure = outcomes.failure(self.kind.name, turn.message.method, error)
        if turn.saved and self._running is turn:
            self._keep(turn.message, replies.failed(turn.message.method, turn.message.body, failure))
            await self._context.prepare()
        return failure

    def _end(self, turn: UserTurn, answer: Any) -> Turn | None:
        if self._running is not turn:
            return None
        self._running = turn.running = self._context.holder = None
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
        if self._inner is not None:
            inside, waiting = self._inner.clear()
            for one in inside:
                outcomes.cancel(one, outcomes.lost_inside(one))
            for message in waiting:
                message.answer(outcomes.late(message))
        if turn is not None:
            turn.running = None
        if turn is not None and turn.task is not None:
            turn.task.cancel()
        return turn

    async def _save(self) -> None:
        turn = self._running
        assert turn is not None
        try:
            await self._checkpoint(turn.context)
        finally:
            self._admit()

    async def _checkpoint(self, context: ActorContext, *, look: bool = False) -> None:
        """Commits what has been changed so far by the running turn and those inside of it. `look`: commits even
        where nothing was changed, if placement's last word is too old to trust what was read. `StoreError`: the store
        will never take it. Does not return when the turn became void."""
        turn, inner = self._running, self._inner
        assert turn is not None
        all_turns = [turn, *inner.turns] if inner is not None else [turn]
        if context.changed:
            for one in all_turns:
                self._keep_begun(one)
        await context.prepare()
        made = self.activation.begin([])
        context.fill(made.commit)
        if not made.changes and (not look or self.activation.host.fresh()):
            # Timers wait for a commit only to share its fate.
            context.committed()
            return
        for one in all_turns:
            one.saving = True
        # What a task beside this one would change now is neither in this commit nor in the next.
        context.open = False
        if inner is not None:
            inner.commit = asyncio.get_running_loop().create_future()
        try:
            await self.activation.checkpoint(made)
        finally:
            if self._running is turn:
                context.open = True
                for one in all_turns:
                    one.saving = False
            if inner is not None:
                inner.committed()

    # --- calls with an idempotency key -------------------------------------------------------------------------------

    async def _call_once(self, message: Message, method: Method, arguments: tuple[Any, ...]) -> Any:
        """The call's result, or what it was answered before."""
        key = message.key
        assert key is not None
        context = self._context
        stored = await context.state.read(replies.state_key(key))
        if stored is not None:
            return replies.decode(stored).answer(key, method.name, message.body)
        answer = await self._call(method, arguments)
        self._keep(message, replies.ended(method.name, message.body, answer), context)
        return answer

    def _keep_begun(self, turn: UserTurn) -> None:
        """A part of the turn is about to be saved: it must not be executed again."""
        message = turn.message
        if message.key is not None and not turn.settled and message.method not in operations.OPERATIONS:
            self._keep(message, replies.begun(message.method, message.body))

    def _keep(self, message: Message, kept: replies.Kept, context: ActorContext | None = None) -> None:
        if message.key is not None:
            state = (context or self._context).state
            state.write(replies.state_key(message.key), kept.encode(), self.kind.keep_replies)

    # --- turns inside of the turn ------------------------------------------------------------------------------------

    def _enter(self, message: Message) -> bool:
        """Whether a message was part of what a turn of this actor waits for, or had been, and is taken care of."""
        inner = self._inner
        assert inner is not None
        ticket = ticket_of(message, self.activation.actor)
        if not ticket:
            return False
        if inner.knows(self._running, ticket):
            inner.waiting.append(message)
            self._admit()
        else:
            message.answer(outcomes.late(message))
        return True

    def _admit(self) -> None:
        """Begins the next turn inside of the running one, if it is waited for."""
        inner, outer = self._inner, self._running
        if inner is None or outer is None or not inner.waiting:
            return
        # A save that a task of the turn makes comes to its end first.
        while self.activation.phase is Phase.TURN and outer.context.open:
            message = inner.next(self.activation.actor, outer)
            if message is None:
                return
            if self.activation.expired(message):
                continue
            work = self._requested(message)
            if work is None:
                continue
            turn = UserTurn(message, outer.context)
            inner.turns.append(turn)
            self.activation.host.clock.spawn(self._run_inside(turn, work))
            return

    async def _run_inside(self, turn: UserTurn, work: Work) -> None:
        inner = self._inner
        assert inner is not None
        if turn not in inner.turns:
            return
        self._begin(turn)
        turn.mark = turn.context.mark()
        try:
            answer = await work()
        except _RAISED as error:
            if turn not in inner.turns:
                return
            self._undo(turn)
            answer = outcomes.failure(self.kind.name, turn.message.method, error)
            if turn.saved:
                self._keep(turn.message, replies.failed(turn.message.method, turn.message.body, answer))
            if isinstance(error, asyncio.CancelledError) and turn.task is not None and turn.task.cancelling():
                self._leave(turn, outcomes.lost_inside(turn))
                raise
        if turn not in inner.turns:
            return
        turn.settled = True
        try:
            await self._checkpoint(turn.context, look=True)
        except StoreError as error:
            self._undo(turn)
            answer = error
        if turn in inner.turns:
            self._leave(turn, answer)

    def _undo(self, turn: UserTurn) -> None:
        """What a turn inside has changed since its last save, if it has made one, is forgotten."""
        assert self._inner is not None
        if turn.mark is not None:
            turn.context.rewind(turn.mark)
            self._inner.spoiled = True

    def _leave(self, turn: UserTurn, answer: Any) -> None:
        """The innermost turn is over: the one around it has the actor again."""
        inner, outer = self._inner, self._running
        assert inner is not None
        assert outer is not None
        inner.turns.remove(turn)
        turn.context.holder = inner.innermost(outer).running
        turn.running = None
        turn.message.answer(answer)
        self._admit()

    def _alive(self, turn: UserTurn) -> bool:
        """Whether the turn, one inside of another or not, is neither over nor void."""
        return self._running is turn or (self._inner is not None and turn in self._inner.turns)

    async def close_door(self, turn: UserTurn) -> None:
        """The turn goes on: whatever else came in by the call that it waited for is over."""
        inner = self._inner
        assert inner is not None
        turn.ticket = ""
        if not self._alive(turn):
            return
        interrupted: asyncio.CancelledError | None = None
        while self._alive(turn) and (inside := inner.inside(turn)):
            last = inside[0]
            if inner.commit is not None:
                # Its changes are on their way to the store together with this turn's.
                try:
                    await asyncio.wait([inner.commit])
                except asyncio.CancelledError as error:
                    if not self._alive(turn):
                        raise
                    interrupted = error
                continue
            inner.turns.remove(last)
            self._undo(last)
            turn.context.holder = turn.running
            outcomes.cancel(last, outcomes.lost_inside(last))
        outer = self._running
        for message in inner.late(self.activation.actor, outer) if outer is not None else ():
            message.answer(outcomes.late(message))
        if interrupted is not None:
            raise interrupted

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

    def _operate(self, message: Message) -> Work:
        if message.method == operations.CHANGE_STATE:
            # The object may know of the state what is not so any more: the next call has a new one.
            self._context = self._new_context()
        return partial(self._operated, message, self._context)

    async def _operated(self, message: Message, context: ActorContext) -> PerdureError | None:
        mark = context.mark()
        try:
            await operations.run(context, self.kind.cls, self.kind.methods, message.method, message.body)
        except PerdureError as error:
            context.rewind(mark)
            return error
        return None

    async def _expire(self, reminder: Reminder) -> None:
        """Deletes the values whose time is over. No code of the user runs."""
        context, book = self._context, self._book
        if await book.get(EXPIRE) != reminder:
            await book.correct(EXPIRE)
            return
        now = self.activation.host.clock.now()
        over, soonest, all_of_them = await self._stored.expired(now)
        if all_of_them and not await book.others(EXPIRE):
            context.remove = True
            return
        for key in over:
            context.state.drop(key)
        if soonest is None:
            book.delete(EXPIRE)
        else:
            due = max(soonest, now) + SLACK
            book.put(wake(reminder.actor, due))

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


class _Door:
    """Implements `perdure.actors.calls.Door` for one turn."""

    __slots__ = ("_behaviour", "_turn")

    def __init__(self, behaviour: UserBehaviour, turn: UserTurn) -> None:
        self._behaviour = behaviour
        self._turn = turn

    def open(self) -> str:
        ticket = self._turn.ticket = self._behaviour.activation.host.clock.token(8).hex()
        return ticket

    async def close(self) -> None:
        await self._behaviour.close_door(self._turn)


async def _fail(error: Exception) -> None:
    raise error
