"""Classes of users as actor types."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta

from perdure.actors.activation import Activation
from perdure.actors.actor import Actor, actor_methods, actor_type
from perdure.actors.calls import Caller
from perdure.actors.ids import check_user_type, qualified
from perdure.actors.messages import Message
from perdure.actors.replies import KEEP
from perdure.actors.user_behaviour import UserBehaviour
from perdure.errors import ConfigurationError
from perdure.statestore.contract import Reminder

#: Seconds without a message after which an actor leaves memory.
IDLE_TIMEOUT = 3600.0
#: Longer than anybody wants replies to be kept.
KEEP_LIMIT = timedelta(days=36_600)


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
        reentrant: bool = False,
        keep_replies: timedelta = KEEP,
        namespace: str = "default",
    ) -> None:
        if not (isinstance(cls, type) and issubclass(cls, Actor)):
            raise ConfigurationError(f"an actor type is a class derived from perdure.Actor, not {cls!r}")
        self.name = qualified(namespace, check_user_type(name or actor_type(cls)))
        self.idle_timeout = idle_timeout
        #: Whether what a turn of it calls may call it back.
        self.reentrant = reentrant
        if not isinstance(keep_replies, timedelta) or not timedelta(0) < keep_replies < KEEP_LIMIT:
            raise ConfigurationError(f"keep_replies is a timedelta above 0, not {keep_replies!r}")
        #: For how long replies of calls with an idempotency key are kept.
        self.keep_replies = keep_replies
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


def _check_constructor(cls: type[Actor]) -> None:
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if parameter.default is inspect.Parameter.empty and not variadic:
            raise ConfigurationError(
                f"{cls.__name__}.__init__ takes {parameter.name!r}, but the runtime makes actors: set attributes in "
                "on_activate, from self.id and self.state"
            )
