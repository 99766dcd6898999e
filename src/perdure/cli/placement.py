"""`perdure placement`"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.failures import usage
from perdure.cli.options import Advertise, Ca, Cert, ClusterToken, Key
from perdure.cli.run import FORMATS, LEVELS
from perdure.logs import configure, fields

if TYPE_CHECKING:
    from perdure.placement_server import PlacementServer, PlacementServerOptions

logger = logging.getLogger("perdure.cli")


def placement(
    store: Annotated[
        str,
        typer.Option(
            "--store",
            envvar="PERDURE_STORE",
            metavar="URL",
            help="The store of the nodes: redis://host, postgresql://host/database.",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where nodes reach it; 0: any free port.")
    ] = 50005,
    advertise: Advertise = "",
    http_port: Annotated[
        int,
        typer.Option("--http-port", min=0, max=65535, help="For /healthz and /metrics; 0: any free port."),
    ] = 50006,
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
) -> None:
    """Runs placement apart from the nodes, which name it with --placement, until Ctrl-C or SIGTERM.

    Any number may run on one store: one leads, the others stand by and lead nodes to it.
    """
    if log_level.upper() not in LEVELS:
        raise usage(f"--log-level is {log_level!r}; write one of {', '.join(LEVELS)}")
    if log_format not in FORMATS:
        raise usage(f"--log-format is {log_format!r}; write one of {', '.join(FORMATS)}")
    log_json = log_json or log_format == "json"
    from perdure.app import loop_factory
    from perdure.placement_server import PlacementServerOptions
    from perdure.security import Security

    security = Security(ca=ca, cert=cert, key=key, token=cluster_token)
    security.check()
    options = PlacementServerOptions(
        host=host, port=port, advertise=advertise, http_port=http_port, security=security
    )
    configure(log_level.upper(), as_json=log_json)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(store, options, log_json))


async def _serve(url: str, options: PlacementServerOptions, as_json: bool) -> None:
    from perdure.clock import LoopClock
    from perdure.placement_server import PlacementServer
    from perdure.statestore.urls import open_store

    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell() -> None:
        told.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        # A second one ends the process at once.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    store = open_store(url)
    server = PlacementServer(store, LoopClock(), options)
    ending: list[asyncio.Task[object]] = []
    try:
        await server.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tell)
        _say_what_runs(server, as_json)
        ending = [loop.create_task(told.wait()), loop.create_task(server.ended())]
        done, _ = await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in ending:
            task.cancel()
        await server.stop()
        await store.close()


def _say_what_runs(server: PlacementServer, as_json: bool) -> None:
    from importlib.metadata import version

    if as_json:
        logger.info("placement.serves", extra=fields(http=server.http_address, **server.describe()))
        return
    about = server.describe()
    print(f"perdure {version('perdure')}: placement at {about['address']}, {about['state']}", file=sys.stderr)
    print(f"  metrics     http://{server.http_address}/metrics", file=sys.stderr)
    sys.stderr.flush()
