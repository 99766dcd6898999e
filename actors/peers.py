"""The other nodes, over links: messages to them, and theirs to this one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from perdure.actors.codec import Codec
from perdure.actors.conversation import Conversation, tell
from perdure.actors.messages import Message
from perdure.clock import Clock
from perdure.errors import Moved, PerdureError
from perdure.links import Link, LinkOptions, LinkServer, PeerIdentity, Receiver, connect
from perdure.logs import fields
from perdure.security import Security

log = logging.getLogger("perdure.peers")

#: Where nodes take each other's links.
PATH = "/peer"
#: Messages that wait for one link at most.
WAITING_LIMIT = 10_000
#: Seconds between two tries to reach a node: doubled from the first to the last.
RETRY_FIRST, RETRY_LAST = 0.05, 1.0


class Arrivals(Protocol):
    """Takes what other nodes send: this node's `perdure.actors.router.Router`."""

    def arrived(self, message: Message) -> None: ...


class PeerLinks:
    """Implements `perdure.actors.router.Peers`, for one incarnation of a node.

    One link per pair of nodes, dialled by the first that has something to send, and used both ways. When both dial at
    once there are two, and both stay, as closing either could lose a call: each end sends on the one that it has
    known for the shortest time. That is right also when one end dials anew because it has lost a link whose end the
    other has not noticed yet.
    """

    def __init__(
        self,
        node: str,
        clock: Clock,
        router: Arrivals,
        addresses: Callable[[str], str | None],
        codec: Codec,
        *,
        security: Security,
        apps: Callable[[str], str | None] | None = None,
        options: LinkOptions | None = None,
    ) -> None:
        """`addresses` gives the address of a node by the newest table, None when it is not in it; `apps` its app, as
        `<namespace>/<app id>`, which its certificate must then allow if it names any."""
        self.node = node
        self.clock = clock
        self.codec = codec
        self.addresses = addresses
        self.security = security
        self.options = options
        self._router = router
        self._apps = apps
        self._peers: dict[str, _Peer] = {}
        #: Links over which nobody has said yet who dialled.
        self._strangers: set[Conversation] = set()
        self._closed = False

    def attach(self, server: LinkServer) -> None:
        """Takes the links that other nodes dial."""
        server.accept(PATH, self._accept, overtaking=True)

    def _accept(self, link: Link) -> Receiver:
        conversation = Conversation(self)
        self._strangers.add(conversation)
        conversation.begin(link)
        if self._closed:
            conversation.end("the node is stopping")
        return conversation

    def send(self, node: str, message: Message) -> None:
        """As `perdure.actors.router.Peers`. While a node is being dialled its messages wait, in order."""
        peer = self._peers.get(node)
        if peer is not None and peer.current is not None:
            peer.current.ask(message)
        elif self._closed:
            message.answer(Moved("the node is stopping"))
        else:
            address = self.addresses(node)
            if address is None:
                message.answer(Moved(f"node {node} is not in the placement table"))
                return
            if peer is None:
                peer = self._peers[node] = _Peer(self, node)
            peer.member = True
            peer.wait(message, address)

    def table_changed(self) -> None:
        """Closes the links to nodes that have left the table. What is unanswered there gets `Unavailable`."""
        for node, peer in list(self._peers.items()):
            if self.addresses(node) is not None:
                peer.member = True
            elif peer.member:
                del self._peers[node]
                peer.leave("has left the placement table")

    def close(self) -> None:
        """Closes every link; nothing is sent or taken from here on. Idempotent."""
        self._closed = True
        for conversation in list(self._strangers):
            conversation.end("the node is stopping")
        peers, self._peers = self._peers, {}
        for peer in peers.values():
            peer.leave("is not needed any more: this node is stopping")

    def describe(self) -> dict[str, dict[str, Any]]:
        """For people: per node, whether it is linked, what is unanswered there, and what waits to be written."""
        return {node: peer.describe() for node, peer in self._peers.items()}

    # --- Party -------------------------------------------------------------------------------------------------------

    def arrived(self, message: Message) -> None:
        self._router.arrived(message)

    def doubt(self, node: str, peer: PeerIdentity) -> str | None:
        if not peer.apps or self._apps is None:
            return None
        app = self._apps(node)
        if app is None:
            return f"node {node} is not in this node's placement table yet, and its certificate is not for any app"
        if app not in peer.apps:
            return f"the certificate of {peer.address} does not allow it to speak for app {app}"
        return None

    def agreed(self, conversation: Conversation) -> None:
        self._strangers.discard(conversation)
        node = conversation.node
        peer = self._peers.get(node)
        if peer is None:
            # It knows a table that this node does not know yet, or no longer the one that this node knows.
            peer = self._peers[node] = _Peer(self, node)
        peer.member = peer.member or self.addresses(node) is not None
        peer.adopt(conversation)

    def ended(self, conversation: Conversation, reason: str) -> None:
        self._strangers.discard(conversation)
        peer = self._peers.get(conversation.node)
        if peer is not None:
            peer.lost(conversation, reason)
            if peer.idle and not peer.member:
                del self._peers[conversation.node]


