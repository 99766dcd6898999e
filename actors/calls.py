"""Calls of user actors: a request, and its answer as a value or an exception."""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import Any, NamedTuple, Protocol

from perdure.actors.ids import check_actor, check_idempotency_key, qualified
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
        idempotency_key: str | None = None,
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
        idempotency_key: str | None = None,
    ) -> Payload:
        check_actor(actor)
        target = ActorId(qualified(self._namespace, actor.type), actor.id)
        return await call(
            self._router,
            self._clock,
            target,
            method,
            payload,
            timeout=timeout,
            idempotency_key=idempotency_key,
        )


class Door(Protocol):
    """How calls that are part of what a turn waits for come into that turn: see `perdure.actors.inner_turns`."""

    def open(self) -> str:
        """The turn is about to wait for a call. Its ticket: whoever shows it may enter until `close`."""

    async def close(self) -> None:
        """The turn goes on. Returns when nothing of what entered is under way any more."""


class RunningTurn(NamedTuple):
    """The turn that the current code is part of."""

    actor: ActorId
    task: asyncio.Task[Any] | None
    #: The actors whose turns wait for this one, outermost first.
    chain: tuple[ActorId, ...] = ()
    #: Monotonic time after which nobody waits for its answer.
    deadline: float | None = None
    #: As of a `Message`.
    tickets: tuple[str, ...] = ()
    #: None: nobody may enter it.
    door: Door | None = None


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
    idempotency_key: str | None = None,
) -> Payload:
    """Calls a method of a user actor, wherever its owner is: JSON in, JSON out, None for no value.

    Without an idempotency key it is sent again only while it was surely not executed. With one the reply is kept, so
    that the call may be sent again at any time, also by whoever calls; it is executed once.

    `ActorMethodFailed`: the method raised, nothing was stored (but what it had saved). `NotFound`: no such method.
    `InvalidInput`: its input does not fit. `OutcomeUnknown`: the link to the owner was lost before the answer, or the
    owner with a part of the call saved. `DeadlineExceeded`: no answer in time; the call may still be executed.
    `KeyReused`: the key was used for another call. Cancelling ends only the wait. A call from an actor's turn has no
    more time than that turn's caller waits; `InvalidState` when it would never be answered, as its target's turn
    waits for it and is not reentrant.
    """
    if idempotency_key is not None:
        check_idempotency_key(idempotency_key)
    turn = _waiting_turn()
    if turn is None:
        return await _send(
            router, clock, actor, method, payload, clock.monotonic() + timeout, timeout, idempotency_key
        )
    chain = _chain(turn, actor, method)
    deadline = clock.monotonic() + timeout
    if turn.deadline is not None and turn.deadline < deadline:
        deadline = turn.deadline
        timeout = max(0.0, deadline - clock.monotonic())
    door = turn.door
    ticket = door.open() if door is not None else ""
    tickets = (*_tickets(turn), ticket) if ticket or turn.tickets else ()
    try:
        return await _send(
            router, clock, actor, method, payload, deadline, timeout, idempotency_key, chain, tickets
        )
    finally:
        if door is not None:
            await door.close()


async def _send(
    router: Router,
    clock: Clock,
    actor: ActorId,
    method: str,
    payload: Payload,
    deadline: float,
    timeout: float,  # noqa: ASYNC109 - for what the error says
    key: str | None,
    chain: tuple[ActorId, ...] = (),
    tickets: tuple[str, ...] = (),
) -> Payload:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    settle = partial(_settle, future)
    late = DeadlineExceeded(
        f"{actor}: no answer to {method!r} within {timeout:g} s; it may still be executed"
    )
    timer = clock.call_later(timeout, settle, late)
    try:
        router.send(
            actor,
            method,
            payload,
            settle,
            repeatable=key is not None,
            give_up=deadline,
            chain=chain,
            key=key,
            tickets=tickets,
        )
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


def _waiting_turn() -> RunningTurn | None:
    """The turn that waits for a call that is made here. Only what the turn's own task calls is waited for by the
    turn; tasks that it starts may outlive it."""
    turn = running_turn.get()
    return turn if turn is not None and turn.task is asyncio.current_task() else None


def _chain(turn: RunningTurn, actor: ActorId, method: str) -> tuple[ActorId, ...]:
    """The actors whose turns wait for a call that this turn makes. `InvalidState` when one of them is its target and
    lets nobody enter: the call would wait for a turn that waits for it, until the time-out."""
    chain = (*turn.chain, turn.actor)
    if turn.actor == actor and turn.door is None:
        raise InvalidState(
            f"{actor} calls itself from its own turn, which would never end: use self.{method}(…), call it from a "
            "task or timer of its own, or register it with reentrant=True"
        )
    if actor in turn.chain and turn.actor != actor:
        last = len(turn.chain) - 1 - turn.chain[::-1].index(actor)
        if not _tickets(turn)[last]:
            circle = [*chain[chain.index(actor) :], actor]
            raise InvalidState(
                f"the call of {method!r} would never be answered, as the turns wait for each other: "
                f"{' → '.join(map(str, circle))}. Have one of them go on without the answer, make the call from a "
                "task or timer of its own, or register the actor with reentrant=True"
            )
    if len(chain) >= DEPTH_LIMIT:
        raise InvalidState(
            f"calls inside of calls are {DEPTH_LIMIT} deep, from {chain[0]} to {chain[-1]}: no deeper ones are made"
        )
    return chain


def _tickets(turn: RunningTurn) -> tuple[str, ...]:
    """One for each of the turn's chain."""
    return turn.tickets or ("",) * len(turn.chain)
