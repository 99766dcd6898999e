"""Places: keys as bytes whose order is that of the contract."""

from __future__ import annotations

from functools import lru_cache

from perdure.statestore.keys import join, split


@lru_cache(maxsize=65536)
def place(key: str) -> bytes:
    """The place of a key. `UnicodeEncodeError` for a lone surrogate, which is no character."""
    numbered, name, seq = split(key)
    if not numbered:
        return b"\0" + name.encode()
    return family(name) + seq.to_bytes(8, "big")


def family(name: str) -> bytes:
    """What the places of a family's keys begin with."""
    return b"\1" + name.encode().replace(b"\0", b"\0\xff") + b"\0\0"


@lru_cache(maxsize=65536)
def key(place: bytes) -> str:
    """The key at a place."""
    if place[0] == 0:
        return place[1:].decode()
    return join(1, place[1:-10].replace(b"\0\xff", b"\0").decode(), int.from_bytes(place[-8:], "big"))


def after(prefix: bytes) -> bytes:
    """The least bytes that come after all that begin with `prefix`, which has a byte below 255."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes((cut[-1] + 1,))
