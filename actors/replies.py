"""The replies of calls that were made with an idempotency key: kept, so that the same call again is the same.

A reply is a state key of the actor itself, in the commit of the turn that it answers, and expires as any value may.
Plain computation; what reads and writes the keys is the turn.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

import msgspec

from perdure.actors.ids import REPLIES
from perdure.errors import (
    ActorMethodFailed,
    CorruptState,
    KeyReused,
    OutcomeUnknown,
    PerdureError,
)
from perdure.payload import Payload

#: For how long a reply is kept, unless its actor type says otherwise.
KEEP = timedelta(hours=24)


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a call: begun when it has only saved a part, then what it ended with."""

    method: str
    #: `digest` of the method's input.
    input: bytes
    done: bool = False
    reply: Payload = None
    #: The method raised after it had saved a part: the class and text of what it raised, and the caller's message.
    failed: tuple[str, str, str] | None = None

    def encode(self) -> bytes:
        return _encode(self)

    def answer(self, key: str, method: str, body: Payload) -> Payload | PerdureError:
        """What the same call again is answered; an error to be raised when it is another call, or has not ended."""
        if self.method != method or self.input != digest(body):
            what = "input" if self.method == method else f"method, {self.method!r}"
            return KeyReused(
                f"the idempotency key {key!r} was used with another {what}: each call has a key of its own"
            )
        if not self.done:
            return OutcomeUnknown(f"a part of the call with the key {key!r} was saved, and then it was lost")
        if self.failed is not None:
            kind, text, message = self.failed
            return ActorMethodFailed(message, error_type=kind, error_message=text)
        return self.reply


def decode(stored: bytes) -> Kept:
    try:
        return _decode(stored)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"a kept reply cannot be read: {error}") from error


def begun(method: str, body: Payload) -> Kept:
    return Kept(method, digest(body))


def ended(method: str, body: Payload, reply: Payload) -> Kept:
    return Kept(method, digest(body), True, reply)


def failed(method: str, body: Payload, error: ActorMethodFailed) -> Kept:
    return Kept(method, digest(body), True, None, (error.error_type, error.error_message, error.message))


def digest(body: Payload) -> bytes:
    """Inputs that differ in one byte are different ones; none and null are the same."""
    return hashlib.sha256(b"null" if body is None else body).digest()[:16]


def state_key(key: str) -> str:
    return REPLIES + key


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode
