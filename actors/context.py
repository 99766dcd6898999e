"""What one object of an actor class can reach: its state, reminders and timers, while one of its turns runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from perdure import payload
from perdure.actors.actor import A, Actor, ReminderInfo
from perdure.actors.book import ReminderBook
from perdure.actors.calls import Caller
from perdure.actors.ids import check_name
from perdure.actors.proxy import ActorProxy
from perdure.actors.schedule import When, decode, schedule
from perdure.actors.state import ActorState, StoredKeys
from perdure.actors.timers import Timers, TimerSpec, monotonic
from perdure.clock import Clock
from perdure.errors import AlreadyExists, ConfigurationError, InvalidInput, InvalidState
from perdure.statestore.contract import ActorId, Commit, Reminder


class Saver(Protocol):
    async def __call__(self) -> None:
        """Commits what the running turn has changed so far."""


class ActorContext:
    """Made anew with each object, so that code of a discarded object that still runs changes nothing.

    INVARIANT: changes are made only while `open` is set, that is, inside a turn; they are in the turn's commit or
    nowhere."""

    def __init__(
        self,
        actor: ActorId,
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
        self.state = ActorState(stored, self._check_turn, save)
        self.book = book
        self.object: Actor | None = None
        #: Whether the object's `on_activate` has returned.
        self.active = False
        self._clock = clock
        self._caller = caller
        self._timers = timers
        #: Timers to set, and names of timers to delete, with the commit.
        self._timer_changes: list[TimerSpec | str] = []

    # --- the turn ----------------------------------------------------------------------------------------------------

    def fill(self, commit: Commit) -> None:
        self.state.fill(commit)
        self.book.fill(commit)

    def committed(self) -> None:
        """What `fill` gave is durable."""
        self.state.committed()
        self.book.committed()
        changes, self._timer_changes = self._timer_changes, []
        for change in changes:
            if isinstance(change, TimerSpec):
                self._timers.set(change)
            else:
                self._timers.delete(change)

    def _check_turn(self) -> None:
        if not self.open:
            raise InvalidState(
                f"{self.actor} has no turn now: state, reminders and timers can be used only inside a method of the "
                "actor, not in a task that outlives it, nor in on_deactivate"
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
    ) -> None:
        self._check_turn()
        check_name(name, "reminder")
        cls = type(self.object)
        if getattr(cls, "on_reminder", None) is Actor.on_reminder:
            raise ConfigurationError(f"{cls.__name__} sets a reminder, but has no on_reminder")
        if not overwrite and await self.book.get(name) is not None:
            raise AlreadyExists(f"{self.actor} has a reminder {name!r} already")
        encoded = payload.encode(data, f"the data of reminder {name!r}")
        try:
            plan = schedule(self._clock.now(), due, period, ttl, encoded)
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
        return ReminderInfo(name, reminder.due, plan.period, plan.left, plan.expires, data)

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
        method = self._callback(name, callback)
        wall = self._clock.now()
        try:
            plan = schedule(wall, due, period, ttl)
        except InvalidInput as error:
            raise InvalidInput(f"timer {name!r}: {error.message}") from error
        self._timer_changes.append(TimerSpec(name, plan.shifted(monotonic(self._clock) - wall), method, data))

    def delete_timer(self, name: str) -> None:
        self._check_turn()
        self._timer_changes.append(check_name(name, "timer"))

    def proxy(self, actor: type[A], actor_id: str, timeout: float) -> A:
        return ActorProxy.of(self._caller, actor, actor_id, timeout=timeout)

    def _callback(self, name: str, callback: str | Callable[..., Any]) -> str:
        """The name of the method, so that a timer does not hold an object that was discarded."""
        cls = type(self.object)
        wanted = callback if isinstance(callback, str) else getattr(callback, "__name__", "")
        own = isinstance(callback, str) or getattr(callback, "__self__", None) is self.object
        if own and inspect.isfunction(inspect.getattr_static(cls, wanted, None)):
            return wanted
        raise InvalidInput(
            f"timer {name!r}: the callback is a method of {cls.__name__} or its name, not {callback!r}"
        )
