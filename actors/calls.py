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
#: How many turns may wait for each other, one inside the other.
DEPTH_LIMIT = 32


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
    #: The actors whose turns wait for this one, outermost first.
    chain: tuple[ActorId, ...] = ()
    #: Monotonic time after which nobody waits for its answer.
    deadline: float | None = None


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
    only the wait. A call from an actor's turn has no more time than that turn's caller waits; `InvalidState` when it
    would never be answered, as its target's turn waits for it.
    """
    chain, until = _within(actor, method)
    now = clock.monotonic()
    deadline = now + timeout if until is None else min(now + timeout, until)
    timeout = max(0.0, deadline - now)
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    settle = partial(_settle, future)
    late = DeadlineExceeded(
        f"{actor}: no answer to {method!r} within {timeout:g} s; it may still be executed"
    )
    timer = clock.call_later(timeout, settle, late)
    try:
        router.send(actor, method, payload, settle, repeatable=False, give_up=deadline, chain=chain)
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


def _within(actor: ActorId, method: str) -> tuple[tuple[ActorId, ...], float | None]:
    """The actors whose turns wait for a call that is made here, and for how long they do. `InvalidState` when one of
    them is its target: it would wait for a turn that waits for it, until the time-out.

    Only what the turn's own task calls is waited for by the turn; tasks that it starts may outlive it.
    """
    turn = running_turn.get()
    if turn is None or turn.task is not asyncio.current_task():
        return (), None
    if turn.actor == actor:
        raise InvalidState(
            f"{actor} calls itself from its own turn, which would never end: use self.{method}(…), or call it from "
            "a task or timer of its own"
        )
    chain = (*turn.chain, turn.actor)
    if actor in chain:
        circle = [*chain[chain.index(actor) :], actor]
        raise InvalidState(
            f"the call of {method!r} would never be answered, as the turns wait for each other: "
            f"{' → '.join(map(str, circle))}. Have one of them go on without the answer, or make the call from a task "
            "or timer of its own"
        )
    if len(chain) >= DEPTH_LIMIT:
        raise InvalidState(
            f"calls inside of calls are {DEPTH_LIMIT} deep, from {chain[0]} to {chain[-1]}: no deeper ones are made"
        )
    return chain, turn.deadline
