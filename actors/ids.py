"""What may be an actor type, an actor id, and a name within an actor: one place that says so, for every edge."""

from __future__ import annotations

import re

from perdure.errors import ConfigurationError, InvalidId, InvalidInput
from perdure.statestore.contract import ActorId
from perdure.statestore.keys import split

#: Actor types that begin so are the runtime's own: user code neither registers nor calls them.
RESERVED = "dapr.internal."
MAX_BYTES = 256

#: State keys that begin so hold the runtime's kept replies. They come after almost all keys of users, so that they are
#: the ones that a load leaves out where an actor has very many keys.
REPLIES = "~reply/"

#: The families of numbered keys that a snapshot always holds whole, or that only workflows have.
_RUNTIME_FAMILIES = ("history-", "inbox-", "outbox-")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_reserved(actor_type: str) -> bool:
    """Whether the type is the runtime's own."""
    return actor_type.startswith(RESERVED)


def qualified(namespace: str, actor_type: str) -> str:
    """An actor type as placement and the store know it: user types of a namespace other than `default` begin with it,
    so that those of two namespaces are never the same. No name of a user contains the '/'."""
    if namespace == "default" or is_reserved(actor_type):
        return actor_type
    return f"{namespace}/{actor_type}"


def plain(actor_type: str) -> str:
    """The name by which user code knows the type."""
    return actor_type.rpartition("/")[2]


def check_actor(actor: ActorId) -> ActorId:
    """`InvalidInput` for a type, `InvalidId` for an id that cannot be one."""
    check_type(actor.type)
    check_id(actor.id)
    return actor


def check_type(actor_type: str) -> str:
    """Any type, the runtime's own too."""
    problem = _problem(actor_type)
    if problem:
        raise InvalidInput(f"the actor type {_shown(actor_type)} {problem}")
    return actor_type


def check_user_type(actor_type: str) -> str:
    """A type that user code registers: `ConfigurationError` also when it is reserved."""
    problem = _problem(actor_type)
    if problem is None and is_reserved(actor_type):
        problem = f"is reserved: types that begin with {RESERVED!r} are Perdure's own"
    if problem:
        raise ConfigurationError(f"the actor type {_shown(actor_type)} {problem}")
    return actor_type


def check_id(actor_id: str) -> str:
    problem = _problem(actor_id)
    if problem:
        raise InvalidId(f"the actor id {_shown(actor_id)} {problem}")
    return actor_id


def check_name(name: str, what: str) -> str:
    """The name of a reminder or a timer; `what` says which of them."""
    problem = _problem(name)
    if problem is None and is_reserved(name):
        problem = f"is reserved: names that begin with {RESERVED!r} are Perdure's own"
    if problem:
        raise InvalidInput(f"the name of the {what} {_shown(name)} {problem}")
    return name


def check_key(key: str) -> str:
    """A state key. '/' is allowed; the runtime's numbered families (`inbox-000001`) are not: a store gives all of
    them with every load, however many there are. Other numbered keys (`order-100001`) are keys like any other."""
    problem = _problem(key, slash=True)
    if problem is None:
        parts = split(key)
        if parts.numbered and parts.name in _RUNTIME_FAMILIES:
            problem = f"is reserved: numbered keys that begin with {parts.name!r} are Perdure's own"
        elif key.startswith(REPLIES):
            problem = f"is reserved: keys that begin with {REPLIES!r} are Perdure's own"
    if problem:
        raise InvalidInput(f"the state key {_shown(key)} {problem}")
    return key


def check_idempotency_key(key: str) -> str:
    """What a caller names a call by. '/' is allowed."""
    problem = _problem(key, slash=True)
    if problem:
        raise InvalidInput(f"the idempotency key {_shown(key)} {problem}")
    return key


def _problem(text: object, *, slash: bool = False) -> str | None:
    """Why the text cannot be used, as the end of a sentence; None when it can."""
    if not isinstance(text, str):
        return f"is not text but {type(text).__name__}"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not 1 <= size <= MAX_BYTES:
        return f"has {size} bytes; it must have 1 to {MAX_BYTES}"
    if _CONTROL.search(text):
        return "contains a control character"
    if not slash and "/" in text:
        return "contains a '/'"
    return None


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:76]}…"
