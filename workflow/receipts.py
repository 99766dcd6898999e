"""What the key `accepted` of a workflow actor holds: which requests it has taken that their callers may send again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from perdure.errors import CorruptState, KeyReused
from perdure.payload import Payload

#: The key's name.
ACCEPTED = "accepted"
#: How long a caller's key is kept unless a node is told otherwise, in microseconds.
KEEP = 24 * 3600 * 1_000_000
#: How many are kept of each kind at most: the whole is written whenever one is added.
MOST = 10_000


class Receipt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request that was taken."""

    #: Of what was asked for: the same key with anything else is an error.
    digest: bytes
    at: int
    #: The start that it was, where it was one.
    start_id: str = ""


class _Stored(msgspec.Struct, omit_defaults=True):
    starts: dict[str, Receipt] = {}
    events: dict[str, Receipt] = {}


class Receipts:
    """By the callers' keys. A start's receipt is good as long as its instance is there, and any for a time after it
    was made. It changes only with the turn under way, and goes on over continue-as-new, purge and reuse of the id."""

    __slots__ = ("_stored", "changed")

    def __init__(self) -> None:
        self._stored = _Stored()
        #: Not in the store as it is here.
        self.changed = False

    @classmethod
    def decode(cls, value: bytes) -> Receipts:
        """Reads the key; `CorruptState` when it is none."""
        self = cls()
        try:
            self._stored = _decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptState(f"not what callers' keys are kept in: {error}") from error
        return self

    def encode(self) -> bytes:
        return _encode(self._stored)

    def start(self, key: str, digest: bytes, since: int, start_id: str) -> bool:
        """Whether a start with this key was taken at `since` or later, or is that of the instance that is there.
        `KeyReused` when it asked for something else."""
        found = self._stored.starts.get(key)
        if found is None or (found.at < since and found.start_id != start_id):
            return False
        return _same(found, digest, f"the idempotency key {key!r} was used for another start")

    def event(self, key: str, digest: bytes, since: int) -> bool:
        """Whether an event with this id was taken at `since` or later. `KeyReused` when it was another."""
        found = self._stored.events.get(key)
        if found is None or found.at < since:
            return False
        return _same(found, digest, f"the event id {key!r} was used for another event")

    def add_start(self, key: str, receipt: Receipt, since: int) -> None:
        starts = self._stored.starts
        starts.pop(key, None)
        for old in [k for k, one in starts.items() if one.at < since and one.start_id != receipt.start_id]:
            del starts[old]
        self._add(starts, key, receipt)

    def add_event(self, key: str, receipt: Receipt, since: int) -> None:
        events = self._stored.events
        events.pop(key, None)
        # The oldest come first.
        for old, one in list(events.items()):
            if one.at >= since:
                break
            del events[old]
        self._add(events, key, receipt)

    def _add(self, kept: dict[str, Receipt], key: str, receipt: Receipt) -> None:
        if len(kept) >= MOST:
            del kept[next(iter(kept))]
        kept[key] = receipt
        self.changed = True

    def kept(self) -> tuple[Mapping[str, Receipt], Mapping[str, Receipt]]:
        """Those of starts, and of events, by their keys."""
        return self._stored.starts, self._stored.events

    def with_those_of(self, other: Receipts | None) -> Receipts:
        """All of both; of two with one key, the other's."""
        both = Receipts()
        mine, more = self._stored, _Stored() if other is None else other._stored
        both._stored = _Stored({**mine.starts, **more.starts}, {**mine.events, **more.events})
        return both

    def last(self) -> int:
        """When the newest was made; 0: there is none."""
        stored = self._stored
        return max((one.at for kept in (stored.starts, stored.events) for one in kept.values()), default=0)


def start_digest(name: str, input: Payload, tags: Mapping[str, str]) -> bytes:
    """Of what a start asks for. When it is to start, and what if the id is taken, are no part of it: a time that is
    given as a delay is another one at each try."""
    pairs = [text.encode("utf-8", "surrogatepass") for pair in sorted(tags.items()) for text in pair]
    return _digest(name.encode("utf-8", "surrogatepass"), _meaning(input), *pairs)


def event_digest(name: str, data: Payload) -> bytes:
    return _digest(name.casefold().encode("utf-8", "surrogatepass"), _meaning(data))


def id_for_key(namespace: str, app_id: str, workflow: str, key: str) -> str:
    """The instance id of a start with a key and no id: the same at every edge, so that all reach one actor."""
    return _digest(
        *(text.encode("utf-8", "surrogatepass") for text in (namespace, app_id, workflow, key))
    ).hex()


def _meaning(payload: Payload) -> Payload:
    """What is the same JSON becomes the same bytes: edges write it each in their own way."""
    if payload is None:
        return None
    try:
        return _write_json(_read_json(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return payload


def _digest(*parts: bytes | None) -> bytes:
    """Of the parts one by one: what is moved from one to the next gives another."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(b"-" if part is None else f"{len(part)}:".encode())
        found.update(part or b"")
    return found.digest()


def _same(receipt: Receipt, digest: bytes, otherwise: str) -> bool:
    if receipt.digest != digest:
        raise KeyReused(f"{otherwise}: a key stands for one request; use a new one")
    return True


_encode = msgspec.msgpack.Encoder().encode
_read_json = msgspec.json.Decoder().decode
_write_json = msgspec.json.Encoder(order="sorted").encode
_decoder = msgspec.msgpack.Decoder(_Stored)
