"""Actor: the class that users derive their actors from."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from perdure.actors.ids import plain
from perdure.actors.methods import Method, methods_of, note_scope
from perdure.actors.schedule import FailurePolicy, When
from perdure.actors.state import ActorState
from perdure.errors import InvalidState
from perdure.statestore.contract import ActorId

A = TypeVar("A", bound="Actor")


class ReminderInfo(NamedTuple):
    """A reminder as it stands now. Times are microseconds since 1970 UTC, the period is in microseconds."""

    name: str
    #: When it fires next.
    due: int
    period: int | None
    #: How often it still fires; None: no end.
    left: int | None
    expires: int | None
    data: Any
    #: How often its tick has raised so far, and is being tried again.
    failures: int = 0


class Context(Protocol):
    """What the runtime gives one actor object; see `Actor` for what each does."""

    actor: ActorId
    state: ActorState

    async def set_reminder(
        self,
        name: str,
        due: When | None,
        period: timedelta | str | None,
        ttl: When | None,
        data: object,
        overwrite: bool,
        failure_policy: FailurePolicy | None,
    ) -> None: ...
    async def get_reminder(self, name: str) -> ReminderInfo | None: ...
    async def delete_reminder(self, name: str) -> None: ...
    def set_timer(
        self,
        name: str,
        due: When | None,
        period: timedelta | str | None,
        callback: str | Callable[..., Any],
        data: object,
        ttl: When | None,
    ) -> None: ...
    def delete_timer(self, name: str) -> None: ...
    def proxy(self, actor: type[A], actor_id: str, timeout: float, idempotency_key: str | None) -> A: ...


class Actor:
    """An object with durable state, addressed by its type and its id.

        @app.actor
        class Counter(Actor):
            async def increment(self, by: int) -> int:
                value = await self.state.get("n", int, default=0) + by
                self.state.set("n", value)
                return value

    It exists once in the cluster and always: whoever calls it first brings it into memory. Its public methods can be
    called from outside, with one argument at most, typed by annotation. One call runs at a time (a *turn*), and what
    a turn changes in `self.state` and in its reminders is committed as a whole before the caller has the answer.

    When a method raises, its caller gets `ActorMethodFailed`, nothing of the turn is stored, and the object is
    discarded: the next call begins with a new one and `on_activate`, so that attributes never show what was not
    stored. When the node gives the actor to another one in the middle of a turn, the method has a second to end; then it
    is cancelled and runs again there, and what it had done outside of the actor may happen twice. After `self.state.save()` it does not
    run again: the caller gets `OutcomeUnknown`.

    With `@app.actor(reentrant=True)` whatever a turn calls may call this actor back: such a call runs inside of the
    turn that waits for it, sees its changes, and is answered when both their changes so far are committed. When it
    raises, its own changes are undone; the object is discarded when the outer call has ended.

    The actor type is the name of the class, or `class Counter(Actor, type="counter")`.
    """

    #: The actor type, of derived classes.
    actor_type: ClassVar[str] = ""

    __context: Context | None = None

    def __init_subclass__(cls, *, type: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.actor_type = cls.__name__ if type is None else type
        frame = sys._getframe(1)
        if frame.f_locals is not frame.f_globals:
            note_scope(cls, dict(frame.f_locals))

    # --- to be overridden --------------------------------------------------------------------------------------------

    async def on_activate(self) -> None:
        """The actor was brought into memory: set attributes and timers here. Part of the turn of the first message;
        when it raises, that message fails."""

    async def on_deactivate(self) -> None:
        """The object leaves memory in good order: it was idle, its partition moves, or the node stops. State can no
        longer be used. It has a few seconds; errors are logged. Not called after a crash, nor when a failed turn
        discards the object: what must not be lost belongs into the state."""

    async def on_reminder(self, name: str, data: object) -> None:
        """A reminder of this actor is due, in a turn of its own. The turn's commit also moves it to its next time, or
        deletes it; so it fires at least once, and only once if the commit is reached.

        When this raises, the same tick is tried again after 1 s, 3 times, or as the reminder's `failure_policy` says;
        the count survives a crash. Then a
        reminder with a period goes on with its next tick, and one without is deleted and logged as an error."""
        raise NotImplementedError(f"{self.type} has no on_reminder")

    # --- what an actor has -------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.__reach().actor.id

    @property
    def type(self) -> str:
        return plain(self.__reach().actor.type)

    @property
    def state(self) -> ActorState:
        return self.__reach().state

    async def set_reminder(
        self,
        name: str,
        due: When | None = None,
        period: timedelta | str | None = None,
        *,
        ttl: When | None = None,
        data: object = None,
        overwrite: bool = True,
        failure_policy: FailurePolicy | None = None,
    ) -> None:
        """Has `on_reminder` called at `due`, and then every `period`, for as long as the actor exists, also after
        restarts. Durable with the turn's commit.

        due: a delay or a time; None: at once. period: None: once; `R5/PT1M`: five times in all. ttl: from then on it
        does not fire any more. data: JSON. Text may be `1h30m`, `PT1H30M` or `2030-01-31T12:00:00Z`. Ticks that were
        missed while no node ran fire once, together. `failure_policy` is for ticks whose handler raises:
        `FailurePolicy.drop()` or `.constant(…)`. `overwrite=False`: `AlreadyExists` when there is one of this
        name; otherwise it is replaced."""
        await self.__reach().set_reminder(name, due, period, ttl, data, overwrite, failure_policy)

    async def get_reminder(self, name: str) -> ReminderInfo | None:
        """The reminder of this name; None when there is none (any more)."""
        return await self.__reach().get_reminder(name)

    async def delete_reminder(self, name: str) -> None:
        """No error when there is no such reminder. Durable with the turn's commit."""
        await self.__reach().delete_reminder(name)

    def set_timer(
        self,
        name: str,
        due: When | None = None,
        period: timedelta | str | None = None,
        callback: str | Callable[..., Any] = "",
        data: object = None,
        *,
        ttl: When | None = None,
    ) -> None:
        """Has a method of this object called at `due` and then every `period`, while the actor is in memory: timers
        are lost when it leaves it, so set them in `on_activate`. From the turn's commit on; one of the same name is
        replaced.

        Each tick is a turn of its own, and keeps the actor in memory for another idle time. The next tick comes only
        after the callback has returned. When the callback raises, that is logged, its turn's changes are discarded
        as with any method, and the timer goes on. The callback gets `data` if it takes an argument."""
        self.__reach().set_timer(name, due, period, callback, data, ttl)

    def delete_timer(self, name: str) -> None:
        """No error when there is no such timer. From the turn's commit on."""
        self.__reach().delete_timer(name)

    def proxy(
        self,
        actor: builtins.type[A],
        actor_id: str,
        *,
        timeout: float = 60.0,
        idempotency_key: str | None = None,
    ) -> A:
        """Another actor, to call its methods. A call that would have to wait for this actor's own turn, as the other
        one waits for it, is refused with `InvalidState`, unless this class was registered with `reentrant=True`.
        `idempotency_key`: see `ActorProxy`."""
        return self.__reach().proxy(actor, actor_id, timeout, idempotency_key)

    def __reach(self) -> Context:
        if self.__context is None:
            raise InvalidState(
                f"this {self.__class__.__name__} was made by hand: actors are made by their node and called through "
                "ActorProxy"
            )
        return self.__context

    @classmethod
    def _make(cls: builtins.type[A], context: Context) -> A:
        """The runtime's way to a new object: the context is there before `__init__` runs."""
        made = cls.__new__(cls)
        made.__context = context
        made.__init__()  # type: ignore[misc]
        return made


def actor_type(cls: type[Actor]) -> str:
    return cls.actor_type


def actor_methods(cls: type[Actor]) -> Mapping[str, Method]:
    """The methods of the class that can be called from outside, by name."""
    return methods_of(cls, Actor)
