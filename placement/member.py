"""Who takes part: what a node says of itself when it joins."""

from __future__ import annotations

import msgspec


class Limit(msgspec.Struct, frozen=True, array_like=True):
    """How many of one activity, or instances of one workflow, of the node's app may run at a time in the whole
    cluster."""

    name: str
    most: int
    #: Seconds for which one that runs may go on after its node has fallen silent and its share has ended; None: as
    #: the leader's options say.
    grace: float | None = None


class Member(msgspec.Struct, frozen=True):
    """One node, in one incarnation."""

    #: Unique over all incarnations of all nodes.
    node: str
    #: host:port of its peer link; empty in an embedded process.
    address: str
    app_id: str
    namespace: str
    #: The actor types with state that it hosts: these have partitions.
    actor_types: tuple[str, ...]
    #: What it registered, for routing activities and for saying what is missing.
    workflows: tuple[str, ...] = ()
    activities: tuple[str, ...] = ()
    #: Its share of partitions relative to others.
    weight: int = 1
    #: The URL of its HTTP API; empty without one.
    http: str = ""
    #: Of which of its activities only so many may run at a time in the whole cluster.
    limits: tuple[Limit, ...] = ()
    #: The same of its workflows: of which only so many instances may be under way. Their slots are kept in the store.
    workflow_limits: tuple[Limit, ...] = ()
