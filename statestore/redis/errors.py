"""The seam where Redis' error replies become the store's errors."""

from __future__ import annotations

import re

from perdure.errors import CorruptState, PerdureError, StoreError, StoreUnavailable
from perdure.statestore.redis.link import Error, Reply

#: The server's or its operator's fault: the same request may succeed later. Refusals that hit every commit alike belong
#: here, also those that are definite (OOM, NOPERM): otherwise a node would reject what it could write in a minute.
_PASSING = frozenset(
    (
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "CROSSSLOT",
        "DENIED",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOAUTH",
        "NOGOODSLAVE",
        "NOPERM",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",
        "UNKILLABLE",
        "WRONGPASS",
    )
)
#: Redis 6 wraps what a script's call raised, or puts the line before it.
_WRAPPED = re.compile(r"@user_script:\s*\d+:\s*-?([A-Z]+) ")


def code(message: str) -> str:
    """The kind of an error reply."""
    first = message.partition(" ")[0].lstrip("-")
    if first == "ERR" or not first.isupper():
        inner = _WRAPPED.search(message)
        if inner:
            return inner[1]
    return first


def code_of(reply: Reply) -> str:
    """The kind of an answer that is an error; nothing for any other."""
    return code(str(reply)) if isinstance(reply, Error) else ""


def forbidden(reply: Reply) -> bool:
    """Whether an answer says that the user may not do this."""
    return isinstance(reply, Error) and (code_of(reply) == "NOPERM" or _in_script(str(reply)))


def passing(message: str) -> bool:
    """Whether the same request may succeed later."""
    return code(message) in _PASSING or message.startswith("ERR max number of clients") or _in_script(message)


def _in_script(message: str) -> bool:
    """Whether it is NOPERM for a call of a script, as the releases say it."""
    return "user executing the script" in message or "ACL failure in script" in message


def mapped(message: str) -> PerdureError:
    """The store's error for an error reply."""
    if passing(message):
        return StoreUnavailable(f"Redis: {message}")
    if code(message) == "WRONGTYPE":
        return CorruptState(f"Redis: {message}")
    return StoreError(f"Redis: {message}")
