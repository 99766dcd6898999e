"""What a link is to those who use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

#: Bytes buffered on a link above which its sender had better hold back.
HIGH_WATER = 16 * 1024 * 1024


class LinkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How links behave. Both ends of a cluster's links have the same."""

    #: Seconds without a byte from the other end after which the link is dead.
    silence: float = 3.0
    #: Bytes of one frame at most. A sender has to keep to it, a receiver closes the link of one that does not.
    max_frame: int = 128 * 1024 * 1024
    #: Bytes buffered on one link above which it is closed: its other end does not keep up.
    max_buffered: int = 256 * 1024 * 1024


class PeerIdentity(NamedTuple):
    """Who is at the other end of a link."""

    #: host:port; that of whoever dialled is of no use but in logs.
    address: str
    #: The apps that its certificate allows it to speak for, as `<namespace>/<app id>`; empty: any.
    apps: frozenset[str] = frozenset()

    def may_speak_for(self, namespace: str, app_id: str) -> bool:
        return not self.apps or f"{namespace}/{app_id}" in self.apps


class Link(Protocol):
    """One end of a link. Frames arrive whole and in order, or the link is closed."""

    @property
    def peer(self) -> PeerIdentity: ...

    @property
    def buffered(self) -> int:
        """Bytes accepted by `send` and not yet given to the system."""

    def send(self, frame: bytes) -> None:
        """Never waits, never raises, never calls the receiver; on a closed link it does nothing. What is sent within
        one iteration of the loop leaves together."""

    def flush(self) -> None:
        """Writes what was sent now, not after this iteration of the loop: for whoever has gathered it already. As
        `send` otherwise."""

    def close(self) -> None:
        """Closes the link after what was sent. Idempotent. From here on this end receives nothing more but `closed`;
        so does the other end, after it has received what was sent."""

    def unsent(self) -> Sequence[bytes]:
        """On a link that is closed: the frames accepted by `send` of which no byte was given to the system, so that
        the other end surely has not got them."""


class Receiver(Protocol):
    """What an end does with what arrives. Called on the loop, never from within `send` or `close`."""

    def received(self, frame: bytes) -> None:
        """One frame. None comes after `closed`. `InvalidInput` says that it is garbage: the link is closed."""

    def closed(self) -> None:
        """The link is gone. Called once."""


#: Takes the other end of a link that somebody dialled.
Accept = Callable[[Link], Receiver]
