"""Health, metrics, metadata and the description of the API."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from aiohttp import web

from perdure.metrics import CONTENT_TYPE
from perdure.sidecar.errors import Refusal
from perdure.sidecar.facade import Facade
from perdure.sidecar.openapi import describe_api
from perdure.sidecar.routes import Route, json_response


class HealthApi:
    def __init__(self, facade: Facade, max_body: int) -> None:
        self._facade = facade
        self._description = json_response(describe_api(version("perdure"), max_body)).body

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1.0/healthz", self.healthz, "ERR_HEALTH_NOT_READY"),
            # What Dapr's SDKs ask before they begin.
            Route("GET", "/v1.0/healthz/outbound", self.healthz, "ERR_OUTBOUND_HEALTH_NOT_READY"),
            Route("GET", "/v1.0/metadata", self.metadata, "ERR_METADATA_GET"),
            Route("GET", "/livez", self.livez, "ERR_INTERNAL"),
            Route("GET", "/readyz", self.readyz, "ERR_INTERNAL"),
            Route("GET", "/metrics", self.metrics, "ERR_INTERNAL"),
            Route("GET", "/openapi.json", self.openapi, "ERR_INTERNAL"),
        ]

    async def healthz(self, request: web.Request) -> web.Response:
        """Dapr's: 204, or 500."""
        why = self._facade.ready()
        if why is not None:
            raise Refusal(500, "ERR_HEALTH_NOT_READY", f"not ready: {why}")
        return web.Response(status=204)

    async def livez(self, request: web.Request) -> web.Response:
        """That this answers at all is the news: the event loop moves."""
        return json_response({"live": True})

    async def readyz(self, request: web.Request) -> web.Response:
        why = self._facade.ready() or await self._facade.healthy()
        if why is not None:
            return json_response({"ready": False, "reason": why}, 503)
        return json_response({"ready": True})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=await self._facade.metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def metadata(self, request: web.Request) -> web.Response:
        """Dapr's document as far as there is something to say, and the node's own description."""
        node = self._facade.describe()
        activations: dict[str, int] = node.get("activations", {})
        types = {*node.get("actor_types", ()), *activations}
        active = [{"type": name, "count": activations.get(name, 0)} for name in sorted(types)]
        ready = self._facade.ready() is None
        found: dict[str, Any] = {
            "id": self._facade.app_id,
            "namespace": self._facade.namespace,
            "runtimeVersion": version("perdure"),
            "actors": active,
            "actorRuntime": {
                "runtimeStatus": "RUNNING" if ready else "INITIALIZING",
                "activeActors": active,
                "hostReady": ready,
            },
            "workflows": sorted(node.get("workflows", ())),
            "activities": sorted(node.get("activities", ())),
            "node": {"id": self._facade.node_id, **node},
        }
        return json_response(found)

    async def openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._description, content_type="application/json")
