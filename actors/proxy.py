"""ActorProxy: calls of an actor's methods as if the object were here."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

from perdure import payload
from perdure.actors.actor import Actor, actor_methods, actor_type
from perdure.actors.calls import CALL_TIMEOUT, Caller
from perdure.actors.ids import check_actor
from perdure.actors.methods import Method, find
from perdure.errors import ConfigurationError
from perdure.statestore.contract import ActorId

A = TypeVar("A", bound=Actor)

_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("actor_caller", default=None)


def bind(caller: Caller | None) -> None:
    """From here on, in this task and those that it starts, `ActorProxy.create` calls through `caller`."""
    _caller.set(caller)


class ActorProxy:
    """Calls actors by name, and makes typed proxies of actor classes.

    seats = ActorProxy.create(Seats, "train-7")      # through the node that serves here
    seats = ActorProxy.of(node, Seats, "train-7")    # through this node
    free = await seats.take(4)

    Type checkers see a typed proxy as the class: arguments and results are checked. What can be called are the
    class's public methods; their arguments and results cross as JSON, also within one process. Every call has to be
    awaited, so methods that are called through proxies are best written with `async def`. Making a proxy does no
    I/O, and an actor need not exist before it is called. Errors are those of `perdure.actors.calls.call`.

    `idempotency_key` names the one call that the proxy is made for: made again with the same key, to the same actor,
    it is not executed again, but has the same result (for 24 hours, or as the actor type was registered). In an
    activity, `ctx.idempotency_key` is such a name.
    """

    __slots__ = ("_actor", "_caller", "_key", "_timeout")

    def __init__(
        self,
        caller: Caller,
        actor_type: str,
        actor_id: str,
        *,
        timeout: float = CALL_TIMEOUT,
        idempotency_key: str | None = None,
    ) -> None:
        """A proxy without types: of an actor whose class is not here."""
        self._caller = caller
        self._actor = check_actor(ActorId(actor_type, actor_id))
        self._timeout = timeout
        self._key = idempotency_key

    def __repr__(self) -> str:
        return f"<ActorProxy {self._actor}>"

    async def call(self, method: str, input: object = None, *, type: Any = payload.EMPTY) -> Any:
        """Calls a method by its name; the result is read as `type`, plain JSON without one."""
        label = f"{self._actor.type}.{method}"
        body = payload.encode(input, f"the input of {label}")
        answer = await self._caller.call_actor(
            self._actor, method, body, timeout=self._timeout, idempotency_key=self._key
        )
        return payload.decoder(type, f"the result of {label}")(answer)

    @staticmethod
    def of(
        caller: Caller,
        actor: type[A],
        actor_id: str,
        *,
        timeout: float = CALL_TIMEOUT,
        idempotency_key: str | None = None,
    ) -> A:
        """A typed proxy of the actor with this id, through this node. `timeout`: seconds for each call."""
        return cast(A, TypedProxy(caller, actor, actor_id, timeout, idempotency_key))

    @staticmethod
    def create(
        actor: type[A],
        actor_id: str,
        *,
        timeout: float = CALL_TIMEOUT,
        idempotency_key: str | None = None,
    ) -> A:
        """A typed proxy through the node that serves here: inside `async with app.serve()`, in actors and activities
        of a node. `ConfigurationError` elsewhere."""
        caller = _caller.get()
        if caller is None:
            raise ConfigurationError(
                "no node serves here: use ActorProxy.create inside `async with app.serve(…) as node`, or "
                "ActorProxy.of(node, …)"
            )
        return ActorProxy.of(caller, actor, actor_id, timeout=timeout, idempotency_key=idempotency_key)


class TypedProxy:
    """What `ActorProxy.of` returns: it has the callable methods of one class, and nothing else."""

    __slots__ = ("__actor", "__caller", "__key", "__methods", "__timeout")

    def __init__(
        self,
        caller: Caller,
        actor: type[Actor],
        actor_id: str,
        timeout: float,
        idempotency_key: str | None,
    ) -> None:
        if not (isinstance(actor, type) and issubclass(actor, Actor)):
            raise ConfigurationError(f"a proxy is made for a class derived from perdure.Actor, not {actor!r}")
        self.__caller = caller
        self.__actor = check_actor(ActorId(actor_type(actor), actor_id))
        self.__methods = actor_methods(actor)
        self.__timeout = timeout
        self.__key = idempotency_key

    def __repr__(self) -> str:
        return f"<ActorProxy {self.__actor}>"

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            method = find(self.__methods, self.__actor.type, name)
        except LookupError as error:
            raise AttributeError(str(error)) from None
        return partial(self.__call, method)

    async def __call(self, method: Method, *args: Any, **kwargs: Any) -> Any:
        body = method.encode_input(args, kwargs)
        answer = await self.__caller.call_actor(
            self.__actor, method.name, body, timeout=self.__timeout, idempotency_key=self.__key
        )
        return method.decode_result(answer)
