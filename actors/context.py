"""What one object of an actor class can reach: its state, reminders and timers, while one of its turns runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from perdure import payload
from perdure.actors.actor import A, Actor, ReminderInfo
from perdure.actors.book import ReminderBook
from perdure.actors.calls import Caller, RunningTurn, running_turn
from perdure.actors.expiry import EXPIRE, sweep, wake
from perdure.actors.ids import check_name
from perdure.actors.proxy import ActorProxy
from perdure.actors.schedule import FailurePolicy, When, decode, schedule
from perdure.actors.state import ActorState, StoredKeys
from perdure.actors.timers import Timers, TimerSpec, monotonic
from perdure.clock import Clock
from perdure.errors import AlreadyExists, ConfigurationError, InvalidInput, InvalidState, StoreError
from perdure.statestore.contract import ActorId, Commit, Reminder


class Saver(Protocol):
    async def __call__(self) -> None:
        """Commits what the running turn has changed so far."""


class Mark(NamedTuple):
    """What was changed up to some point of a turn."""

    state: tuple[dict[str, bytes | None], int | None]
    reminders: dict[str, Reminder | None]
    timers: list[TimerSpec | str]


class ActorContext:
    """Made anew with each object, so that code of a discarded object that still runs changes nothing.

    INVARIANT: changes are made only while `open` is set, that is, inside a turn, and by nobody but the `holder` if
    there is one; they are in the turn's commit or nowhere."""

    def __init__(
        self,
        actor: ActorId,
        cls: type[Actor],
        *,
        clock: Clock,
        caller: Caller,
        stored: StoredKeys,
        book: ReminderBook,
        timers: Timers,
        save: Saver,
    ) -> None:
        self.actor = actor
        self.open = False
        #: The innermost turn of a reentrant actor: its code, and the tasks that it started.
        self.holder: RunningTurn | None = None
        self.state = ActorState(stored, self._check_turn, save, clock.now)
        self.book = book
        self.object: Actor | None = None
        #: Whether the object's `on_activate` has returned.
        self.active = False
        #: Whether the turn removes the actor, of which nothing is left.
        self.remove = False
        self._cls = cls
        self._clock = clock
        self._caller = caller
        self._timers = timers
        #: Timers to set, and names of timers to delete, with the commit.
        self._timer_changes: list[TimerSpec | str] = []

    # --- the turn ----------------------------------------------------------------------------------------------------

    @property
    def changed(self) -> bool:
        """Whether there is something to commit."""
        return self.state.changed or self.book.changed

    async def prepare(self) -> None:
        """Before `fill`: sees to it that values which expire are deleted one day."""
        soonest = self.state.soonest
        if soonest is None:
            return
        try:
            known = await self.book.get(EXPIRE)
        except StoreError:
            known = None
        due = sweep(soonest, self._clock.now(), known)
        if due is not None:
            self.book.put(wake(self.actor, due))

    def fill(self, commit: Commit) -> None:
        if self.remove:
            commit.reset = True
            return
        self.state.fill(commit)
        self.book.fill(commit)

    def committed(self) -> None:
        """What `fill` gave is durable."""
        self.remove = False
        self.state.committed()
        self.book.committed()
        changes, self._timer_changes = self._timer_changes, []
        for change in changes:
            if isinstance(change, TimerSpec):
                self._timers.set(change)
            else:
                self._timers.delete(change)

    def mark(self) -> Mark:
        """For `rewind`, which undoes what is changed after this."""
        return Mark(self.state.mark(), self.book.mark(), list(self._timer_changes))

    def rewind(self, mark: Mark) -> None:
        self.state.rewind(mark.state)
        self.book.rewind(mark.reminders)
        self._timer_changes = list(mark.timers)

    def _check_turn(self) -> None:
        if not self.open:
            raise InvalidState(
                f"{self.actor} has no turn now: state, reminders and timers can be used only inside a method of the "
                "actor, not in a task that outlives it, nor in on_deactivate"
            )
        if self.holder is not None and running_turn.get() is not self.holder:
            raise InvalidState(
                f"{self.actor} is in a call that its turn waits for: until that has ended nothing else of it can use "
                "state, reminders and timers"
            )

    # --- Context -----------------------------------------------------------------------------------------------------

    async def set_reminder(
        self,
        name: str,
        due: When | None,
        period: timedelta | str | None,
        ttl: When | None,
        data: object,
        overwrite: bool,
        failure_policy: FailurePolicy | None,
    ) -> None:
        self._check_turn()
        encoded = payload.encode(data, f"the data of reminder {name!r}")
        await self.put_reminder(name, due, period, ttl, encoded, overwrite, failure_policy)

    async def put_reminder(
        self,
        name: str,
        due: When | None,
        period: timedelta | str | None,
        ttl: When | None,
        data: payload.Payload,
        overwrite: bool,
        policy: FailurePolicy | None,
    ) -> None:
        """`set_reminder` with data that is JSON already."""
        check_name(name, "reminder")
        if self._cls.on_reminder is Actor.on_reminder:
            raise ConfigurationError(f"{self._cls.__name__} sets a reminder, but has no on_reminder")
        if not overwrite and await self.book.get(name) is not None:
            raise AlreadyExists(f"{self.actor} has a reminder {name!r} already")
        try:
            plan = schedule(self._clock.now(), due, period, ttl, data, policy)
        except InvalidInput as error:
            raise InvalidInput(f"reminder {name!r}: {error.message}") from error
        self.book.put(Reminder(self.actor, name, plan.due, plan.encode()))

    async def get_reminder(self, name: str) -> ReminderInfo | None:
        self._check_turn()
        reminder = await self.book.get(check_name(name, "reminder"))
        if reminder is None:
            return None
        plan = decode(reminder.data)
        data = payload.decode(plan.data, f"the data of reminder {name!r}")
        return ReminderInfo(name, reminder.due, plan.period, plan.left, plan.expires, data, plan.failures)

    async def delete_reminder(self, name: str) -> None:
        self._check_turn()
        self.book.delete(check_name(name, "reminder"))

    def set_timer(
        self,
        name: str,
        due: When | None,
        period: timedelta | str | None,
        callback: str | Callable[..., Any],
        data: object,
        ttl: When | None,
    ) -> None:
        self._check_turn()
        check_name(name, "timer")
        self.put_timer(name, due, period, self._callback(name, callback), data, ttl)

    def put_timer(
        self,
        name: str,
        due: When | None,
        period: timedelta | str | None,
        callback: str,
        data: object,
        ttl: When | None,
    ) -> None:
        """`set_timer` with the name of a method that the class has."""
        wall = self._clock.now()
        try:
            plan = schedule(wall, due, period, ttl)
        except InvalidInput as error:
            raise InvalidInput(f"timer {name!r}: {error.message}") from error
        self._timer_changes.append(
            TimerSpec(name, plan.shifted(monotonic(self._clock) - wall), callback, data)
        )

    def delete_timer(self, name: str) -> None:
        self._check_turn()
        self._timer_changes.append(check_name(name, "timer"))

    def proxy(self, actor: type[A], actor_id: str, timeout: float, idempotency_key: str | None) -> A:
        return ActorProxy.of(self._caller, actor, actor_id, timeout=timeout, idempotency_key=idempotency_key)

    def _callback(self, name: str, callback: str | Callable[..., Any]) -> str:
        """The name of the method, so that a timer does not hold an object that was discarded."""
        wanted = callback if isinstance(callback, str) else getattr(callback, "__name__", "")
        own = isinstance(callback, str) or getattr(callback, "__self__", None) is self.object
        if own and inspect.isfunction(inspect.getattr_static(self._cls, wanted, None)):
            return wanted
        raise InvalidInput(
            f"timer {name!r}: the callback is a method of {self._cls.__name__} or its name, not {callback!r}"
        )
