"""Orders as bytes: what Redis sorts by `memcmp` stands in the contract's order.

An escaped text ends with `END`, which sorts below anything that goes on: so a text is followed by those that begin with
it, and parts can be joined.
"""

from __future__ import annotations

from functools import lru_cache

from perdure.statestore.keys import DIGITS, MAX_DIGITS, split

END = b"\0\1"
#: Above every byte of a UTF-8 text.
TOP = b"\xff"

_BIAS = 2**63


def escaped(text: str) -> bytes:
    return text.encode().replace(b"\0", b"\0\xff")


def unescaped(part: bytes) -> str:
    return part.replace(b"\0\xff", b"\0").decode()


def time_place(time: int) -> bytes:
    """8 bytes, earliest first. `OverflowError` for a time that has no 64 bits."""
    return (time + _BIAS).to_bytes(8, "big")


def place_time(place: bytes) -> int:
    return int.from_bytes(place, "big") - _BIAS


def newest_place(time: int) -> bytes:
    """8 bytes, latest first."""
    return (_BIAS - 1 - time).to_bytes(8, "big")


def place_newest(place: bytes) -> int:
    return _BIAS - 1 - int.from_bytes(place, "big")


@lru_cache(maxsize=1024)
def place(key: str) -> bytes:
    """Where a key stands among those of its actor. As `place` in commit.lua."""
    numbered, name, seq = split(key)
    if not numbered:
        return b"0" + name.encode()
    return b"1" + escaped(name) + END + b"%018d" % seq


def ranges(prefix: str, start: str | None) -> list[tuple[bytes, bytes]]:
    """The places (from, to but not including) of the keys that begin with `prefix`, from the key `start` on, in
    order: pairs for ZRANGEBYLEX, without its brackets."""
    found = [_beginning(b"0" + prefix.encode())]
    family, hyphen, digits = prefix.rpartition("-")
    if hyphen and digits.isascii() and digits.isdigit():
        # It ends within a number: those of 6 digits first, then those of more, which have no leading zero.
        base = b"1" + escaped(family + "-") + END
        for size in range(DIGITS, MAX_DIGITS + 1):
            if len(digits) <= size and (size == DIGITS or digits[0] != "0"):
                least = digits + "0" * (size - len(digits))
                most = digits + "9" * (size - len(digits))
                found.append((base + b"%018d" % int(least), base + b"%018d" % int(most) + b"\0"))
    found.append(_beginning(b"1" + escaped(prefix)))
    if start is None:
        return found
    least_place = place(start)
    return [(max(low, least_place), high) for low, high in found if high > least_place]


def _beginning(part: bytes) -> tuple[bytes, bytes]:
    return part, part + TOP
