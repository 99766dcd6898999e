"""Calls of user actors: a request, and its answer as a value or an exception."""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import Any, NamedTuple, Protocol

from perdure.actors.ids import check_actor, qualified
from perdure.actors.router import Router
from perdure.clock import Clock
from perdure.errors import DeadlineExceeded, InvalidState
from perdure.payload import Payload
from perdure.statestore.contract import ActorId

#: Seconds that a caller waits for an answer.
CALL_TIMEOUT = 60.0


class Caller(Protocol):
    """Whoever brings calls to actors: a node, or a client of one."""

    async def call_actor(
        self,
        actor: ActorId,
        method: str,
        payload: Payload,
        *,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 - part of the proxies' public signature
    ) -> Payload:
        """As `call`."""


class RouterCaller:
    """Calls through one node's router."""

    def __init__(self, router: Router, clock: Clock, namespace: str = "default") -> None:
        self._router = router
        self._clock = clock
        self._namespace = namespace

    async def call_actor(
        self,
        actor: ActorId,
        method: str,
        payload: Payload,
        *,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 - see Caller
    ) -> Payload:
        check_actor(actor)
        target = ActorId(qualified(self._namespace, actor.type), actor.id)
        return await call(self._router, self._clock, target, method, payload, timeout=timeout)


class RunningTurn(NamedTuple):
    """The turn that the current code is part of."""

    actor: ActorId
    task: asyncio.Task[Any] | None


#: Set in the task of a user actor's turn.
running_turn: contextvars.ContextVar[RunningTurn | None] = contextvars.ContextVar(
    "running_turn", default=None
)


async def call(
    router: Router,
    clock: Clock,
    actor: ActorId,
    method: str,
    payload: Payload,
    *,
    timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 - the router needs it too, to stop trying
) -> Payload:
    """Calls a method of a user actor, wherever its owner is: JSON in, JSON out, None for no value.

    Sent again only while it was surely not executed. `ActorMethodFailed`: the method raised, nothing was stored.
    `NotFound`: no such method. `InvalidInput`: its input does not fit. `OutcomeUnknown`: the link to the owner was
    lost before the answer. `DeadlineExceeded`: no answer in time; the call may still be executed. Cancelling ends
    only the wait.
    """
    _check_self_call(actor, method)
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    settle = partial(_settle, future)
    late = DeadlineExceeded(
        f"{actor}: no answer to {method!r} within {timeout:g} s; it may still be executed"
    )
    timer = clock.call_later(timeout, settle, late)
    try:
        router.send(actor, method, payload, settle, repeatable=False, give_up=clock.monotonic() + timeout)
        answer = await future
    finally:
        timer.cancel()
    if isinstance(answer, BaseException):
        raise answer
    result: Payload = answer
    return result


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _check_self_call(actor: ActorId, method: str) -> None:
    """An actor that waits in its turn for a call to itself would wait for ever: the call waits for the turn."""
    turn = running_turn.get()
    if turn is not None and turn.actor == actor and turn.task is asyncio.current_task():
        raise InvalidState(
            f"{actor} calls itself from its own turn, which would never end: use self.{method}(…), or call it from "
            "a task or timer of its own"
        )
