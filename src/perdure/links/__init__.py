"""Links: ordered, whole frames of bytes between two processes, over WebSockets."""

from perdure.links.dial import connect
from perdure.links.link import (
    HIGH_WATER,
    Accept,
    Link,
    LinkOptions,
    PeerIdentity,
    Receiver,
)
from perdure.links.server import LinkServer

__all__ = [
    "HIGH_WATER",
    "Accept",
    "Link",
    "LinkOptions",
    "LinkServer",
    "PeerIdentity",
    "Receiver",
    "connect",
]
