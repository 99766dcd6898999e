"""Numbered keys: what their text says, and the order of an actor's keys."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

#: Fewer digits than this and a key is a plain one.
DIGITS = 6
#: More digits than this might not fit into the 64 bits of a database's integer; such a key is a plain one.
MAX_DIGITS = 18


class KeyParts(NamedTuple):
    """A key taken apart. Sorting these gives the order of an actor's keys: plain ones by text, then each family by
    number."""

    #: 1 for a numbered key, 0 for a plain one.
    numbered: int
    #: The family with its hyphen, or the whole text of a plain key.
    name: str
    #: The number; 0 for a plain key.
    seq: int


def numbered(family: str, number: int) -> str:
    """The key of this number in a family: `numbered("history-", 12)` is `history-000012`."""
    return f"{family}{number:06d}"


# The same few key texts (`history-000003`) come with every instance: a look-up costs a tenth of taking one apart.
@lru_cache(maxsize=16384)
def split(key: str) -> KeyParts:
    """The parts of a key. Digits with a needless leading zero (`x-0000012`) would be a second text for the same
    number, so such a key is a plain one."""
    family, hyphen, digits = key.rpartition("-")
    size = len(digits)
    if not hyphen or size < DIGITS or size > MAX_DIGITS or not (digits.isascii() and digits.isdigit()):
        return KeyParts(0, key, 0)
    if size > DIGITS and digits[0] == "0":
        return KeyParts(0, key, 0)
    return KeyParts(1, family + "-", int(digits))


def join(plain_or_numbered: int, name: str, seq: int) -> str:
    """The key's text; the inverse of `split`."""
    return f"{name}{seq:06d}" if plain_or_numbered else name
