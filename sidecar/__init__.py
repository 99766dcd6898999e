"""The node's HTTP API: Dapr's workflow and actor calls, and what is beyond them.

`facade` says what it needs of a node, `server` is the application and its life; one file per group of routes
(`workflows`, `actors`, `health`), `openapi` describes them all.
"""

from perdure.sidecar.facade import Actors, Facade
from perdure.sidecar.server import MAX_BODY, HttpServer, make_app

__all__ = ["MAX_BODY", "Actors", "Facade", "HttpServer", "make_app"]
