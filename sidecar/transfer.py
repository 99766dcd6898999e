"""Export and import of instances: each as one JSON document, with every state key as it is stored."""

from __future__ import annotations

import asyncio

from aiohttp import web

from perdure.errors import InvalidInput
from perdure.sidecar.errors import Refusal
from perdure.sidecar.facade import Facade
from perdure.sidecar.requests import checked_id, flag, instance_id, malformed
from perdure.sidecar.routes import Route, accepted
from perdure.workflow import record as records

#: Bytes of one instance at most, as JSON. What is larger is imported into a store that no node has open.
MAX_RECORD = 64 * 1024 * 1024


class TransferApi:
    def __init__(self, facade: Facade) -> None:
        self._transfers = facade.transfers

    def routes(self) -> list[Route]:
        one = "/v1.0/workflows/{component:[^/]*}/{id:[^/]*}"
        return [
            Route("GET", f"{one}/export", self.export, "ERR_EXPORT_WORKFLOW"),
            Route("POST", f"{one}/import", self.restore, "ERR_IMPORT_WORKFLOW"),
        ]

    async def export(self, request: web.Request) -> web.Response:
        found = await self._transfers.export(instance_id(request))
        # In a thread: base64 of a long history takes a while.
        body = await asyncio.to_thread(records.encode, found)
        return web.Response(body=body, content_type="application/json")

    async def restore(self, request: web.Request) -> web.Response:
        id = instance_id(request)
        replace = flag(request, "replace", False)
        found = await asyncio.to_thread(_decoded, await _body(request))
        if found.id != id:
            raise malformed(f"the body is the instance {found.id!r}; the path says {id!r}")
        checked_id(found.type, "actor type", "ERR_ACTOR_TYPE")
        await self._transfers.restore(found, replace=replace)
        return accepted()


def _decoded(body: bytes) -> records.Record:
    try:
        return records.decode(body)
    except InvalidInput as error:
        raise malformed(error.message) from None


async def _body(request: web.Request) -> bytes:
    """The body, which may be larger than others."""
    found = bytearray()
    try:
        async for piece in request.content.iter_chunked(1 << 16):
            found += piece
            if len(found) > MAX_RECORD:
                raise Refusal(
                    413,
                    "ERR_PAYLOAD_TOO_LARGE",
                    f"the instance is larger than {MAX_RECORD} bytes: import it with --store while no node runs",
                )
    except web.RequestPayloadError as error:
        raise malformed(f"the body cannot be read: {error}") from error
    return bytes(found)
