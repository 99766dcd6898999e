"""Where an API token is set, nothing but health is answered without it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from perdure.errors import ConfigurationError
from perdure.sidecar import HttpServer
from perdure.sidecar.openapi import describe_api
from perdure.sidecar.server import make_app

TOKEN = "a secret: ~!"
LIST = "/v1.0/workflows/dapr"


@pytest.fixture
async def server(node: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(node, port=0, drain_seconds=5, api_token=TOKEN)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def call(server: HttpServer, caller: Any) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession() as session:
        yield caller(session, server)


@pytest.mark.parametrize("path", ["/v1.0/healthz", "/v1.0/healthz/outbound", "/livez", "/readyz"])
async def test_health_needs_none(call: Any, path: str) -> None:
    assert (await call("GET", path)).status in (200, 204)
    assert (await call("HEAD", path)).status in (200, 204)


def test_which_routes_need_none(node: Any) -> None:
    """Whoever adds a route gets the token's protection without doing anything."""
    from perdure.sidecar.token import OPEN

    assert set(describe_api("1", 1)["paths"]) >= OPEN
    assert sorted(OPEN) == ["/livez", "/readyz", "/v1.0/healthz", "/v1.0/healthz/outbound"]


@pytest.mark.parametrize("path", sorted(set(describe_api("1", 1)["paths"]) - {"/livez", "/readyz"}))
async def test_everything_else_does(call: Any, node: Any, path: str) -> None:
    if path.startswith("/v1.0/healthz"):
        return
    for method in describe_api("1", 1)["paths"][path]:
        answer = await call(method.upper(), path.replace("{", "").replace("}", ""))
        assert (answer.status, answer.code) == (401, "ERR_API_TOKEN"), (method, path)
        assert "dapr-api-token" in answer.json["message"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert node.workflows.calls == []


async def test_what_is_not_there_is_not_told(call: Any) -> None:
    assert (await call("GET", "/nothing/here")).status == 401
    assert (await call("GET", "/v1.0%2Fhealthz")).status == 401
    assert (await call("DELETE", "/livez")).status == 401


@pytest.mark.parametrize(
    "headers", [{"dapr-api-token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}, {"Dapr-Api-Token": TOKEN}]
)
async def test_the_right_token(call: Any, headers: dict[str, str]) -> None:
    assert (await call("GET", LIST, headers=headers)).json == {"instances": []}


@pytest.mark.parametrize(
    "headers",
    [
        {"dapr-api-token": "another"},
        {"dapr-api-token": TOKEN[:-1]},
        {"dapr-api-token": TOKEN + "x"},
        {"dapr-api-token": ""},
        {"dapr-api-token": "é"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        # The header that Dapr has goes before the other.
        {"dapr-api-token": "wrong", "Authorization": f"Bearer {TOKEN}"},
    ],
)
async def test_a_wrong_token(call: Any, headers: dict[str, str]) -> None:
    answer = await call("GET", LIST, headers=headers)
    assert (answer.status, answer.code) == (401, "ERR_API_TOKEN")


@pytest.mark.parametrize("token", ["", " x", "x\n", "é", "a\x00b"])
def test_what_no_header_can_carry_is_refused_at_start(node: Any, token: str) -> None:
    with pytest.raises(ConfigurationError, match="API token"):
        make_app(node, api_token=token)


async def test_without_a_token_nothing_is_asked(node: Any, caller: Any) -> None:
    server = HttpServer(node, port=0)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            answer = await caller(session, server)("GET", LIST, headers={"dapr-api-token": "any"})
            assert answer.status == 200
    finally:
        await server.stop()
