"""Numbers that every process computes alike: of actor types, and of advisory locks."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=4096)
def type_number(name: str) -> int:
    """The number of an actor type: 64 bits of a hash, signed. `take` sees to it that no two names share one."""
    return _number(name.encode("utf-8", "surrogatepass"))


def lock_key(schema: str, name: str) -> int:
    """The key of an advisory lock. These are shared by all programs that use the database."""
    return _number(f"perdure\0{schema}\0{name}".encode("utf-8", "surrogatepass"))


def storable(text: str) -> bool:
    """Whether PostgreSQL's text can hold it: everything but NUL and lone surrogates."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)
