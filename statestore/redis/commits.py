"""Commits as calls of commit.lua, and its answers as results."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import cast

import msgspec

from perdure.errors import StoreUnavailable
from perdure.statestore.contract import (
    COMMITTED,
    Commit,
    CommitResult,
    Conflict,
    Fenced,
    Rejected,
)
from perdure.statestore.redis import errors, records, scripts
from perdure.statestore.redis.acknowledged import Mark
from perdure.statestore.redis.layout import VERSION, Layout
from perdure.statestore.redis.link import Error, Reply, packed
from perdure.statestore.redis.order import END, escaped, newest_place

#: What Redis takes as one value at most, unless it is set up otherwise.
MOST_BYTES = 512 * 1024 * 1024


class Changes(msgspec.Struct, frozen=True, array_like=True):
    """What a commit changes beside the keys that it puts. commit.lua reads the fields by their order."""

    #: 0: nothing more; 1: the keys are replaced; 2: the actor is removed.
    mode: int
    delete: list[str]
    recover: bool | None
    #: The stored row and its members in the index; False: it is deleted.
    row: tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw] | bool | None
    clear: bool
    forget: list[str]
    #: Name, and stored value.
    reminders: list[tuple[str, msgspec.Raw]]
    id: str
    #: What stands between a reminder's time and its name in `due`.
    tail: msgspec.Raw

    @property
    def beside(self) -> bool:
        """Whether more than the actor's keys changes."""
        return bool(
            self.mode == 2
            or self.recover is not None
            or self.row is not None
            or self.clear
            or self.forget
            or self.reminders
        )


class Refused(Exception):
    """This commit cannot be stored."""


_encode = msgspec.msgpack.Encoder().encode
SHA = scripts.COMMIT.sha


def by_time(place: bytes) -> bytes:
    """What stands before an id in the index of all rows."""
    return b"\0" + place


def by_status(status: str, place: bytes) -> bytes:
    """What stands before an id in the index of the rows of one status."""
    return status.encode() + b"\0" + place


def pack(layout: Layout, commit: Commit) -> tuple[bytes, Mark]:
    """The command, and how to find out whether it was done. `Refused` for a commit that cannot be stored."""
    try:
        return _pack(layout, commit)
    except (UnicodeError, OverflowError, TypeError) as error:
        raise Refused(f"Redis cannot store this commit: {error}") from error


def _pack(layout: Layout, commit: Commit) -> tuple[bytes, Mark]:
    actor, put = commit.actor, commit.put
    names = layout.names(actor.type, commit.partition)
    id = actor.id.encode()
    key = names.actor + id
    words: tuple[str | bytes | int, ...] = (
        b"EVALSHA",
        SHA,
        3,
        key,
        names.fence,
        names.sorted + id,
    )
    changes = b""
    if (
        commit.recover is not None
        or commit.row is not None
        or commit.reminders
        or commit.reset
        or commit.delete
        or commit.delete_row
        or commit.delete_reminders
        or commit.clear_reminders
    ):
        found = _changes(commit)
        changes = _encode(found)
        if found.beside:
            words = (
                *words[:2], 8, *words[3:],
                names.owing, names.rows, names.instances, names.due, names.reminders + id,
            )  # fmt: skip
    data = packed(
        *words,
        records.fence_text(commit.fence),
        commit.expected or b"",
        changes,
        VERSION,
        commit.version,
        *chain.from_iterable(cast(Iterable[tuple[str | bytes, ...]], put.items())),
    )
    if len(data) > MOST_BYTES:
        raise Refused(f"Redis takes at most {MOST_BYTES} bytes at once; this commit has {len(data)}")
    gone = commit.reset and not put
    return data, Mark(names.slot, key, VERSION, None if gone else commit.version)


def _raw(data: bytes) -> msgspec.Raw:
    """Bytes as a text of msgpack: Redis' Lua knows no other kind."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4, "big") + data)


def _changes(commit: Commit) -> Changes:
    if commit.reset and not commit.put:
        # All goes, whatever else the commit says.
        return Changes(2, [], None, None, True, [], [], commit.actor.id, _raw(escaped(commit.actor.id) + END))
    row: tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw] | bool | None = None
    if commit.row is not None:
        one = commit.row
        if not one.status or "\0" in one.status:
            raise Refused(f"{one.status!r} is not a status: a short word is")
        place, id = newest_place(one.created), one.actor.id.encode()
        row = (
            _raw(records.encode_row(one)),
            _raw(by_time(place) + id),
            _raw(by_status(one.status, place) + id),
        )
    elif commit.delete_row:
        row = False
    return Changes(
        1 if commit.reset else 0,
        list(commit.delete),
        commit.recover,
        row,
        commit.clear_reminders,
        list(commit.delete_reminders),
        # Of one name the last counts.
        list({one.name: (one.name, _raw(records.encode_reminder(one))) for one in commit.reminders}.values()),
        commit.actor.id,
        _raw(escaped(commit.actor.id) + END),
    )


def result(reply: Reply) -> CommitResult:
    """`StoreUnavailable` for a refusal that is not this commit's fault."""
    if reply == 1:
        return COMMITTED
    if isinstance(reply, Error):
        message = str(reply)
        if errors.passing(message):
            raise StoreUnavailable(f"Redis: {message}")
        return Rejected(f"Redis: {message}")
    kind, stored = reply
    if kind == 2:
        return Fenced(None if stored is None else records.fence(stored))
    return Conflict(stored)
