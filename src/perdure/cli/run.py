"""`perdure run`"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.failures import usage
from perdure.cli.options import (
    TOKEN_VARIABLES,
    Advertise,
    Ca,
    Cert,
    ClusterToken,
    Key,
    PeerPort,
    Placement,
    Weight,
)
from perdure.logs import fields

if TYPE_CHECKING:
    from perdure.node import Node

logger = logging.getLogger("perdure.cli")

#: `perdure.membership.PEER_PORT`: importing that takes long.
PEER_PORT = 50002
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def run(
    target: Annotated[
        str, typer.Argument(metavar="APP", help="module:app, or path/file.py:app.", show_default=False)
    ],
    store: Annotated[
        str,
        typer.Option(
            "--store",
            envvar="PERDURE_STORE",
            metavar="URL",
            help="sqlite:///file.db, redis://host, postgresql://host/database, memory://",
        ),
    ] = "sqlite:///perdure.db",
    http_port: Annotated[int, typer.Option("--http-port", min=0, max=65535, help="0: any free port.")] = 3500,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    api_token: Annotated[
        str | None,
        typer.Option(
            "--api-token",
            envvar=list(TOKEN_VARIABLES),
            show_envvar=True,
            metavar="TOKEN",
            help="What requests must show in the header dapr-api-token.",
        ),
    ] = None,
    placement: Placement = "",
    peer_port: PeerPort = PEER_PORT,
    advertise: Advertise = "",
    weight: Weight = 1,
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    cluster_token: ClusterToken = "",
    log_level: Annotated[
        str, typer.Option("--log-level", metavar="LEVEL", help=f"One of {', '.join(LEVELS)}.")
    ] = "INFO",
    log_json: Annotated[bool, typer.Option("--log-json", help="One JSON object a line.")] = False,
    drain_seconds: Annotated[
        float,
        typer.Option("--drain-seconds", min=0, help="How long running activities may take to end at a stop."),
    ] = 10.0,
) -> None:
    """Serves an app until Ctrl-C or SIGTERM."""
    if log_level.upper() not in LEVELS:
        raise usage(f"--log-level is {log_level!r}; write one of {', '.join(LEVELS)}")
    from perdure.cli.load import load_app
    from perdure.membership import ClusterOptions
    from perdure.security import Security

    security = Security(ca=ca, cert=cert, key=key, token=cluster_token)
    security.check()
    app = load_app(target)

    def ready(node: Node) -> None:
        _say_what_runs(node, log_json)

    app.run(
        store=store,
        http_port=http_port,
        host=host,
        api_token=api_token,
        cluster=ClusterOptions(
            placement=placement,
            peer_port=peer_port,
            advertise=advertise,
            weight=weight,
            security=security,
        ),
        log_level=log_level.upper(),
        log_json=log_json,
        drain_seconds=drain_seconds,
        ready=ready,
    )


def _say_what_runs(node: Node, as_json: bool) -> None:
    from importlib.metadata import version

    about = node.describe()
    if as_json:
        names = ("store", "workflows", "activities")
        told = fields(
            app=node.app_id, url=node.url, address=about["address"], **{name: about[name] for name in names}
        )
        logger.info("run.serves", extra=told)
        return
    lines = {
        "store": about["store"],
        "http": node.url,
        "workflows": ", ".join(about["workflows"]) or "none",
        "activities": ", ".join(about["activities"]) or "none",
    }
    if about["address"]:
        lines["links"] = about["address"]
    print(f"perdure {version('perdure')}: app {node.app_id}, namespace {node.namespace}", file=sys.stderr)
    for name, value in lines.items():
        print(f"  {name:<11} {value}", file=sys.stderr)
    sys.stderr.flush()
