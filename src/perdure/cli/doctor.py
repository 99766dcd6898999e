"""`perdure doctor`"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import typer

from perdure.cli import show
from perdure.cli.failures import FAILED, CommandError
from perdure.cli.options import DEFAULT_SERVER, AsJson, Server, Store
from perdure.cli.remote import Node
from perdure.cli.target import Reader, reader

Json = dict[str, Any]

#: Seconds by which the clocks of two nodes may differ before timers are visibly wrong.
CLOCKS = 1.0

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(server: Server = DEFAULT_SERVER, store: Store = None, as_json: AsJson = False) -> None:
    """Looks at a store as a whole, and says what to do about what it finds.

    Format, durability, overdue reminders, instances that could not recover, clocks of the nodes. Changes nothing. Exit
    status 1 when something is wrong.
    """
    with reader(server, store) as source:
        findings: list[Json] = source.examine()
        cluster = _cluster(source, findings)
    if cluster is not None:
        findings += clocks(cluster)
    if as_json:
        show.show_json({"findings": findings})
    else:
        for one in findings:
            print(f"{show.styled(one['level'], _COLOURS[one['level']])}  {one['subject']}: {one['said']}")
            if "advice" in one:
                print(f"    {one['advice']}")
    if any(one["level"] == "error" for one in findings):
        raise typer.Exit(FAILED)


def _cluster(source: Reader, findings: list[Json]) -> Json | None:
    """As a node sees it, if any answers: only nodes know each other's clocks."""
    for url in source.nodes():
        try:
            with closing(Node(url)) as node:
                return node.cluster()
        except CommandError as error:
            advice = (
                "if it should be there, see its log; else it leaves the table by itself when placement runs"
            )
            findings.append(
                {"level": "warning", "subject": "nodes", "said": f"{url}: {error}", "advice": advice}
            )
    return None


def clocks(cluster: Json) -> list[Json]:
    """What the nodes' clocks are to each other; those that gave no answer are left out."""
    answered = [node for node in cluster["nodes"] if node["answered"]]
    found: list[Json] = [
        {
            "level": "warning",
            "subject": "nodes",
            "said": f"{node['id']} ({node['address']}) gives other nodes no answer",
            "advice": "see its log, and whether other hosts reach its address",
        }
        for node in cluster["nodes"]
        if not node["answered"]
    ]
    differences = {node["id"]: node["clockDifference"] for node in answered}
    spread = max(differences.values(), default=0.0) - min(differences.values(), default=0.0)
    said = f"those of {len(answered)} nodes differ by {spread:.3f} s at most"
    if spread <= CLOCKS:
        return [*found, {"level": "ok", "subject": "clocks", "said": said}]
    ahead = max(differences, key=lambda node: differences[node])
    advice = (
        f"synchronise the hosts' clocks (NTP); {ahead} is ahead: timers that move to it fire early by as much, and "
        "those that move from it late"
    )
    return [*found, {"level": "error", "subject": "clocks", "said": said, "advice": advice}]
