"""Classes of users as actor types: what their activations do with messages."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from perdure import payload
from perdure.actors.activation import Activation
from perdure.actors.actor import Actor, actor_methods, actor_type
from perdure.actors.book import ReminderBook
from perdure.actors.calls import Caller, RunningTurn, running_turn
from perdure.actors.context import ActorContext
from perdure.actors.ids import check_user_type
from perdure.actors.messages import Message, nobody
from perdure.actors.methods import find
from perdure.actors.proxy import bind
from perdure.actors.schedule import RETRY_DELAY, Schedule, decode
from perdure.actors.state import StoredKeys
from perdure.actors.timers import Timer, Timers
from perdure.actors.turn import Turn
from perdure.errors import (
    ActorMethodFailed,
    ConfigurationError,
    CorruptState,
    LoopBlocked,
    Moved,
    OutcomeUnknown,
    PerdureError,
    StoreError,
)
from perdure.logs import fields
from perdure.statestore.contract import Reminder, Snapshot

log = logging.getLogger("perdure.actors")

#: Seconds without a message after which an actor leaves memory.
IDLE_TIMEOUT = 3600.0
#: Seconds that `on_deactivate` has.
DEACTIVATE_TIMEOUT = 5.0
#: Microseconds for which a reminder that this release cannot read is put off.
UNREADABLE_DELAY = 3_600_000_000

#: What user code may raise without harm to others; what else there is (KeyboardInterrupt) ends the process.
_RAISED = (Exception, asyncio.CancelledError, LoopBlocked)


class UserActorType:
    """Implements `perdure.actors.host.ActorType` for one class. `ConfigurationError` for a class or name that cannot
    be one."""

    def __init__(
        self,
        cls: type[Actor],
        caller: Caller,
        *,
        name: str | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        if not (isinstance(cls, type) and issubclass(cls, Actor)):
            raise ConfigurationError(f"an actor type is a class derived from perdure.Actor, not {cls!r}")
        self.name = check_user_type(name or actor_type(cls))
        self.idle_timeout = idle_timeout
        self.cls = cls
        self.caller = caller
        self.methods = actor_methods(cls)
        self.deactivates = cls.on_deactivate is not Actor.on_deactivate
        _check_constructor(cls)
        for hook in ("on_activate", "on_deactivate", "on_reminder"):
            if not inspect.iscoroutinefunction(getattr(cls, hook)):
                raise ConfigurationError(f"{cls.__name__}.{hook} must be an async def")

    def create(self, activation: Activation) -> UserBehaviour:
        return UserBehaviour(self, activation)

    def reminder(self, reminder: Reminder, answer: Callable[[object], None]) -> Message:
        return Message(reminder.actor, "on_reminder", reminder, answer)


class UserBehaviour:
    """Implements `perdure.actors.turn.Behaviour` for one actor of a user's class: one message, one turn.

    A message's body says what it is: payload bytes or None (a call), a `Reminder`, or a `Timer` (a tick).
    """

    __slots__ = (
        "_book",
        "_closed",
        "_context",
        "_refused",
        "_running",
        "_saved",
        "_saving",
        "_stored",
        "_task",
        "_timers",
        "activation",
        "kind",
    )

    def __init__(self, kind: UserActorType, activation: Activation) -> None:
        self.kind = kind
        self.activation = activation
        self._timers = Timers(activation.host.clock, self._tick)
        self._closed = False
        #: The message whose turn runs, and the task that runs it. None again as soon as the turn is made or void.
        self._running: Message | None = None
        self._task: asyncio.Task[Any] | None = None
        #: Whether a part of the running turn is stored, or on its way there.
        self._saved = False
        self._saving = False
        #: The message whose turn the store rejected, and why.
        self._refused: tuple[Message, str] | None = None
        self._begin_anew(None)

    def _begin_anew(self, snapshot: Snapshot | None) -> None:
        store = self.activation.host.store
        self._stored = StoredKeys(snapshot, self._read_key)
        self._book = ReminderBook(self.activation.actor, store.reminders)
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

    # --- Behaviour -----------------------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot | None) -> None:
        message = self._abandon()
        if message is not None:
            # A save() in its turn met another version than it expected: what it would have stored is void.
            if self._saved:
                message.answer(self._lost())
            else:
                self.activation.mailbox.appendleft(message)
        self._timers.close()
        self._begin_anew(snapshot)

    def step(self) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        mailbox = self.activation.mailbox
        while mailbox:
            message = mailbox.popleft()
            work = self._work(message)
            if work is not None:
                self._running = message
                self._saved = self._saving = False
                return self._turn(message, work)
        return None

    def committed(self, turn: Turn) -> None:
        if self._saving:
            self._saved = True
            self._saving = False
        self._refused = None
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
        self._closed = True
        task = self._task
        message = self._abandon()
        if message is not None:
            message.answer(self._lost())
        self._timers.close()
        target = self._context.object
        if target is not None and self._context.active and self.kind.deactivates:
            self.activation.host.clock.spawn(self._deactivate(target, task))

    # --- a turn ----------------------------------------------------------------------------------------------------

    def _work(self, message: Message) -> Coroutine[Any, Any, Any] | None:
        """What the message asks for; None when it is answered already."""
        body = message.body
        refused = self._refused
        if refused is not None and refused[0] is message:
            return self._raise(StoreError(refused[1]))
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
        return self._call(method.fn, arguments, method.encode_result)

    async def _turn(self, message: Message, work: Coroutine[Any, Any, Any]) -> Turn | None:
        """Runs the turn of one message. Never raises; None when the turn was made void meanwhile, and its message
        answered or put back."""
        if self._running is not message:
            work.close()
            return None
        context = self._context
        self._enter(context)
        try:
            value = await work
        except _RAISED as error:
            return await self._raised(message, error)
        finally:
            context.open = False
        return self._end(message, value)

    def _enter(self, context: ActorContext) -> None:
        self._task = asyncio.current_task()
        running_turn.set(RunningTurn(self.activation.actor, self._task))
        bind(self.kind.caller)
        context.open = True

    def _end(self, message: Message, answer: Any) -> Turn | None:
        if self._running is not message:
            return None
        self._running = self._task = None
        turn = self.activation.begin([message])
        self._context.fill(turn.commit)
        turn.answers.append((message.answer, answer))
        if type(message.body) is Timer:
            turn.effects.append((self._timers.done, (message.body,)))
        return turn

    async def _raised(self, message: Message, error: BaseException) -> Turn | None:
        """The user's code failed: its changes and its object are void, what the store has stays."""
        if self._running is not message:
            return None
        if isinstance(error, asyncio.CancelledError) and self._cancelled_from_outside():
            self._abandon()
            message.answer(self._lost())
            raise error
        self._book.forget()
        self._context = self._new_context()
        if type(message.body) is Reminder:
            self._retry_reminder(message.body, await self._plan(message.body), error)
            if self._running is not message:
                return None
        elif type(message.body) is Timer:
            log.error(
                "timer.failed",
                extra=fields(actor=self.activation.actor, timer=message.body.spec.name),
                exc_info=error,
            )
        return self._end(message, _failure(self.kind.name, message.method, error))

    def _cancelled_from_outside(self) -> bool:
        """Whether somebody cancelled the turn's task, which nobody but the loop's end does; user code that awaits
        something cancelled gets the same exception."""
        return self._task is not None and self._task.cancelling() > 0

    def _abandon(self) -> Message | None:
        """Makes the running turn void. Its code sees a cancellation; whatever it still does changes nothing."""
        message, self._running = self._running, None
        task, self._task = self._task, None
        self._context.open = False
        if task is not None:
            task.cancel()
        return message

    def _lost(self) -> PerdureError:
        if self._saved or self._saving:
            return OutcomeUnknown(f"{self.activation.actor} moved in a call of which a part was saved")
        return Moved()

    async def _save(self) -> None:
        context = self._context
        turn = self.activation.begin([])
        context.fill(turn.commit)
        if not turn.changes:
            # Timers wait for a commit only to share its fate.
            context.committed()
            return
        self._saving = True
        # What a task beside this one would change now is neither in this commit nor in the next.
        context.open = False
        try:
            await self.activation.checkpoint(turn)
        except StoreError:
            self._saving = False
            raise
        finally:
            context.open = self._context is context and self._running is not None

    # --- what turns do -----------------------------------------------------------------------------------------------

    async def _object(self) -> Actor:
        context = self._context
        if context.object is None:
            made = self.kind.cls._make(context)
            context.object = made
            await made.on_activate()
            context.active = True
        return context.object

    async def _call(
        self, fn: Callable[..., Any], arguments: tuple[Any, ...], encode: Callable[[Any], payload.Payload]
    ) -> payload.Payload:
        result = fn(await self._object(), *arguments)
        if inspect.isawaitable(result):
            result = await result
        return encode(result)

    async def _call_timer(self, timer: Timer) -> None:
        target = await self._object()
        callback = getattr(target, timer.spec.callback)
        result = callback(timer.spec.data) if _takes_data(callback) else callback()
        if inspect.isawaitable(result):
            await result

    async def _remind(self, reminder: Reminder) -> None:
        # Kept here: code that ignores its cancellation must not change what a later turn commits.
        name, book = reminder.name, self._book
        if await book.get(name) != reminder:
            # A turn before this one deleted or replaced it.
            await book.correct(name)
            return
        try:
            plan = decode(reminder.data)
        except CorruptState as error:
            log.error("reminder.unreadable", extra=fields(actor=reminder.actor, reminder=name, reason=error))
            book.put(self._at(reminder, self._now() + UNREADABLE_DELAY, reminder.data))
            return
        if not plan.expired(self._now()):
            target = await self._object()
            await target.on_reminder(name, payload.decode(plan.data, f"the data of reminder {name!r}"))
        if await book.get(name) == reminder:
            self._move_on(book, reminder, plan)

    def _move_on(self, book: ReminderBook, reminder: Reminder, plan: Schedule) -> None:
        after = plan.after(self._now())
        if after is None:
            book.delete(reminder.name)
        else:
            book.put(self._at(reminder, after.due, after.encode()))

    async def _plan(self, reminder: Reminder) -> Schedule | None:
        """The reminder's schedule; None when the store has another one or none of its name, or cannot say now."""
        try:
            stored = await self._book.get(reminder.name)
            return decode(reminder.data) if stored == reminder else None
        except (StoreError, CorruptState):
            return None

    def _retry_reminder(self, reminder: Reminder, plan: Schedule | None, error: BaseException) -> None:
        retried = None
        if plan is not None:
            retried = plan.retried()
            if retried is None:
                self._move_on(self._book, reminder, plan)
            else:
                self._book.put(self._at(reminder, self._now() + RETRY_DELAY, retried.encode()))
        level = logging.WARNING if retried is not None else logging.ERROR
        log.log(
            level,
            "reminder.failed",
            extra=fields(
                actor=reminder.actor,
                reminder=reminder.name,
                failures=retried.failures if retried is not None else None,
            ),
            exc_info=error,
        )

    def _now(self) -> int:
        return self.activation.host.clock.now()

    def _at(self, reminder: Reminder, due: int, data: bytes) -> Reminder:
        return Reminder(reminder.actor, reminder.name, due, data)

    def _tick(self, timer: Timer) -> None:
        # Through the mailbox, so that ticks and calls take their turns in the order in which they came.
        self.activation.deliver(Message(self.activation.actor, timer.spec.callback, timer, nobody))

    @staticmethod
    async def _raise(error: Exception) -> None:
        raise error

    async def _deactivate(self, target: Actor, task: asyncio.Task[Any] | None) -> None:
        try:
            async with asyncio.timeout(DEACTIVATE_TIMEOUT):
                if task is not None:
                    # One thing at a time, also for code that is being cancelled.
                    await asyncio.wait([task])
                await target.on_deactivate()
        except _RAISED as error:
            log.error("deactivation.failed", extra=fields(actor=self.activation.actor), exc_info=error)


def _failure(kind: str, method: str, error: BaseException) -> ActorMethodFailed:
    name, text = type(error).__name__, str(error)
    return ActorMethodFailed(
        f"{kind}.{method} raised {name}: {text}" if text else f"{kind}.{method} raised {name}",
        error_type=name,
        error_message=text,
    )


def _takes_data(callback: Callable[..., Any]) -> bool:
    return bool(inspect.signature(callback).parameters)


def _check_constructor(cls: type[Actor]) -> None:
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if parameter.default is inspect.Parameter.empty and not variadic:
            raise ConfigurationError(
                f"{cls.__name__}.__init__ takes {parameter.name!r}, but the runtime makes actors: set attributes in "
                "on_activate, from self.id and self.state"
            )
