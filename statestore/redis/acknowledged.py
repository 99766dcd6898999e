"""Acknowledged: what the servers said last that they had done for this store.

A server, its replicas and its append-only file all take writes in the order in which they were done. So if the last ones
that were acknowledged are there after a restart or a promotion, everything before them is there as well, and nothing that
this store's user relies on is lost: not what was read either, as a partition is read only after it was taken, by a write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perdure.errors import StoreUnavailable
from perdure.statestore.redis.errors import code_of, passing
from perdure.statestore.redis.link import Error, Link, packed


class Mark(NamedTuple):
    """How a write is found again."""

    slot: int
    key: bytes
    field: bytes
    #: None: it leaves nothing that could be looked for.
    value: bytes | None


class Acknowledged:
    #: Writes without an answer that are remembered.
    MOST = 100_000

    def __init__(self) -> None:
        self._last: dict[str, Sequence[Mark]] = {}
        #: By key what was sent after the last that was acknowledged, and had no answer: it may be there.
        self._unanswered: dict[bytes, list[bytes | None]] = {}

    def unanswered(self, marks: Sequence[Mark]) -> None:
        """Whether these writes are done is not known."""
        if len(self._unanswered) > self.MOST:
            self._unanswered.clear()  # At worst somebody is told that something may be lost that is not.
        for mark in marks:
            self._unanswered.setdefault(mark.key, []).append(mark.value)

    def note(self, server: str, marks: Sequence[Mark]) -> None:
        """These writes are done, after all others of this server."""
        self._last[server] = marks
        if self._unanswered:
            for mark in marks:
                self._unanswered.pop(mark.key, None)

    def unsure(self, server: str) -> None:
        """The server has something that was not acknowledged by it, but by the one that it had a slot from."""
        self._last[server] = (Mark(0, b"", b"", None),)

    def inherit(self, server: str, former: str) -> None:
        """The server is another one's replica no longer, and stands in its place."""
        if former in self._last:
            self._last[server] = self._last[former]

    def forget(self, server: str) -> None:
        self._last.pop(server, None)

    async def stands(self, server: str, link: Link) -> bool:
        """Whether the last writes of a server are there, asked over a link to it. `StoreUnavailable`: it cannot say."""
        while True:
            marks = self._last.get(server, ())
            if any(mark.value is None for mark in marks):
                return False
            found = await link.ask(packed(b"HGET", mark.key, mark.field) for mark in marks)
            # A link that broke may have brought something that was not noted yet when this was asked.
            if marks is self._last.get(server, marks):
                break
        # What has been moved to another server since says nothing about this one.
        here = [pair for pair in zip(marks, found, strict=True) if code_of(pair[1]) not in ("MOVED", "ASK")]
        for mark, value in here:
            if isinstance(value, Error) and passing(str(value)):
                raise StoreUnavailable(f"Redis at {link.address}: {value}")
            if value != mark.value and value not in self._unanswered.get(mark.key, ()):
                return False
        return bool(here) or not marks
