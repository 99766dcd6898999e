"""What crosses the socket: a welcome, then requests with numbers, and an answer to each, in any order.

All is msgpack. A request is `[number, [kind, …]]`; an answer is `[number, null, value]`, or `[number, code, message]`
when the store raised. Both ends are of one release, the same as a rule: `PROTOCOL` tells when they are not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from perdure.errors import (
    ConfigurationError,
    CorruptState,
    PerdureError,
    StoreError,
    StoreFormat,
    StoreHeld,
    StoreUnavailable,
)
from perdure.statestore.contract import (
    ActorId,
    Commit,
    CommitResult,
    Fence,
    InstanceFilter,
    InstanceRow,
    Page,
    Refused,
    Reminder,
    Settings,
    Snapshot,
    Taken,
    TypePartition,
)

#: Grows by one whenever two releases could misunderstand each other.
PROTOCOL = 1


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="perdure-store"):
    """The server's first message."""

    protocol: int
    settings: Settings


class Commits(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    batch: list[Commit]


class Load(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    actor: ActorId


class Keys(msgspec.Struct, frozen=True, array_like=True, tag=3):
    actor: ActorId
    prefix: str
    start: str | None
    limit: int


class Take(msgspec.Struct, frozen=True, array_like=True, tag=4):
    held: list[TypePartition]
    fence: Fence


class Release(msgspec.Struct, frozen=True, array_like=True, tag=5):
    held: list[TypePartition]
    fence: Fence


class Owing(msgspec.Struct, frozen=True, array_like=True, tag=6):
    held: list[TypePartition]
    cursor: str | None
    limit: int


class Due(msgspec.Struct, frozen=True, array_like=True, tag=7):
    held: list[TypePartition]
    until: int
    cursor: str | None
    limit: int


class Reminders(msgspec.Struct, frozen=True, array_like=True, tag=8):
    actor: ActorId


class Row(msgspec.Struct, frozen=True, array_like=True, tag=9):
    actor: ActorId


class Query(msgspec.Struct, frozen=True, array_like=True, tag=10):
    where: InstanceFilter
    cursor: str | None
    limit: int


class Health(msgspec.Struct, frozen=True, array_like=True, tag=11):
    pass


class Types(msgspec.Struct, frozen=True, array_like=True, tag=17):
    pass


class Count(msgspec.Struct, frozen=True, array_like=True, tag=18):
    kind: str
    limit: int


class AcquireLease(msgspec.Struct, frozen=True, array_like=True, tag=12):
    #: Which contender of this client; numbers are the client's own.
    lease: int
    name: str


class ReadLease(msgspec.Struct, frozen=True, array_like=True, tag=13):
    lease: int
    name: str


class WriteLease(msgspec.Struct, frozen=True, array_like=True, tag=14):
    lease: int
    name: str
    value: bytes


class RenewLease(msgspec.Struct, frozen=True, array_like=True, tag=15):
    lease: int
    name: str


class ReleaseLease(msgspec.Struct, frozen=True, array_like=True, tag=16):
    lease: int
    name: str


LeaseRequest = AcquireLease | ReadLease | WriteLease | RenewLease | ReleaseLease
Read = Load | Keys | Owing | Due | Reminders | Row | Query | Types | Count
Request = Commits | Read | Take | Release | Health | LeaseRequest


def _plain(value: object) -> object:
    """The contract allows any collection where msgpack has lists."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Collection):
        return list(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent to a store")


encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode

decode_welcome = msgspec.msgpack.Decoder(Welcome).decode
decode_request = msgspec.msgpack.Decoder(tuple[int, Request]).decode
_decode_number = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw]).decode
decode_answer = msgspec.msgpack.Decoder(tuple[int, str | None, msgspec.Raw]).decode

#: What the answers to each kind of request hold.
NOTHING = msgspec.msgpack.Decoder(None)
TEXT = msgspec.msgpack.Decoder(str)
TERM = msgspec.msgpack.Decoder[int | None](int | None)
VALUE = msgspec.msgpack.Decoder[bytes | None](bytes | None)
RESULTS = msgspec.msgpack.Decoder(list[CommitResult])
SNAPSHOT = msgspec.msgpack.Decoder[Snapshot | None](Snapshot | None)
KEYS = msgspec.msgpack.Decoder(Page[tuple[str, bytes]])
TAKEN = msgspec.msgpack.Decoder(list[Taken | Refused])
ACTORS = msgspec.msgpack.Decoder(Page[ActorId])
REMINDER_PAGE = msgspec.msgpack.Decoder(Page[Reminder])
REMINDERS = msgspec.msgpack.Decoder(list[Reminder])
ROW = msgspec.msgpack.Decoder[InstanceRow | None](InstanceRow | None)
ROWS = msgspec.msgpack.Decoder(Page[InstanceRow])
TYPES = msgspec.msgpack.Decoder(list[str])
COUNTS = msgspec.msgpack.Decoder(dict[str, int])

_ERRORS: Mapping[str, type[PerdureError]] = {
    kind.code: kind
    for kind in (StoreError, StoreUnavailable, CorruptState, ConfigurationError, StoreHeld, StoreFormat)
}


def number(frame: memoryview) -> int:
    """The number of a request that cannot be read otherwise. ValueError when it is none."""
    return _decode_number(frame)[0]


def failure(asked: int, error: Exception) -> bytes:
    """The answer that carries what the store raised. What is no store's error is a fault of its code, after which
    nobody knows what was written."""
    if isinstance(error, PerdureError) and error.code in _ERRORS:
        code, message = error.code, error.message
    else:
        code, message = StoreUnavailable.code, f"{type(error).__name__}: {error}"
    # Text out of nowhere may hold what UTF-8 has no bytes for.
    return encode((asked, code, message.encode("utf-8", "backslashreplace").decode()))


def raised(code: str, message: str) -> PerdureError:
    """The error of a failure."""
    return _ERRORS.get(code, StoreUnavailable)(message)


def unsendable(error: Exception) -> StoreError:
    """For what `encode` raised: nothing was sent."""
    return StoreError(f"this cannot be sent to a store: {error}")


#: What `encode` raises for values that msgpack has no bytes for.
UNSENDABLE: tuple[type[Exception], ...] = (ValueError, TypeError, OverflowError, NotImplementedError)

Decoder = msgspec.msgpack.Decoder
