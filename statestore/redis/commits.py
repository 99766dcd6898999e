"""Commits as calls of commit.lua, and its answers as results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple, cast

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


#: The actor goes, with all that belongs to it.
REMOVE = 2


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
    #: Whether more than the actor's keys changes.
    beside: bool


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


class Ready(NamedTuple):
    """A commit as commit.lua takes it, and how to find out whether it was done."""

    keys: tuple[bytes, ...]
    words: list[str | bytes | int]
    mark: Mark


def ready(layout: Layout, commit: Commit) -> Ready:
    """`Refused` or `UnicodeError` for a commit that cannot be stored; what it puts is not looked at yet."""
    actor, put = commit.actor, commit.put
    names = layout.names(actor.type, commit.partition)
    id = actor.id.encode()
    key = names.actor + id
    keys: tuple[bytes, ...] = (key, names.fence, names.sorted + id)
    changes = b""
    version: bytes | None = commit.version
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
        try:
            found = _changes(commit)
        except OverflowError as error:
            raise Refused(f"Redis cannot store this commit: {error}") from error
        changes = _encode(found)
        if found.beside:
            keys += (names.owing, names.rows, names.instances, names.due, names.reminders + id)
        if found.mode == REMOVE:
            version = None
    words: list[str | bytes | int] = [
        len(keys),
        2 * len(put),
        records.fence_text(commit.fence),
        commit.expected or b"",
        changes,
        VERSION,
        commit.version,
    ]
    words += chain.from_iterable(cast(Iterable[tuple[str | bytes, ...]], put.items()))
    return Ready(keys, words, Mark(names.slot, key, VERSION, version))


def call(commits: Sequence[Ready]) -> bytes:
    """One call of the script for all of these. `Refused`: one of them cannot be stored."""
    if len(commits) == 1:
        keys, words, _ = commits[0]
        size = len(keys)
    else:
        keys = tuple(chain.from_iterable(one.keys for one in commits))
        words = list(chain.from_iterable(one.words for one in commits))
        size = len(keys)
    try:
        data = packed(b"EVALSHA", SHA, size, *keys, *words)
    except (UnicodeError, TypeError) as error:
        raise Refused(f"Redis cannot store this commit: {error}") from error
    if len(data) > MOST_BYTES:
        raise Refused(f"Redis takes at most {MOST_BYTES} bytes at once; this commit has {len(data)}")
    return data


def _raw(data: bytes) -> msgspec.Raw:
    """Bytes as a text of msgpack: Redis' Lua knows no other kind."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4, "big") + data)


def _changes(commit: Commit) -> Changes:
    if commit.reset and not commit.put:
        # All goes, whatever else the commit says.
        tail = _raw(escaped(commit.actor.id) + END)
        return Changes(REMOVE, [], None, None, True, [], [], commit.actor.id, tail, True)
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
        commit.recover is not None
        or row is not None
        or commit.clear_reminders
        or bool(commit.delete_reminders)
        or bool(commit.reminders),
    )


def results(reply: Reply, count: int) -> list[CommitResult]:
    """What the script says of so many commits. `StoreUnavailable` for a refusal that is not a commit's fault."""
    if reply == count:
        return [COMMITTED] * count
    if isinstance(reply, Error):
        return [_failed(str(reply))] * count
    found: list[CommitResult] = [COMMITTED] * count
    for number, kind, detail in zip(*[iter(reply)] * 3, strict=True):
        found[number - 1] = _other(kind, detail)
    return found


def _other(kind: int, detail: bytes | None) -> CommitResult:
    if kind == 2:
        return Fenced(None if detail is None else records.fence(detail))
    if kind == 3:
        return Conflict(detail)
    return _failed((detail or b"").decode("utf-8", "replace"))


def _failed(message: str) -> CommitResult:
    if errors.passing(message):
        raise StoreUnavailable(f"Redis: {message}")
    return Rejected(f"Redis: {message}")
