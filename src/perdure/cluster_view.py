"""The cluster in words and numbers: what the placement table says, and what each node says of itself. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from perdure.placement.table import Table
from perdure.statestore.contract import Fence, TypePartition
from perdure.workflow.limits import Queue


class Handover(msgspec.Struct, frozen=True, order=True):
    """Partitions of one actor type that the table gives to a node which does not serve them yet."""

    type: str
    partitions: int
    after: str
    #: Who had them, if that node is still there to give them back.
    before: str | None = None


class NodeFigures(msgspec.Struct, frozen=True):
    """What one node says of itself. Crosses the wire as msgpack: fields may be added, with defaults."""

    node: str
    #: Its own clock when it said so, and when it started: microseconds since 1970 UTC.
    now: int
    started: int
    release: str = ""
    #: Activations in memory, by actor type.
    activations: dict[str, int] = {}
    activities_running: int = 0
    activities_queued: int = 0
    commits_pending: int = 0
    handovers: list[Handover] = []
    #: Whether the placement leader runs in this process, and leads.
    leads: bool = False
    #: What runs and waits by name, of "activities" and "workflows", where anything is limited or waits.
    queues: dict[str, dict[str, Queue]] = {}


class Heard(msgspec.Struct, frozen=True):
    """A node's answer, and what the question itself shows."""

    figures: NodeFigures
    #: How far its clock is ahead of the asking node's: microseconds, as exact as half the round trip.
    clock_difference: int = 0
    #: Microseconds between the question and the answer.
    round_trip: int = 0


class NodeView(msgspec.Struct, frozen=True):
    """One node of the table."""

    node: str
    #: The node that was asked for this view.
    this: bool
    leads: bool
    address: str
    http: str
    app_id: str
    namespace: str
    weight: int
    actor_types: tuple[str, ...]
    workflows: tuple[str, ...]
    activities: tuple[str, ...]
    #: Partitions that the table gives it, by actor type.
    partitions: dict[str, int]
    #: None: it gave no answer.
    heard: Heard | None = None


class TypeView(msgspec.Struct, frozen=True):
    """One actor type, over all nodes."""

    name: str
    partitions: int
    nodes: int
    #: In the memory of the nodes that answered.
    activations: int = 0


class ClusterView(msgspec.Struct, frozen=True):
    """Everything, as of one table."""

    term: int
    epoch: int
    #: Where the placement service is reached; empty: it runs in the process of its only node.
    leader: str
    partitions: int
    nodes: tuple[NodeView, ...]
    types: tuple[TypeView, ...]
    #: By what the nodes that answered say.
    handovers: tuple[Handover, ...]


def view(table: Table, this: str = "", heard: Mapping[str, Heard] | None = None) -> ClusterView:
    """The view of node `this` (empty: of nobody in the table). `heard`: the nodes' answers, by node."""
    heard = heard or {}
    held = {actor_type: Counter(row) for actor_type, row in table.owners.items()}
    nodes = tuple(_node(table, node, this, held, heard.get(node)) for node in sorted(table.members))
    return ClusterView(
        table.term,
        table.epoch,
        table.leader,
        table.partitions,
        nodes,
        tuple(_types(table, held, heard)),
        tuple(sorted(one for node in nodes if node.heard for one in node.heard.figures.handovers)),
    )


def _node(
    table: Table, node: str, this: str, held: Mapping[str, Counter[str]], heard: Heard | None
) -> NodeView:
    member = table.members[node]
    return NodeView(
        node,
        node == this,
        (heard is not None and heard.figures.leads)
        or (bool(table.leader) and member.address == table.leader),
        member.address,
        member.http,
        member.app_id,
        member.namespace,
        member.weight,
        member.actor_types,
        member.workflows,
        member.activities,
        {actor_type: counts[node] for actor_type, counts in sorted(held.items()) if counts[node]},
        heard,
    )


def _types(table: Table, held: Mapping[str, Counter[str]], heard: Mapping[str, Heard]) -> list[TypeView]:
    return [
        TypeView(
            actor_type,
            table.partitions,
            len(counts),
            sum(one.figures.activations.get(actor_type, 0) for one in heard.values()),
        )
        for actor_type, counts in sorted(held.items())
    ]


def handovers(table: Table, node: str, served: Mapping[TypePartition, Fence]) -> list[Handover]:
    """What the table gives to a node beyond what it serves under the table's fences."""
    found: Counter[tuple[str, str | None]] = Counter(
        (key.type, table.former(*key)) for key, fence in table.held(node).items() if served.get(key) != fence
    )
    return sorted(Handover(actor_type, count, node, before) for (actor_type, before), count in found.items())


def heard(figures: NodeFigures, asked: int, answered: int) -> Heard:
    """An answer to a question that was asked, and whose answer came, at these times of the asking node's clock."""
    return Heard(figures, figures.now - (asked + answered) // 2, max(answered - asked, 0))
