"""`perdure cluster`"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from perdure.cli import show
from perdure.cli.options import DEFAULT_SERVER, AsJson, Server, Store
from perdure.cli.target import reader

Json = dict[str, Any]

#: Clocks that differ by less than this, in seconds, need no mention.
SAME_TIME = 0.1


def cluster(server: Server = DEFAULT_SERVER, store: Store = None, as_json: AsJson = False) -> None:
    """Shows the cluster: its nodes, what each hosts and does, and what is changing hands.

    With --store, when no node has it open: the cluster as it was when the last table was written.
    """
    with reader(server, store) as source:
        found = source.cluster()
    if as_json:
        show.show_json(found)
        return
    _show_table(found)
    print()
    show.show_table(NODE_HEADINGS, [_node(node, found) for node in found["nodes"]], "no node is in the table")
    if found["actorTypes"]:
        print()
        show.show_table(
            ("ACTOR TYPE", "PARTITIONS", "NODES", "ACTIVE"),
            [
                (one["name"], one["partitions"], one["nodes"], one["activations"])
                for one in found["actorTypes"]
            ],
            "",
        )
    if found["handovers"]:
        print()
        rows = [
            (one["actorType"], one["partitions"], one["from"] or "", one["to"]) for one in found["handovers"]
        ]
        show.show_table(("CHANGING HANDS", "PARTITIONS", "FROM", "TO"), rows, "")


NODE_HEADINGS = ("NODE", "APP", "ADDRESS", "HTTP", "UP", "PARTITIONS", "ACTIVE", "RUNNING", "QUEUED", "")


def _show_table(found: Json) -> None:
    leaders = [node["id"] for node in found["nodes"] if node["leads"]]
    led = ", ".join([*leaders, *([found["leader"]] if found["leader"] else [])])
    show.show_fields(
        {
            "table": f"term {found['term']}, epoch {found['epoch']}",
            "placement": f"led by {led}" if led else "led by nobody that is known",
            "partitions": f"{found['partitions']} for each actor type",
        }
    )


def _node(node: Json, found: Json) -> Sequence[object]:
    name = f"{node['id']} (this)" if node["this"] else node["id"]
    fixed = (name, node["appID"], node["address"] or "in process", node["http"] or "none")
    partitions = _partitions(node, found)
    if not node["answered"]:
        return (*fixed, "", partitions, "", "", "", show.styled("no answer", "red"))
    return (
        *fixed,
        _up(node["startedAt"]),
        partitions,
        sum(node["activations"].values()),
        node["activitiesRunning"],
        node["activitiesQueued"],
        _remark(node),
    )


def _partitions(node: Json, found: Json) -> str:
    """Of all partitions of the types that it hosts, how many it has."""
    total = sum(found["partitions"] for kind in found["actorTypes"] if kind["name"] in node["actorTypes"])
    return f"{sum(node['partitions'].values())} of {total}"


def _up(started: str) -> str:
    return show.duration(max((datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(), 0))


def _remark(node: Json) -> object:
    said = []
    if abs(node["clockDifference"]) >= max(SAME_TIME, node["roundTrip"]):
        ahead = "ahead" if node["clockDifference"] > 0 else "behind"
        said.append(f"clock {show.duration(abs(node['clockDifference']))} {ahead}")
    if node["weight"] != 1:
        said.append(f"weight {node['weight']}")
    return show.styled(", ".join(said), "yellow")
