"""Who may take part, and as what: what is looked at before a hello counts. Pure."""

from __future__ import annotations

from collections.abc import Collection

from perdure.placement.member import Member
from perdure.placement.messages import PROTOCOL, Hello

#: The runtime's own types, `dapr.internal.<namespace>.<app id>.<kind>`, are hosted by their app's nodes only.
INTERNAL = "dapr.internal."
#: Other types are of this namespace unless they begin with `<namespace>/`.
DEFAULT_NAMESPACE = "default"

_NAME_LIMIT = 256
_TYPES_LIMIT = 1000
_WEIGHT_LIMIT = 1_000_000


def refusal(hello: Hello, apps: Collection[str]) -> str | None:
    """Why this hello is refused, in words for whoever set the node up; None: it is not. `apps`: the apps that the
    link's certificate allows, as `<namespace>/<app id>`; empty: any."""
    member = hello.member
    own = f"{member.namespace}/{member.app_id}"
    if hello.protocol != PROTOCOL:
        return (
            f"it speaks version {hello.protocol} of placement's protocol, placement speaks version {PROTOCOL}: all "
            "processes of a cluster need releases that speak the same"
        )
    if apps and own not in apps:
        allowed = ", ".join(sorted(apps))
        return f"it is of app {own}, but its certificate is for {allowed}"
    problem = _nonsense(member)
    if problem is not None:
        return problem
    for actor_type in member.actor_types:
        if not _own_type(actor_type, member):
            return f"it is of app {own}, and may not host the actor type {actor_type!r}, which is another's"
    return None


def _own_type(actor_type: str, member: Member) -> bool:
    if actor_type.startswith(INTERNAL):
        kind = actor_type.removeprefix(f"{INTERNAL}{member.namespace}.{member.app_id}.")
        return kind != actor_type and kind != "" and "." not in kind
    namespace, slash, _ = actor_type.partition("/")
    return (namespace if slash else DEFAULT_NAMESPACE) == member.namespace


def _nonsense(member: Member) -> str | None:
    if not member.node:
        return "its hello names no node"
    names = (member.node, member.address, *member.actor_types)
    if any(len(name.encode()) > _NAME_LIMIT for name in names):
        return f"its hello has a name longer than {_NAME_LIMIT} bytes"
    if len(member.actor_types) > _TYPES_LIMIT:
        return f"it hosts {len(member.actor_types)} actor types; {_TYPES_LIMIT} are allowed"
    if not 0 <= member.weight <= _WEIGHT_LIMIT:
        return f"its weight is {member.weight}; it must be from 0 to {_WEIGHT_LIMIT}"
    return None
