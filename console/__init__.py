"""The web console: a page that shows what a node and its cluster do. It only reads.

`files` is the page; `api` its JSON; `hub` reads what is looked at, once for all who look; `reader` follows one
instance, `timeline` makes steps of its history; `instance` and `lists` are what the views show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.console.api import ConsoleApi
from perdure.console.files import FILE, INDEX, Files
from perdure.console.subject import Subject
from perdure.sidecar.routes import add_routes
from perdure.sidecar.token import OPEN_PATHS

if TYPE_CHECKING:
    from aiohttp import web

    from perdure.runtime import Runtime
    from perdure.sidecar.facade import Facade

__all__ = ["mount"]


def mount(app: web.Application, facade: Facade, runtime: Runtime) -> None:
    """Serves the console of a node at `/`, beside everything else that the application serves."""
    api = ConsoleApi(Subject(facade, runtime))
    add_routes(app, Files().routes())
    add_routes(app, api.routes())
    # They hold no data, and ask for the token.
    app[OPEN_PATHS].update((INDEX, FILE))

    async def stop(_: web.Application) -> None:
        await api.hub.stop()

    app.on_shutdown.append(stop)
