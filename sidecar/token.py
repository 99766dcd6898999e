"""The API token: whoever asks for anything must show it, where one is set."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

from perdure.sidecar.errors import Handler, error_response

#: Dapr's header; `Authorization: Bearer …` is taken, too.
HEADER = "dapr-api-token"
#: What has to answer somebody who knows nothing: whether the node lives and serves.
OPEN = frozenset({"/v1.0/healthz", "/v1.0/healthz/outbound", "/livez", "/readyz"})
#: Routes that need no token either: whoever serves pages that hold no data adds them here.
OPEN_PATHS: web.AppKey[set[str]] = web.AppKey("open_paths", set)

Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def token_required(token: str) -> Middleware:
    """Refuses every request without this token, but for those of `OPEN` and of the application's `OPEN_PATHS`."""
    wanted = token.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        # By the route that was matched, not by the path as it is written: that can be written in many ways.
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else None
        if path in OPEN or path in request.app[OPEN_PATHS]:
            return await handler(request)
        given = shown(request)
        # In constant time: how much of a wrong token is right must not be measurable.
        if given is not None and hmac.compare_digest(given, wanted):
            return await handler(request)
        return refusal(given is not None)

    return check


def shown(request: web.Request) -> bytes | None:
    """The token that a request shows; None: it shows none."""
    given = request.headers.get(HEADER)
    if given is None:
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        given = value.strip() if kind.lower() == "bearer" else None
    return None if given is None else given.encode("utf-8", "surrogateescape")


def refusal(wrong: bool) -> web.Response:
    said = "the API token is not the one of this node" if wrong else "this node wants an API token"
    response = error_response(
        401,
        "ERR_API_TOKEN",
        f"{said}: send it as the header {HEADER}, or as 'Authorization: Bearer …'; "
        "perdure commands take it from PERDURE_API_TOKEN",
    )
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def valid_token(token: str) -> bool:
    """Whether a header can carry it as it is."""
    return bool(token) and token.isascii() and token.isprintable() and token == token.strip()
