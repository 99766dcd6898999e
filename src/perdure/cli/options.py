"""Options that many commands share, and how values on the command line are read."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.complete import instance_ids, status_names, workflow_names
from perdure.cli.failures import CommandError, usage
from perdure.security import VARIABLES

DEFAULT_SERVER = "http://127.0.0.1:3500"
#: Where commands, and `perdure run`, find the API token: the first that is set.
TOKEN_VARIABLES = ("PERDURE_API_TOKEN", "DAPR_API_TOKEN")

Server = Annotated[
    str,
    typer.Option(
        "--server", envvar="PERDURE_SERVER", metavar="URL", help="The node to ask.", show_envvar=True
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="A store instead: the node that has it is asked, or else it is read directly.",
    ),
]
AppId = Annotated[
    str | None,
    typer.Option("--app-id", metavar="ID", help="Whose workflows, if a store holds those of several apps."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InstanceId = Annotated[
    str, typer.Argument(metavar="ID", help="The instance id.", autocompletion=instance_ids)
]
#: Which instances: those that every one given here is true of.
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        "-s",
        metavar="STATUS",
        help="Only these; may be given again.",
        autocompletion=status_names,
    ),
]
WorkflowName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Only this workflow.", autocompletion=workflow_names),
]
IdPrefix = Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="Only ids that begin so.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the history.")]
Recursive = Annotated[bool, typer.Option("--recursive/--no-recursive", help="Child workflows, too.")]

Placement = Annotated[
    str,
    typer.Option(
        "--placement",
        envvar="PERDURE_PLACEMENT",
        metavar="HOST:PORT,…",
        help="A placement service of its own; without, the nodes run it themselves.",
    ),
]
PeerPort = Annotated[
    int,
    typer.Option("--peer-port", min=0, max=65535, help="Where other nodes reach this one; 0: any free port."),
]
Advertise = Annotated[
    str,
    typer.Option(
        "--advertise",
        envvar="PERDURE_ADVERTISE",
        metavar="HOST[:PORT]",
        help="What it tells others instead of --host.",
    ),
]
Weight = Annotated[
    int, typer.Option("--weight", min=1, help="Its share of the actors relative to other nodes.")
]
Ca = Annotated[
    str,
    typer.Option(
        "--ca", envvar=VARIABLES["ca"], metavar="FILE", help="Whose certificates are trusted (TLS)."
    ),
]
Cert = Annotated[
    str, typer.Option("--cert", envvar=VARIABLES["cert"], metavar="FILE", help="This process's certificate.")
]
Key = Annotated[str, typer.Option("--key", envvar=VARIABLES["key"], metavar="FILE", help="Its key.")]
ClusterToken = Annotated[
    str,
    typer.Option(
        "--cluster-token",
        envvar=VARIABLES["token"],
        metavar="TOKEN",
        help="A secret that all processes share.",
    ),
]

_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def api_token() -> str | None:
    """The token that nodes are shown; None: none."""
    for name in TOKEN_VARIABLES:
        token = os.environ.get(name)
        if token:
            if not token.isascii() or not token.isprintable():
                raise usage(f"{name} holds no API token: only printable ASCII characters can be one")
            return token
    return None


def read_json(value: str | None, option: str) -> bytes | None:
    """JSON given on the command line: the text itself, `-` for standard input, `@file` for a file."""
    if value is None:
        return None
    if value == "-":
        found, source = sys.stdin.buffer.read(), "standard input"
    elif value.startswith("@"):
        found, source = _read_file(value[1:], option), value[1:]
    else:
        found, source = value.encode("utf-8", "surrogateescape"), option
    try:
        json.loads(found)
    except ValueError as error:
        quoted = json.dumps(value)
        hint = (
            ""
            if source != option or value[:1] in "{[\"'"
            else f"; for the text {value} write {option} '{quoted}'"
        )
        raise usage(f"{source} is not JSON: {error}{hint}") from None
    return found


def _read_file(name: str, option: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{option} names {name!r}, which cannot be read: {error.strerror}") from None


def read_key(value: str | None, option: str) -> str | None:
    """A key that can be sent, or none."""
    if value is not None and not (0 < len(value.encode("utf-8", "replace")) <= 256 and value.isprintable()):
        raise usage(f"{option} is {value[:40]!r}; write 1 to 256 bytes without control characters")
    return value


def read_seconds(value: str | None, option: str) -> float | None:
    """`30`, `1.5`, `90s`, `1h30m`."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    if value and not _GO_PART.sub("", value):
        return sum(float(number) * _SECONDS[unit] for number, unit in _GO_PART.findall(value))
    raise usage(f"{option} is {value!r}; write seconds, or a duration such as 90s or 1h30m")
