"""What a look at the whole store finds, as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from perdure.sidecar.facade import Facade
from perdure.sidecar.routes import Route, json_response
from perdure.statestore.contract import Finding


def findings_json(findings: Iterable[Finding]) -> dict[str, Any]:
    return {
        "findings": [
            {"level": one.level, "subject": one.subject, "said": one.said}
            | ({"advice": one.advice} if one.advice else {})
            for one in findings
        ]
    }


class DoctorApi:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    def routes(self) -> list[Route]:
        return [Route("GET", "/v1.0/doctor", self.examine, "ERR_DOCTOR")]

    async def examine(self, request: web.Request) -> web.Response:
        return json_response(findings_json(await self._facade.examine()))
