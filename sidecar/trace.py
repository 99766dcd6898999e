"""The trace that a request is part of, for what it starts."""

from __future__ import annotations

from aiohttp import web

from perdure.sidecar.errors import Handler
from perdure.workflow.trace import INCOMING, read


@web.middleware
async def trace_context(request: web.Request, handler: Handler) -> web.StreamResponse:
    """W3C's headers; what cannot be understood counts as not sent, as W3C wants it."""
    given = request.headers.get("traceparent")
    if given is None:
        return await handler(request)
    # One task serves all requests of a connection: the next one is another's.
    token = INCOMING.set(read(given.strip(), ",".join(request.headers.getall("tracestate", ()))))
    try:
        return await handler(request)
    finally:
        INCOMING.reset(token)
