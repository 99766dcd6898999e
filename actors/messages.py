"""What actors are sent, and how the answer comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from perdure.statestore.contract import ActorId

#: Called once with the answer: any value, or a `PerdureError` instance. Runs on the event loop.
Answer = Callable[[Any], None]


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Which message this is, for receivers that accept each exactly once."""

    #: An edge's incarnation, or a workflow actor.
    sender: str
    #: Grows by one per message of the sender.
    number: int
    #: The lowest number that the sender has sent to this target and knows no answer to.
    floor: int


class Message(msgspec.Struct):
    """One request to one actor. `body` is an immutable value that the actor type defines; in one process it is
    passed as it is, a peer link encodes it."""

    target: ActorId
    method: str
    body: Any
    #: Takes the answer. Whoever holds the message calls it exactly once, after the commit that contains its effect.
    answer: Answer
    identity: Identity | None = None
    #: May be delivered again when its outcome is unknown: the receiver recognises duplicates.
    repeatable: bool = True
    #: Monotonic time of arrival at the owner.
    arrived: float = 0.0
    #: Monotonic time, of the node that holds the message, after which nobody waits for the answer. A peer link sends
    #: what is left of it.
    deadline: float | None = None
    #: The outcome of an earlier try is not known: whoever handled it may have died of it.
    redelivered: bool = False
    #: The user actors whose turns wait for this call, outermost first.
    chain: tuple[ActorId, ...] = ()
    #: The caller's name for this call of a user actor, whose reply is then kept.
    key: str | None = None
    #: For each of `chain`, which of its turn's calls this is part of; "" where nobody may enter that turn. None for
    #: anybody: empty.
    tickets: tuple[str, ...] = ()


def nobody(answer: Any) -> None:
    """The answer of a message whose sender does not want one."""
