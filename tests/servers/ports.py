"""Ports for servers that are ended and started again."""

from __future__ import annotations

import contextlib
import random
import socket

#: Below those that the system gives to whoever dials: else a server that is down could lose its port to a client, even
#: to one that tries to reach it.
PORTS = range(10_000, 20_000)
#: Nodes of a Redis cluster talk to each other so far above.
BESIDE = 10_000

_chance = random.SystemRandom()


def free_port() -> int:
    """A port of this host that is free, as is the one 10,000 above it."""
    while True:
        port = _chance.choice(PORTS)
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + BESIDE))
            return port
