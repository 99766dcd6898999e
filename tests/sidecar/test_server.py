"""What no route is about: health, unknown paths and methods, bytes that are no request, start and stop."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import pytest

from perdure.errors import ConfigurationError
from perdure.sidecar import HttpServer


@pytest.mark.parametrize("path", ["/v1.0/healthz", "/v1.0/healthz/outbound"])
async def test_dapr_s_health(call: Any, node: Any, path: str) -> None:
    assert (await call("GET", path)).status == 204
    node.unready = "draining"
    answer = await call("GET", path)
    assert (answer.status, answer.code) == (500, "ERR_HEALTH_NOT_READY")
    assert "draining" in answer.json["message"]


async def test_readiness_tells_why_not(call: Any, node: Any) -> None:
    answer = await call("GET", "/readyz")
    assert (answer.status, answer.json) == (200, {"ready": True})
    node.unhealthy = "the store gives no answer"
    answer = await call("GET", "/readyz")
    assert (answer.status, answer.json) == (503, {"ready": False, "reason": "the store gives no answer"})
    node.unready = "starting"
    assert (await call("GET", "/readyz")).json["reason"] == "starting"


async def test_liveness_does_not_depend_on_the_store(call: Any, node: Any) -> None:
    node.unready = node.unhealthy = "no"
    assert (await call("GET", "/livez")).status == 200


async def test_metadata(call: Any) -> None:
    found = (await call("GET", "/v1.0/metadata")).json
    assert found["id"] == "shop"
    assert found["actors"] == [{"type": "Counter", "count": 2}]
    assert found["workflows"] == ["echo", "waiter"]
    assert found["activities"] == ["charge"]
    assert found["actorRuntime"]["runtimeStatus"] == "RUNNING"
    assert found["node"]["id"] == "node-1"
    assert found["node"]["store"] == "memory://"


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1.0", "/v1.0/workflows", "/v1.0/workflows/dapr/x/start/y", "//"]
)
async def test_an_unknown_path(call: Any, path: str) -> None:
    answer = await call("GET", path)
    assert (answer.status, answer.code) == (404, "ERR_NOT_FOUND")
    assert "/openapi.json" in answer.json["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1.0/workflows/dapr/echo/start", {"POST"}),
        ("POST", "/v1.0/workflows/dapr", {"GET"}),
        ("DELETE", "/v1.0/workflows/dapr/x", {"GET"}),
        ("PATCH", "/v1.0/actors/Counter/1/method/echo", {"POST", "PUT", "GET", "DELETE"}),
        ("PROPFIND", "/livez", {"GET"}),
    ],
)
async def test_a_method_that_is_not_allowed(call: Any, method: str, path: str, allowed: set[str]) -> None:
    answer = await call(method, path)
    assert (answer.status, answer.code) == (405, "ERR_METHOD_NOT_ALLOWED")
    assert set(answer.headers["Allow"].split(", ")) - {"HEAD"} == allowed


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_request(server: HttpServer, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b'{"errorCode":"ERR_MALFORMED_REQUEST"' in answer


async def test_head_is_get_without_the_body(call: Any) -> None:
    answer = await call("HEAD", "/livez")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "13")
    # …but not where GET calls a method.
    assert (await call("HEAD", "/v1.0/actors/Counter/1/method/echo")).status == 405


async def test_pages_of_other_sites_cannot_start_anything(call: Any, node: Any) -> None:
    sent = {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    answer = await call("POST", "/v1.0/workflows/dapr/echo/start", "1", headers=sent)
    assert (answer.status, answer.code) == (403, "ERR_CROSS_SITE")
    assert node.workflows.calls == []
    assert (await call("GET", "/v1.0/workflows/dapr", headers=sent)).status == 200


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("node-1", "http://node-1:80"),
    ],
)
async def test_the_address_that_others_are_told(node: Any, host: str, url: str) -> None:
    assert HttpServer(node, host, 80).url == url


async def test_the_port_in_use_is_known(node: Any, server: HttpServer) -> None:
    assert server.port > 0
    other = HttpServer(node, port=server.port)
    with pytest.raises(ConfigurationError, match=rf"cannot listen on 127.0.0.1:{server.port}: .*in use"):
        await other.start()
    await other.stop()


async def test_stop_finishes_requests_in_progress_and_ends_long_polls(node: Any) -> None:
    server = HttpServer(node, port=0, drain_seconds=5)
    await server.start()
    async with aiohttp.ClientSession(server.url) as session:
        await session.post("/v1.0/workflows/dapr/waiter/start?instanceID=x")
        entered, leave = asyncio.Event(), asyncio.Event()
        pause = node.workflows.pause

        async def slow(instance_id: str, reason: str = "") -> None:
            entered.set()
            await leave.wait()
            await pause(instance_id, reason)

        node.workflows.pause = slow
        polling = asyncio.create_task(session.get("/v1.0/workflows/dapr/x/wait?timeout=60"))
        pausing = asyncio.create_task(session.post("/v1.0/workflows/dapr/x/pause"))
        await entered.wait()
        await node.workflows.seen("wait", "x", "finished", 60.0)
        stopping = asyncio.create_task(server.stop())
        poll = await polling
        assert (poll.status, (await poll.json())["errorCode"]) == (503, "ERR_UNAVAILABLE")
        assert not stopping.done()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("/livez", headers={"Connection": "close"})
        leave.set()
        assert (await pausing).status == 202
        await stopping
    await server.stop()


async def test_a_connection_that_was_just_accepted_is_answered(node: Any) -> None:
    server = HttpServer(node, port=0, drain_seconds=5)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    while not server._silent:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await stopping


async def test_requests_are_not_logged_at_info(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "perdure")
    await call("GET", "/livez")
    await call("GET", "/livez")
    assert not caplog.records


async def test_requests_are_logged_at_debug(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "perdure")
    await call("GET", "/livez?x=1")
    # A request is logged after its answer went out: the next one on the connection comes after that.
    await call("GET", "/livez")
    record = caplog.records[0]
    assert (record.name, record.message) == ("perdure.sidecar", "request")
    logged = dict(record.perdure_fields)  # type: ignore[attr-defined]
    assert logged.pop("ms") >= 0
    assert logged == {"method": "GET", "path": "/livez", "status": 200}


async def test_crashes_are_logged(call: Any, node: Any, caplog: pytest.LogCaptureFixture) -> None:
    node.workflows.error = ZeroDivisionError("inside")
    answer = await call("GET", "/v1.0/workflows/dapr/x")
    assert (answer.status, answer.code) == (500, "ERR_GET_WORKFLOW")
    assert "ZeroDivisionError: inside" in caplog.text
