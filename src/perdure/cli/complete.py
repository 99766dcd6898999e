"""What the shell offers when Tab is pressed: names and ids that the node knows.

Nothing is said when it cannot be asked: a completion has nowhere to say it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import typer

from perdure.cli.failures import CommandError
from perdure.errors import PerdureError

#: Seconds within which the node has to answer: somebody waits with a finger on the key.
TIMEOUT = 1.0
#: Ids offered at most.
MOST = 100
STATUSES = ("pending", "running", "suspended", "stalled", "completed", "failed", "terminated")
SHELLS = ("bash", "zsh", "fish")
#: What no shell takes for more than text: bash expands the words that it is offered, zsh evaluates them.
_HARMLESS = re.compile(r"[\w.:@%+=-]+")


def shell_names(incomplete: str) -> list[str]:
    return [name for name in SHELLS if name.startswith(incomplete)]


def status_names(incomplete: str) -> list[str]:
    """The last of several, separated by commas, is completed."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in STATUSES if name.startswith(last.lower())]


def instance_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The newest instances whose ids begin so."""

    def ask(node: Any) -> Iterable[str]:
        found = node.workflows({"prefix": incomplete or None, "limit": MOST})
        return [one["instanceID"] for one in found["instances"]]

    return _asked(ctx, ask, incomplete)


def workflow_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The workflows that the node has registered."""
    return _asked(ctx, lambda node: node.request("GET", "/v1.0/metadata")["workflows"], incomplete)


def _asked(ctx: typer.Context, ask: Callable[[Any], Iterable[str]], incomplete: str) -> list[str]:
    from perdure.cli.options import DEFAULT_SERVER
    from perdure.cli.target import node

    server = ctx.params.get("server") or os.environ.get("PERDURE_SERVER") or DEFAULT_SERVER
    try:
        with node(server, ctx.params.get("store"), TIMEOUT) as target:
            found = list(ask(target))
    except (CommandError, PerdureError, OSError, KeyError, TypeError):
        return []
    return [name for name in found if name.startswith(incomplete) and _HARMLESS.fullmatch(name)]
