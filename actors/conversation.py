"""One link between two nodes: requests and answers, both ways."""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol, cast

import msgspec

from perdure.actors import peer_messages as wire
from perdure.actors.codec import Codec
from perdure.actors.messages import Identity, Message
from perdure.clock import Cancellable, Clock
from perdure.errors import InvalidInput, Moved, PayloadTooLarge, PerdureError, Unavailable
from perdure.links import Link, PeerIdentity
from perdure.logs import fields
from perdure.statestore.contract import ActorId

log = logging.getLogger("perdure.peers")

#: Seconds in which both ends must have said who they are.
HELLO_TIMEOUT = 3.0
#: Bytes of a frame from which on it is sent without waiting for more.
FRAME_SIZE = 32 * 1024
#: Bytes of a message above which it is a frame of its own, and at most.
ALONE_SIZE, MESSAGE_LIMIT = 16 * 1024, 64 * 1024 * 1024
#: What may be without an answer at a time, and how much may wait to be written; what is more is sent back.
OPEN_LIMIT = 100_000
OPEN_BYTES = 128 * 1024 * 1024
#: As OPEN_LIMIT, of messages whose answers wait for others: these must never keep those others out.
PATIENT_LIMIT = 1_000_000
BUFFERED_LIMIT = 64 * 1024 * 1024


class Party(Protocol):
    """Whose conversations these are: one node's `perdure.actors.peers.PeerLinks`."""

    node: str
    clock: Clock
    codec: Codec

    def arrived(self, message: Message) -> None:
        """A message of the other node, for this one."""

    def doubt(self, node: str, peer: PeerIdentity) -> str | None:
        """Why whoever is at the other end must not be taken for that node; None when it may."""

    def agreed(self, conversation: Conversation) -> None:
        """Both ends have said who they are: `conversation.node` is the other."""

    def ended(self, conversation: Conversation, reason: str) -> None:
        """It is over, or never began. Called once, after everything open has its answer."""


class _Open:
    """What has no answer yet, in one direction."""

    __slots__ = ("patient", "size", "urgent")

    def __init__(self) -> None:
        self.urgent = 0
        self.patient = 0
        #: Bytes of the urgent ones.
        self.size = 0

    def admits(self, patient: bool) -> bool:
        if patient:
            return self.patient < PATIENT_LIMIT
        return self.urgent < OPEN_LIMIT and self.size < OPEN_BYTES

    def add(self, patient: bool, size: int) -> None:
        if patient:
            self.patient += 1
        else:
            self.urgent += 1
            self.size += size

    def remove(self, patient: bool, size: int) -> None:
        if patient:
            self.patient -= 1
        else:
            self.urgent -= 1
            self.size -= size


