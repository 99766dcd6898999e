"""Questions between nodes: about what a node knows or does, not about any actor's state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.actors.messages import Message
from perdure.actors.router import Router
from perdure.clock import Clock
from perdure.errors import Moved, NotFound, PerdureError, Unavailable
from perdure.logs import fields
from perdure.statestore.contract import ActorId

log = logging.getLogger("perdure.actors")

#: The actor type of nodes themselves; the id is that of the incarnation. It keeps no state.
NODE = "dapr.internal.node"
#: Seconds that an answer may take, unless the question says otherwise.
ANSWER_WITHIN = 1.0

#: Answers a question: body in, answer out. Both are plain values or structs that the peer links can encode.
Handler = Callable[[Any], Awaitable[Any]]


class NodeQuestions:
    """One per node: asks others, and answers them.

    A question is sent once. It may arrive late or, over a link that is lost, not at all, so asking must do no harm
    when it is done twice. A node may ask itself.
    """

    def __init__(self, router: Router, clock: Clock) -> None:
        self._router = router
        self._clock = clock
        self._handlers: dict[str, Handler] = {}
        router.stateless(NODE, self._asked)

    def register(self, method: str, handler: Handler) -> None:
        """Questions of this name are answered by `handler`. `ValueError` when another one has the name."""
        if method in self._handlers:
            raise ValueError(f"{method!r} is answered already")
        self._handlers[method] = handler

    async def ask(
        self,
        node: str,
        method: str,
        body: Any,
        timeout: float = ANSWER_WITHIN,  # noqa: ASYNC109 - sent along: who answers need not work for longer
    ) -> Any | None:
        """The node's answer; None when there is none within `timeout` seconds, whatever the reason: it is gone, the
        link is cut, it does not know the question or could not answer it. Never raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(value: Any) -> None:
            if not answer.done():
                answer.set_result(value)

        timer = self._clock.call_later(timeout, settle, None)
        deadline = self._clock.monotonic() + timeout
        try:
            self._router.send_to(node, ActorId(NODE, node), method, body, settle, deadline=deadline)
            value = await answer
        finally:
            timer.cancel()
        if isinstance(value, PerdureError):
            log.debug("question.unanswered", extra=fields(node=node, method=method, reason=value))
            return None
        return value

    def _asked(self, message: Message) -> None:
        handler = self._handlers.get(message.method)
        if message.target.id != self._router.node:
            message.answer(Moved(f"this is node {self._router.node}, not {message.target.id}"))
        elif handler is None:
            message.answer(NotFound(f"node {self._router.node} knows no question {message.method!r}"))
        else:
            self._clock.spawn(self._answer(handler, message))

    async def _answer(self, handler: Handler, message: Message) -> None:
        try:
            value = await handler(message.body)
        except PerdureError as error:
            value = error
        except Exception as error:
            log.exception("question.failed", extra=fields(method=message.method))
            value = Unavailable(f"the question failed: {error!r}")
        message.answer(value)
