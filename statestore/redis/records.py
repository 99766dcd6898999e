"""Records: stored values as what the contract calls them. `CorruptState` for what cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from perdure.errors import CorruptState
from perdure.statestore.contract import ActorId, Fence, InstanceRow, Reminder
from perdure.statestore.keys import split
from perdure.statestore.redis.layout import PRIVATE
from perdure.statestore.redis.order import newest_place, place_newest, place_time, time_place

#: Bytes of a time's place, with which rows and reminders begin.
TIME = 8


class StoredRow(msgspec.Struct, frozen=True, array_like=True):
    """What follows the time of an index row. commit.lua and scan.lua read the first fields, by their order."""

    status: str
    name: str
    updated: int
    details: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(StoredRow).decode


@contextlib.contextmanager
def reading(what: object) -> Iterator[None]:
    """Whatever goes wrong inside with a stored value is `CorruptState`."""
    try:
        yield
    except (ValueError, IndexError, OverflowError, msgspec.MsgspecError) as error:
        raise CorruptState(f"{what} cannot be read: {error}") from error


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash as Redis gives it."""
    it = iter(flat)
    return dict(zip(it, it, strict=True))


def keys(hash: dict[bytes, bytes]) -> dict[str, bytes]:
    """The actor's keys among the fields of its hash, in the contract's order."""
    found = {field.decode(): value for field, value in hash.items() if not field.startswith(PRIVATE)}
    return {key: found[key] for key in sorted(found, key=split)}


def fence_text(fence: Fence) -> str:
    return f"{fence[0]}.{fence[1]}"


def fence(text: bytes) -> Fence:
    with reading("a fence"):
        term, _, epoch = text.partition(b".")
        return Fence(int(term), int(epoch))


def encode_row(row: InstanceRow) -> bytes:
    return newest_place(row.created) + _encode(StoredRow(row.status, row.name, row.updated, row.details))


def row(actor: ActorId, stored: bytes) -> InstanceRow:
    with reading(f"the index row of {actor}"):
        one = _decode_row(stored[TIME:])
        return InstanceRow(actor, one.name, one.status, place_newest(stored[:TIME]), one.updated, one.details)


def encode_reminder(reminder: Reminder) -> bytes:
    return time_place(reminder.due) + reminder.data


def reminder(actor: ActorId, name: str, stored: bytes) -> Reminder:
    if len(stored) < TIME:
        raise CorruptState(f"the reminder {name!r} of {actor} cannot be read: it has no time")
    return Reminder(actor, name, place_time(stored[:TIME]), stored[TIME:])
