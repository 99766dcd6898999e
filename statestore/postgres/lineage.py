"""Lineage: whether a server that answers still has all that was acknowledged."""

from __future__ import annotations

from typing import NamedTuple

from perdure.errors import StoreUnavailable


class Server(NamedTuple):
    """What a server says of itself."""

    #: Made by initdb; the same for a primary and its replicas.
    system: int
    #: One higher with each promotion of a replica and each restore.
    timeline: int
    #: When its first process started, as text.
    started: str
    #: How far its log reaches.
    position: int
    #: Whether what it acknowledges outlives its crash.
    durable: bool


class Lineage:
    """What one store knows of the servers that answered it. Pure; never forgets."""

    def __init__(self) -> None:
        self.known: Server | None = None

    def admit(self, server: Server, *, broke: bool) -> str | None:
        """Takes over that `server` answers from now on. The reason, if acknowledged writes may be gone; None if not.
        `broke`: a connection ended that nobody here had closed. `StoreUnavailable` for a server that must not be used."""
        before, self.known = self.known, server
        if before is None or server == before:
            return None
        if server.system != before.system:
            return f"another database cluster answers (system {server.system}, before {before.system})"
        if server.timeline < before.timeline:
            self.known = before
            raise StoreUnavailable(
                f"PostgreSQL: the server is on timeline {server.timeline}, but one on {before.timeline} answered before:"
                " an old primary? (If it was restored on purpose, restart this process.)"
            )
        if server.timeline > before.timeline:
            return f"a replica was promoted, or the database restored (timeline {server.timeline}, before {before.timeline})"
        if server.position < before.position:
            return "the server's log ends earlier than it did before"
        self.known = server
        if not before.durable and (broke or server.started != before.started):
            return "the server was interrupted, and acknowledges commits that are not on disk yet"
        return None
