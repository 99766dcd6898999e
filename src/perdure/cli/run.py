"""`perdure run`"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.failures import FAILED, CommandError, usage
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
from perdure.errors import PerdureError
from perdure.logs import fields
from perdure.security import VARIABLES

if TYPE_CHECKING:
    from perdure.node import Node
    from perdure.supervisor.channel import Parent
    from perdure.supervisor.supervisor import SupervisorOptions

logger = logging.getLogger("perdure.cli")

#: `perdure.membership.PEER_PORT`: importing that takes long.
PEER_PORT = 50002
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMATS = ("text", "json")


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
    log_format: Annotated[
        str,
        typer.Option(
            "--log-format",
            envvar="PERDURE_LOG_FORMAT",
            metavar="FORMAT",
            help="text, or json: an object a line.",
        ),
    ] = "text",
    log_json: Annotated[bool, typer.Option("--log-json", help="As --log-format json.")] = False,
    drain_seconds: Annotated[
        float,
        typer.Option("--drain-seconds", min=0, help="How long running activities may take to end at a stop."),
    ] = 10.0,
    max_concurrent_activities: Annotated[
        int | None,
        typer.Option(
            "--max-concurrent-activities",
            min=1,
            metavar="N",
            help="How many activities run at a time on one node.",
        ),
    ] = None,
    max_concurrent_workflows: Annotated[
        int | None,
        typer.Option(
            "--max-concurrent-workflows",
            min=1,
            metavar="N",
            help="How many workflow instances are under way at a time on one node, children apart.",
        ),
    ] = None,
    nodes: Annotated[
        int,
        typer.Option(
            "--nodes",
            min=1,
            max=256,
            help="So many node processes, behind one HTTP port, to use as many cores.",
        ),
    ] = 1,
    http_fd: Annotated[list[int] | None, typer.Option("--http-fd", hidden=True)] = None,
    channel: Annotated[int | None, typer.Option("--channel", hidden=True)] = None,
) -> None:
    """Serves an app until Ctrl-C or SIGTERM. With --nodes, SIGHUP starts the nodes anew, one after the other."""
    if log_level.upper() not in LEVELS:
        raise usage(f"--log-level is {log_level!r}; write one of {', '.join(LEVELS)}")
    if log_format not in FORMATS:
        raise usage(f"--log-format is {log_format!r}; write one of {', '.join(FORMATS)}")
    log_json = log_json or log_format == "json"
    parent = _parent(channel)
    from perdure.membership import ClusterOptions
    from perdure.security import Security

    security = Security(ca=ca, cert=cert, key=key, token=cluster_token)
    security.check()
    cluster = ClusterOptions(
        placement=placement, peer_port=peer_port, advertise=advertise, weight=weight, security=security
    )
    if nodes > 1:
        from perdure.supervisor.supervisor import SupervisorOptions

        _supervise(
            SupervisorOptions(
                target=target,
                nodes=nodes,
                store=store,
                http_port=http_port,
                host=host,
                api_token=api_token,
                cluster=cluster,
                log_level=log_level.upper(),
                log_json=log_json,
                drain_seconds=drain_seconds,
                max_concurrent_activities=max_concurrent_activities,
                max_concurrent_workflows=max_concurrent_workflows,
            )
        )
        return

    def ready(node: Node) -> None:
        if parent is not None:
            parent.ready(node)
        else:
            _say_what_runs(node, log_json)

    with _told(parent):
        from perdure.cli.load import load_app

        app = load_app(target)
        if parent is not None:
            parent.loaded()
        app.run(
            store=store,
            http_port=http_port,
            host=host,
            api_token=api_token,
            http_sockets=tuple(socket.socket(fileno=one) for one in http_fd or ()),
            cluster=cluster,
            log_level=log_level.upper(),
            log_json=log_json,
            drain_seconds=drain_seconds,
            max_concurrent_activities=max_concurrent_activities,
            max_concurrent_workflows=max_concurrent_workflows,
            ready=ready,
        )


def _parent(channel: int | None) -> Parent | None:
    """The one that started this process as one of its nodes."""
    if channel is None:
        return None
    from perdure.supervisor.channel import Parent

    # Only for this process; what the app starts is none of the cluster's.
    os.environ.pop(VARIABLES["token"], None)
    return Parent(channel)


@contextmanager
def _told(parent: Parent | None) -> Iterator[None]:
    """What goes wrong is the parent's to say: it knows whether all its nodes say the same."""
    try:
        yield
    except (CommandError, PerdureError, SystemExit) as error:
        if parent is None:
            raise
        status = 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else FAILED if error.code else 0
            message = (
                str(error.code) if isinstance(error.code, str) else f"the app ended with status {status}"
            )
        else:
            status = error.status if isinstance(error, CommandError) else FAILED
            message = str(error) if isinstance(error, CommandError) else error.message
        parent.failed(message, status or FAILED)
        raise SystemExit(status or FAILED) from None


def _supervise(options: SupervisorOptions) -> None:
    if sys.platform == "win32":
        raise usage("--nodes needs processes that share sockets: not on Windows")
    import asyncio

    from perdure import logs
    from perdure.app import loop_factory, tune
    from perdure.supervisor.supervisor import NodeFailed, Supervisor

    async def supervise() -> None:
        await Supervisor(options).run()

    logs.configure(options.log_level, as_json=options.log_json)
    tune()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(supervise())
    except NodeFailed as error:
        raise CommandError(error.message, error.status) from None


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
