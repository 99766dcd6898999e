"""Asynchronous request and reply: a start is accepted, and says where to ask what has become of it."""

from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import quote, urljoin

import pytest

from perdure.workflow.events import ExecutionStarted, decode

VERSIONS = ("v1.0", "v1.0-beta1", "v1.0-alpha1")
START_ID = "0123456789abcdef"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("component", ["dapr", "a%20b", ""])
async def test_where_to_ask(call: Any, version: str, component: str) -> None:
    """Under the same version and component as was asked."""
    base = f"/{version}/workflows/{component}"
    answer = await call("POST", f"{base}/waiter/start?instanceID=%C3%A4-1")
    assert (answer.status, answer.json) == (202, {"instanceID": "ä-1"})
    assert answer.headers["Location"] == f"{base}/%C3%A4-1"
    assert answer.headers["Retry-After"] == "1"
    found = await call("GET", answer.headers["Location"])
    assert (found.status, found.json["runtimeStatus"]) == (200, "RUNNING")
    assert found.headers["Retry-After"] == "1"
    await call("POST", f"{base}/%C3%A4-1/raiseEvent/go", "[1]")
    found = await call("GET", answer.headers["Location"])
    assert found.json["runtimeStatus"] == "COMPLETED"
    assert "Retry-After" not in found.headers


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_call_under_every_version(call: Any, version: str) -> None:
    base = f"/{version}/workflows/dapr"
    assert (await call("POST", f"{base}/waiter/start?instanceID=x")).status == 202
    for verb in ("pause", "resume", "raiseEvent/other", "terminate", "purge"):
        answer = await call("POST", f"{base}/x/{verb}")
        assert (answer.status, answer.json) == (202, {}), verb
    assert (await call("GET", f"{base}/x")).code == "ERR_INSTANCE_ID_NOT_FOUND"
    assert (await call("GET", base)).json == {"instances": []}


@pytest.mark.parametrize("id", ["a b", "50%", "ä?#", "x:y"])
async def test_where_to_ask_after_an_actor_call(call: Any, id: str) -> None:
    path = f"/v1.0/actors/dapr.internal.default.shop.workflow/{quote(id, safe='')}/method/start"
    answer = await call("POST", path, '{"name": "waiter"}')
    assert answer.status == 202
    where = urljoin("http://host/v1.0/", answer.headers["Location"]).removeprefix("http://host")
    assert (await call("GET", where)).json["instanceID"] == id


async def test_the_same_start_again(real_node: Any, caller: Any) -> None:
    import aiohttp

    class Where:
        url = real_node.url

    async with aiohttp.ClientSession() as session:
        call = caller(session, Where)
        base = "/v1.0/workflows/dapr"
        actor = "/v1.0/actors/dapr.internal.default.shop.workflow"
        for path, body in (
            (f"{base}/waiter/start?instanceID=again-1&startID={START_ID}", None),
            (f"{actor}/again%202/method/start?startID={START_ID}", '{"name": "waiter"}'),
        ):
            first = await call("POST", path, body)
            second = await call("POST", path, body)
            assert (first.status, first.json) == (second.status, second.json) == (202, first.json)
            other = await call("POST", path.replace(START_ID, START_ID[::-1]), body)
            assert (other.status, other.code) == (409, "ERR_INSTANCE_ALREADY_EXISTS")
            assert other.headers["perdure-error"] == "ERR_INSTANCE_ALREADY_EXISTS"


@pytest.mark.parametrize("value", ["", "short", "x" * 65, "with%20space-1234567", "%C3%A4" * 16])
async def test_what_is_no_start_id(call: Any, value: str) -> None:
    answer = await call("POST", f"/v1.0/workflows/dapr/echo/start?startID={value}")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    assert "startID" in answer.json["message"]


async def test_an_app_id(call: Any, node: Any) -> None:
    base = "/v1.0/workflows/dapr"
    assert (await call("POST", f"{base}/waiter/start?instanceID=x&appID=shop")).status == 202
    assert (await call("GET", f"{base}/x?appID=")).status == 200
    calls = len(node.workflows.calls)
    for method, path in (
        ("POST", "waiter/start"),
        ("GET", ""),
        ("GET", "x"),
        ("POST", "x/terminate"),
        ("GET", "x/history"),
    ):
        answer = await call(method, f"{base}{'/' if path else ''}{path}?appID=bank")
        assert (answer.status, answer.code) == (404, "ERR_WORKFLOW_APP_ID_INVALID")
        assert "'shop', not 'bank'" in answer.json["message"]
    assert len(node.workflows.calls) == calls


async def test_a_list_of_a_time(call: Any) -> None:
    base = "/v1.0/workflows/dapr"
    for id in ("a", "b", "c"):
        await call("POST", f"{base}/waiter/start?instanceID={id}")
    times = {one["instanceID"]: one["createdAt"] for one in (await call("GET", base)).json["instances"]}

    async def ids(query: str) -> list[str]:
        return [one["instanceID"] for one in (await call("GET", f"{base}?{query}")).json["instances"]]

    assert await ids(f"createdFrom={times['b']}") == ["c", "b"]
    assert await ids(f"createdTo={times['b']}") == ["a"]
    east = times["b"].replace("Z", "%2B00:00")
    assert await ids(f"createdFrom={east}&createdTo={times['c']}") == ["b"]


@pytest.mark.parametrize(
    "value", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "1"]
)
async def test_what_is_no_time(call: Any, value: str) -> None:
    answer = await call("GET", f"/v1.0/workflows/dapr?createdFrom={value}")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    assert "2026-01-31T13:00:00Z" in answer.json["message"]


async def test_events_as_they_are_stored(call: Any, node: Any) -> None:
    base = "/v1.0/workflows/dapr"
    await call("POST", f"{base}/echo/start?instanceID=x", '{ "a": 1.0 }')
    found = (await call("GET", f"{base}/x/history?stored=true&limit=1")).json
    assert found["next"] == 1
    [one] = found["events"]
    assert one.keys() == {"number", "stored"}
    event = decode(b64decode(one["stored"]))
    assert isinstance(event, ExecutionStarted)
    assert event.input == b'{ "a": 1.0 }'
    assert event == node.workflows.events["x"][0]
