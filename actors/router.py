"""Brings a message to its actor's owner, wherever that is now, and the answer back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from perdure.actors.host import ActorHost
from perdure.actors.messages import Answer, Identity, Message, nobody
from perdure.clock import Cancellable, Clock
from perdure.errors import DeadlineExceeded, Moved, OutcomeUnknown, Unavailable
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, Fence

#: Seconds between tries of a message whose owner could not be reached: doubled from the first to the last.
RETRY_FIRST = 0.02
RETRY_LAST = 1.0
#: Seconds that a refused message waits at most for the table that the refusing node goes by.
TABLE_WAIT = 1.0


class Peers(Protocol):
    """The other nodes: links over the network, or in one process for tests and the simulation."""

    def send(self, node: str, message: Message) -> None:
        """Hands the message to that node's router (`Router.arrived`), at most once if it is not `repeatable`. Its
        answer comes as the message's answer: `Moved` when the node surely did not take it, `Unavailable` when that
        is unknown."""


class NoPeers:
    """A node alone in its process: there is nobody else to send to."""

    def send(self, node: str, message: Message) -> None:
        message.answer(Moved(f"node {node} cannot be reached"))


class Locator(Protocol):
    """Where things are, by the newest placement table."""

    def owner(self, actor_type: str, partition: int) -> str | None:
        """The node that owns this partition; None while there is none."""


class Delivery:
    """One message on its way, until it is answered or its time is over."""

    __slots__ = ("_attempts", "_done", "_give_up", "_message", "_router")

    def __init__(self, router: Router, message: Message, done: Answer, give_up: float | None) -> None:
        self._router = router
        self._message = message
        self._done = done
        self._give_up = give_up
        self._attempts = 0

    def __call__(self, answer: Any) -> None:
        if isinstance(answer, Unavailable) and self._again(answer):
            return
        self._end(answer)

    def _end(self, answer: Any) -> None:
        # The two know each other; apart, they are freed at once.
        self._message.answer = nobody
        self._done(answer)

    def _again(self, error: Unavailable) -> bool:
        """Sends it again later, where that is safe: it was surely not handled, or duplicates are recognised."""
        router, message = self._router, self._message
        if router.closed or isinstance(error, OutcomeUnknown | DeadlineExceeded):
            return False
        moved = isinstance(error, Moved)
        if not moved and not message.repeatable:
            self._end(OutcomeUnknown(f"{message.target}: the link was lost before the answer"))
            return True
        if self._give_up is not None and router.clock.monotonic() >= self._give_up:
            self._end(DeadlineExceeded(f"{message.target}: {error.message}"))
            return True
        if not moved:
            message.redelivered = True
        attempt = self._attempts
        self._attempts += 1
        if isinstance(error, Moved) and error.term:
            name = Fence(error.term, error.epoch)
            if name > router.newest:
                router.wait_for_table(name, message)
                return True
            if attempt == 0:
                # By now this node knows better than when it sent the message.
                router.clock.call_soon(router.route, message)
                return True
        delay = min(RETRY_FIRST * 2 ** min(attempt, 16), RETRY_LAST)
        # More or less, as all that a lost link had on it would come back at one moment.
        router.clock.call_later(delay * (0.5 + router.clock.token(1)[0] / 510), router.route, message)
        return True


class Router:
    def __init__(
        self, *, node: str, clock: Clock, host: ActorHost, locator: Locator, peers: Peers | None = None
    ) -> None:
        self.node = node
        self.clock = clock
        self.closed = False
        self._host = host
        self._locator = locator
        #: Set again by whoever makes links that need this router.
        self.peers: Peers = peers or NoPeers()
        #: The name of the newest table that the locator goes by.
        self.newest = Fence(0, 0)
        #: Messages that wait for a table, by a number of their own.
        self._waiting: dict[int, tuple[Fence, Message, Cancellable]] = {}
        self._waits = 0
        #: Takes messages for actor types that keep no state and so have no owner.
        self._stateless: dict[str, Callable[[Message], None]] = {}

    def stateless(self, actor_type: str, handler: Callable[[Message], None]) -> None:
        self._stateless[actor_type] = handler

    def send(
        self,
        target: ActorId,
        method: str,
        body: Any,
        answer: Answer = nobody,
        *,
        identity: Identity | None = None,
        repeatable: bool = True,
        give_up: float | None = None,
        chain: tuple[ActorId, ...] = (),
        key: str | None = None,
        tickets: tuple[str, ...] = (),
    ) -> None:
        """Sends until answered. `give_up` is the monotonic time after which no further try is made, and who has not
        begun with it need not; None: never. `chain`, `key`, `tickets`: see `Message`.
        The answer is the receiver's value, or a `PerdureError`: its own, `OutcomeUnknown` when a message that is
        not repeatable may have been handled, or `DeadlineExceeded`."""
        message = Message(
            target,
            method,
            body,
            nobody,
            identity,
            repeatable,
            deadline=give_up,
            chain=chain,
            key=key,
            tickets=tickets,
        )
        message.answer = Delivery(self, message, answer, give_up)
        self.route(message)

    def route(self, message: Message) -> None:
        """One try: to the owner by the newest table."""
        target = message.target
        owner = self._locator.owner(target.type, partition_of(target.id, self._host.partitions))
        if owner == self.node:
            self._host.deliver(message)
        elif owner is None:
            message.answer(Moved(f"no node hosts actor type {target.type!r} now"))
        else:
            self.peers.send(owner, message)

    def send_to(
        self,
        node: str,
        target: ActorId,
        method: str,
        body: Any,
        answer: Answer,
        *,
        deadline: float | None = None,
    ) -> None:
        """One try, to a stateless actor on a given node. The answer may be `Moved` or `Unavailable`. `deadline` is the
        monotonic time after which nobody waits for it."""
        message = Message(target, method, body, answer, deadline=deadline)
        if node == self.node:
            self.arrived(message)
        else:
            self.peers.send(node, message)

    def arrived(self, message: Message) -> None:
        """A message from a peer, or to a stateless actor: for this node or for nobody."""
        handler = self._stateless.get(message.target.type)
        if handler is not None:
            handler(message)
        else:
            self._host.deliver(message)

    # --- waiting for tables --------------------------------------------------------------------------------------

    def table_changed(self, name: Fence) -> None:
        """The locator goes by the table of this name: whatever waited for it is routed anew."""
        self.newest = name
        for number in [number for number, (wanted, _, _) in self._waiting.items() if wanted <= name]:
            self._waited(number)

    def wait_for_table(self, name: Fence, message: Message) -> None:
        """Routes the message when the table of this name, or a newer one, is there; after a while without it too."""
        self._waits += 1
        timer = self.clock.call_later(TABLE_WAIT, self._waited, self._waits)
        self._waiting[self._waits] = name, message, timer

    def _waited(self, number: int) -> None:
        _, message, timer = self._waiting.pop(number)
        timer.cancel()
        self.route(message)

    def close(self) -> None:
        """Tries nothing again from here on."""
        self.closed = True
