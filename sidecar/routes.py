"""How a group of handlers says what it serves."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

import msgspec
from aiohttp import web

from perdure.sidecar.errors import FAILURE_CODES, Handler

#: Dapr serves its API under each of these.
VERSIONS = ("v1.0", "v1.0-beta1", "v1.0-alpha1")

_encoder = msgspec.json.Encoder(enc_hook=str)


class Route(NamedTuple):
    method: str
    path: str
    handler: Handler
    #: Dapr's error code when the operation fails for a reason that has none of its own.
    failure_code: str
    #: Whether GET has no effect.
    safe: bool = True


def add_routes(app: web.Application, routes: list[Route]) -> None:
    """Serves these, too, with HEAD wherever GET has no effect."""
    for route in routes:
        resource = app.router.add_resource(route.path)
        resource.add_route(route.method, route.handler)
        if route.method == "GET" and route.safe:
            resource.add_route("HEAD", route.handler)
        app[FAILURE_CODES][route.handler] = route.failure_code


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=_encoder.encode(value), content_type="application/json")


def accepted() -> web.Response:
    """What Dapr answers when something was done that has no result."""
    return web.Response(status=202, body=b"{}", content_type="application/json")


#: What those who ask for the outcome over and over are told: seconds until the next time.
RETRY_AFTER = "1"


def started_response(instance_id: str, collection: str) -> web.Response:
    """What Dapr answers to a start, and where to ask what has become of it: `collection` is the path of all
    instances."""
    response = json_response({"instanceID": instance_id}, 202)
    response.headers["Location"] = f"{collection}/{quote(instance_id, safe='')}"
    response.headers["Retry-After"] = RETRY_AFTER
    return response