class Conversation:
    """Implements `perdure.links.Receiver`.

    INVARIANT: a request is written only after the other end has said that it is the incarnation that is meant.
    """

    __slots__ = (
        "_asked",
        "_bye",
        "_dialled",
        "_frame",
        "_last",
        "_link",
        "_number",
        "_open",
        "_over",
        "_party",
        "_scheduled",
        "_taken",
        "_timer",
        "agreed",
        "node",
    )

    def __init__(self, party: Party, node: str = "") -> None:
        """`node`: whom this end dials; empty: the other end dials."""
        self._party = party
        self.node = node
        self._dialled = bool(node)
        self._link: Link | None = None
        self._timer: Cancellable | None = None
        #: Both ends have said who they are.
        self.agreed = False
        self._over = False
        self._number = 0
        #: By number: what was asked and has no answer yet, and its size.
        self._asked: dict[int, tuple[Message, int]] = {}
        self._open = _Open()
        #: The messages of the other end that have no answer yet, and the highest number of all that came.
        self._taken = _Open()
        self._last = 0
        #: The other end has ended the conversation, and took nothing after this number.
        self._bye: int | None = None
        self._frame = wire.Frame()
        self._scheduled = False

    def begin(self, link: Link) -> None:
        """Says hello, or waits for it."""
        self._link = link
        if self._over:
            link.close()
            return
        self._timer = self._party.clock.call_later(HELLO_TIMEOUT, self._late)
        if self._dialled:
            link.send(wire.encode(wire.Hello(wire.VERSION, self._party.node, self.node)))

    def _late(self) -> None:
        if not self.agreed:
            self.end("it did not say who it is")

    @property
    def unanswered(self) -> int:
        return len(self._asked)

    @property
    def buffered(self) -> int:
        return self._link.buffered if self._link is not None else 0

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, message: Message) -> None:
        """Sends a message; its answer is as `perdure.actors.router.Peers` says."""
        link = self._link
        if link is None or self._over or self._bye is not None:
            tell(message, Moved(f"the link to node {self.node} is closed"))
            return
        patient = self._party.codec.patient(message.body)
        if not self._open.admits(patient) or link.buffered >= BUFFERED_LIMIT:
            tell(message, Moved(f"node {self.node} is overloaded"))
            return
        target = message.target
        try:
            size = self._add(self._request(message))
        except PerdureError as error:
            tell(message, error)
        except wire.UNWRITABLE as error:
            tell(
                message,
                InvalidInput(f"{message.method!r} to {target} cannot be sent to another node: {error}"),
            )
        else:
            self._asked[self._number] = message, size
            self._open.add(patient, size)

    def _request(self, message: Message) -> wire.Request:
        self._number += 1
        target, identity, left = message.target, message.identity, None
        if message.deadline is not None:
            left = max(0.0, message.deadline - self._party.clock.monotonic())
        return wire.Request(
            self._number,
            target.type,
            target.id,
            message.method,
            cast(msgspec.Raw, self._party.codec.encode_body(target.type, message.body)),
            (wire.REPEATABLE if message.repeatable else 0) | (wire.REDELIVERED if message.redelivered else 0),
            left,
            None if identity is None else (identity.sender, identity.number, identity.floor),
            message.chain,
            message.key,
            message.tickets,
        )

    def _answered(self, reply: wire.Reply) -> None:
        found = self._asked.pop(reply.number, None)
        if found is None:
            return
        message, size = found
        self._open.remove(self._party.codec.patient(message.body), size)
        tell(message, self._party.codec.decode_answer(reply))

    # --- answering ---------------------------------------------------------------------------------------------------

    def _take(self, request: wire.Request, link: Link) -> None:
        self._last = max(self._last, request.number)
        codec = self._party.codec
        try:
            body = codec.decode_body(request.type, request.body)
        except InvalidInput as error:
            self._taken.add(False, 0)
            self.reply(request.number, error, False)
            return
        patient = codec.patient(body)
        admitted = self._taken.admits(patient) and link.buffered < BUFFERED_LIMIT
        self._taken.add(patient, 0)
        reply = _Reply(self, request.number, patient)
        if not admitted:
            # Whoever asks more than is answered is not to fill this node's memory.
            reply(Moved(f"node {self._party.node} is overloaded"))
            return
        clock = self._party.clock
        message = Message(
            ActorId(request.type, request.id),
            request.method,
            body,
            reply,
            None if request.identity is None else Identity(*request.identity),
            bool(request.flags & wire.REPEATABLE),
            deadline=None if request.left is None else clock.monotonic() + request.left,
            redelivered=bool(request.flags & wire.REDELIVERED),
            chain=tuple([ActorId(*actor) for actor in request.chain]),
            key=request.key,
            tickets=request.tickets,
        )
        try:
            self._party.arrived(message)
        except Exception as error:
            log.exception("peer.message_failed", extra=fields(actor=message.target, method=message.method))
            reply(PerdureError(f"the node failed on {message.method!r}: {error!r}"))

    def reply(self, number: int, answer: Any, patient: bool) -> None:
        """The answer to the other end's message; dropped when the link is gone."""
        self._taken.remove(patient, 0)
        if self._over:
            return
        try:
            self._add(self._party.codec.encode_answer(number, answer))
        except (PerdureError, *wire.UNWRITABLE) as error:
            failure = error if isinstance(error, PerdureError) else InvalidInput(f"the answer: {error}")
            self._add(self._party.codec.encode_answer(number, failure))

    # --- writing -----------------------------------------------------------------------------------------------------

    def _add(self, item: wire.Item) -> int:
        """Its size. Raises as `wire.Frame.add`, and `PayloadTooLarge`: then nothing was added."""
        frame = self._frame
        size = frame.add(item)
        if size > ALONE_SIZE:
            alone = frame.cut(size)
            if size > MESSAGE_LIMIT:
                raise PayloadTooLarge(
                    f"between nodes this has {size} bytes; at most {MESSAGE_LIMIT} are allowed"
                )
            # What came before it, goes before it.
            self._flush()
            if self._link is not None:
                self._link.send(alone)
        elif frame.size > FRAME_SIZE:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._party.clock.call_soon(self._tick)
        return size

    def _tick(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._frame.count and self._link is not None and not self._over:
            self._link.send(self._frame.take())
            self._link.flush()

    # --- Receiver ----------------------------------------------------------------------------------------------------

    def received(self, frame: bytes) -> None:
        link = self._link
        if self._over or link is None:
            return
        for item in wire.decode(frame):
            kind = type(item)
            if not self.agreed:
                self._greeted(item, link)
                if not self.agreed:
                    return
            elif kind is wire.Request:
                self._take(cast(wire.Request, item), link)
            elif kind in (wire.Value, wire.Structure, wire.Failure):
                self._answered(cast(wire.Reply, item))
            elif kind is wire.Bye:
                self._bye = cast(wire.Bye, item).last
            else:
                raise InvalidInput(f"a {kind.__name__} in the middle of a conversation")
            if self._over:
                return

    def _greeted(self, item: wire.Item, link: Link) -> None:
        if self._dialled and isinstance(item, wire.Welcome):
            doubt = self._party.doubt(self.node, link.peer)
            if item.node != self.node or doubt is not None:
                self.end(doubt or f"at its address is node {item.node}")
                return
            self._agree()
        elif self._dialled and isinstance(item, wire.Refusal):
            self.end(item.reason)
        elif not self._dialled and isinstance(item, wire.Hello):
            reason = self._reason_against(item, link)
            if reason is not None:
                log.info("peer.refused", extra=fields(node=item.node, peer=link.peer.address, reason=reason))
                link.send(wire.encode(wire.Refusal(reason)))
                self.end(reason)
                return
            self.node = item.node
            link.send(wire.encode(wire.Welcome(wire.VERSION, self._party.node)))
            self._agree()
        else:
            raise InvalidInput(f"a {type(item).__name__} where two nodes say who they are")

    def _reason_against(self, hello: wire.Hello, link: Link) -> str | None:
        if hello.version != wire.VERSION:
            return f"node {self._party.node} speaks version {wire.VERSION}, not {hello.version}"
        if hello.to != self._party.node:
            return f"at this address is node {self._party.node}, not {hello.to}"
        return self._party.doubt(hello.node, link.peer)

    def _agree(self) -> None:
        self.agreed = True
        if self._timer is not None:
            self._timer.cancel()
        self._party.agreed(self)

    def closed(self) -> None:
        unsent = self._link.unsent() if self._link is not None else []
        self._finish("the link was lost", wire.numbers([*unsent, self._frame.take()]))

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Closes the link after what was answered. Everything open gets its answer at once. Idempotent."""
        if self._over:
            return
        never: set[int] = set()
        if self._link is not None:
            if self.agreed:
                never = self._say_bye(self._link)
            self._link.close()
        self._finish(reason, never)

    def _say_bye(self, link: Link) -> set[int]:
        """The numbers of requests that were gathered and not sent yet: they stay here."""
        frame = self._frame
        gathered = wire.decode(frame.take())
        for item in gathered:
            if type(item) is not wire.Request:
                frame.add(item)
        frame.add(wire.Bye(self._last))
        link.send(frame.take())
        return {item.number for item in gathered if type(item) is wire.Request}

    def _finish(self, reason: str, never: set[int]) -> None:
        """`never`: the numbers of what surely was not sent."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        taken = math.inf if self._bye is None else self._bye
        asked, self._asked = self._asked, {}
        if asked:
            log.warning(
                "peer.lost",
                extra=fields(node=self.node, reason=reason, unanswered=len(asked), unsent=len(never)),
            )
        for number, (message, _) in asked.items():
            if number in never or number > taken:
                tell(message, Moved(f"node {self.node}: {reason}"))
            else:
                tell(message, Unavailable(f"node {self.node}: {reason} before the answer"))
        self._party.ended(self, reason)


class _Reply:
    """The answer of a message that came over a link. Only the first counts."""

    __slots__ = ("_conversation", "_number", "_patient")

    def __init__(self, conversation: Conversation, number: int, patient: bool) -> None:
        self._conversation: Conversation | None = conversation
        self._number = number
        self._patient = patient

    def __call__(self, answer: Any) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.reply(self._number, answer, self._patient)


def tell(message: Message, answer: Any) -> None:
    """What one sender makes of its answer must not keep others from theirs."""
    try:
        message.answer(answer)
    except Exception:
        log.exception("peer.answer_failed", extra=fields(actor=message.target, method=message.method))