class _Peer:
    """One other node."""

    def __init__(self, links: PeerLinks, node: str) -> None:
        self._links = links
        self._node = node
        #: Whether a table of this node ever had it.
        self.member = False
        #: What messages are sent over: the newest.
        self.current: Conversation | None = None
        self._conversations: list[Conversation] = []
        self._waiting: deque[Message] = deque()
        #: What this end is dialling, until both ends have said who they are; and the task that does it.
        self._dialled: Conversation | None = None
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._reason = ""
        self._not_before = -math.inf

    @property
    def idle(self) -> bool:
        return not self._conversations and self._dialled is None

    def describe(self) -> dict[str, Any]:
        return {
            "linked": self.current is not None,
            "unanswered": sum(conversation.unanswered for conversation in self._conversations),
            "waiting": len(self._waiting),
            "buffered": sum(conversation.buffered for conversation in self._conversations),
            "failures": self._failures,
        }

    # --- dialling ----------------------------------------------------------------------------------------------------

    def wait(self, message: Message, address: str) -> None:
        """Until there is a link. `Moved` when there is none to be had, or too much waits already."""
        if self._dialled is None and self._links.clock.monotonic() < self._not_before:
            message.answer(Moved(f"node {self._node} cannot be reached: {self._reason}"))
        elif len(self._waiting) >= WAITING_LIMIT:
            message.answer(Moved(f"node {self._node} is overloaded: too much waits for a link to it"))
        else:
            self._waiting.append(message)
            if self._dialled is None:
                self._dialled = conversation = Conversation(self._links, self._node)
                self._task = self._links.clock.spawn(
                    self._dial(conversation, address), name=f"dial-{self._node}"
                )

    async def _dial(self, conversation: Conversation, address: str) -> None:
        links = self._links
        try:
            link = await connect(
                address,
                PATH,
                conversation,
                security=links.security,
                clock=links.clock,
                overtaking=True,
                options=links.options,
            )
        except Exception as error:
            if not isinstance(error, PerdureError):
                log.exception("peer.dial_failed", extra=fields(node=self._node, address=address))
            self._failed(str(error))
            return
        if self.current is None:
            conversation.begin(link)
        else:
            # It has dialled too, and was faster. Nothing was said here yet.
            self._dialled = None
            link.close()

    def _failed(self, reason: str) -> None:
        """There is no link, so nothing that waits for it was sent."""
        self._dialled = None
        delay = min(RETRY_FIRST * 2.0 ** min(self._failures, 10), RETRY_LAST)
        self._not_before = self._links.clock.monotonic() + delay
        self._reason = reason
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        log.log(level, "peer.unreachable", extra=fields(node=self._node, reason=reason))
        if self.current is None:
            self._send_back(f"node {self._node} cannot be reached: {reason}")

    def _send_back(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for message in waiting:
            tell(message, Moved(reason))

    # --- conversations -----------------------------------------------------------------------------------------------

    def adopt(self, conversation: Conversation) -> None:
        """Both ends have said who they are."""
        if conversation is self._dialled:
            self._dialled = None
        if self._failures:
            log.info("peer.reached", extra=fields(node=self._node, failures=self._failures))
        self._failures, self._not_before = 0, -math.inf
        self._conversations.append(conversation)
        self.current = conversation
        waiting, self._waiting = self._waiting, deque()
        for message in waiting:
            conversation.ask(message)

    def lost(self, conversation: Conversation, reason: str) -> None:
        """It is over, or never began."""
        if conversation is self._dialled:
            self._failed(reason)
        elif conversation in self._conversations:
            self._conversations.remove(conversation)
            self.current = self._conversations[-1] if self._conversations else None

    def leave(self, reason: str) -> None:
        """Nothing is sent to it any more."""
        if self._task is not None:
            self._task.cancel()
        self._send_back(f"node {self._node} {reason}")
        for conversation in self._conversations:
            conversation.end(reason)
        if self._dialled is not None:
            self._dialled.end(reason)
