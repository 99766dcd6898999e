"""The HTTP API of a real node."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

BASE = "/v1.0/workflows/dapr"
WORKFLOW = "dapr.internal.default.shop.workflow"


@pytest.fixture
async def call(real_node: Any, caller: Any) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession() as session:
        yield caller(session, SimpleNamespace(url=real_node.url))


@pytest.fixture
def id() -> str:
    return uuid.uuid4().hex


async def test_a_workflow_from_start_to_purge(call: Any, id: str) -> None:
    assert (await call("POST", f"{BASE}/twice/start?instanceID={id}", "21")).json == {"instanceID": id}
    found = (await call("GET", f"{BASE}/{id}/wait")).json
    assert found["runtimeStatus"] == "COMPLETED"
    assert found["properties"] == {"dapr.workflow.input": "21", "dapr.workflow.output": "42"}
    assert (await call("GET", f"{BASE}/{id}")).json == found
    history = (await call("GET", f"{BASE}/{id}/history?limit=3")).json
    assert [event["type"] for event in history["events"]] == [
        "ExecutionStarted",
        "TaskScheduled",
        "TaskCompleted",
    ]
    assert history["next"] == 3
    assert history["events"][1]["input"] == 21
    assert (await call("POST", f"{BASE}/{id}/purge")).json == {}
    assert (await call("GET", f"{BASE}/{id}")).status == 404
    assert (await call("GET", f"{BASE}/{id}/history")).status == 404


async def test_steering(call: Any, id: str) -> None:
    started = f"/v1.0/actors/{WORKFLOW}/{id}.x/method/start"
    assert (await call("POST", started, '{"name": "waiter"}')).json == {"instanceID": f"{id}.x"}
    one = f"{BASE}/{id}.x"
    waiting = asyncio.create_task(call("GET", f"{one}/wait?timeout=60"))
    assert (await call("POST", started, '{"name": "waiter"}')).code == "ERR_INSTANCE_ALREADY_EXISTS"
    assert (await call("POST", f"{one}/purge")).code == "ERR_PURGE_WORKFLOW"
    assert (await call("POST", f"{one}/pause?reason=lunch")).status == 202
    found = (await call("GET", one)).json
    assert (found["runtimeStatus"], found["reason"]) == ("SUSPENDED", "lunch")
    assert (await call("POST", f"{one}/raiseEvent/GO", '{"by":"ann"}')).status == 202
    assert (await call("POST", f"{one}/resume")).status == 202
    assert (await waiting).json["properties"] == {
        "dapr.workflow.custom_status": '{"step":1}',
        "dapr.workflow.output": '{"by":"ann"}',
    }
    assert (await call("POST", f"{one}/raiseEvent/go")).code == "ERR_RAISE_EVENT_WORKFLOW"


async def test_terminate(call: Any, id: str) -> None:
    await call("POST", f"{BASE}/waiter/start?instanceID={id}")
    assert (await call("POST", f"{BASE}/{id}/terminate", '"gone"')).status == 202
    found = (await call("GET", f"{BASE}/{id}/wait")).json
    assert found["runtimeStatus"] == "TERMINATED"
    assert found["properties"]["dapr.workflow.output"] == '"gone"'


async def test_a_name_that_nobody_registered(call: Any, id: str) -> None:
    assert (await call("POST", f"{BASE}/nothing/start?instanceID={id}")).status == 202
    found = (await call("GET", f"{BASE}/{id}/wait")).json
    assert found["runtimeStatus"] == "FAILED"
    assert "nothing" in found["properties"]["dapr.workflow.failure.error_message"]


async def test_lists(call: Any, id: str) -> None:
    for number in range(3):
        await call("POST", f"{BASE}/waiter/start?instanceID={id}-{number}")
    await call("POST", f"{BASE}/{id}-1/terminate")
    query = f"prefix={id}&limit=1&name=waiter&status=running"
    first = (await call("GET", f"{BASE}?{query}")).json
    second = (await call("GET", f"{BASE}?{query}&cursor={first['cursor']}")).json
    ids = [one["instanceID"] for page in (first, second) for one in page["instances"]]
    assert ids == [f"{id}-2", f"{id}-0"]


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", ""),
        ("GET", "/wait?timeout=5"),
        ("GET", "/history"),
        ("POST", "/raiseEvent/go"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/terminate"),
        ("POST", "/purge"),
    ],
)
async def test_an_unknown_instance(call: Any, id: str, method: str, rest: str) -> None:
    answer = await call(method, f"{BASE}/{id}{rest}")
    assert (answer.status, answer.code) == (404, "ERR_INSTANCE_ID_NOT_FOUND")


@pytest.mark.parametrize(
    "cursor", ["nonsense", "[]", "[1,2]", "%5B%221%22,%22x%22%5D", "null", "%5B-1e999,1%5D"]
)
async def test_a_cursor_that_is_none(call: Any, cursor: str) -> None:
    answer = await call("GET", f"{BASE}?cursor={cursor}")
    assert (answer.status, answer.code) == (400, "ERR_INVALID_INPUT")


@pytest.mark.parametrize(
    "start", ["x", "history-", "history-1", "history-000001", "history-" + "9" * 30, "a||b", "%F0%9F%98%80"]
)
async def test_keys_from_anywhere(call: Any, start: str) -> None:
    answer = await call("GET", f"/v1.0/actors/Counter/1/state?start={start}&prefix={start}")
    assert answer.status == 200


async def test_state_of_an_instance(call: Any, id: str) -> None:
    await call("POST", f"{BASE}/waiter/start?instanceID={id}")
    await call("GET", f"{BASE}/{id}/wait?until=started")
    state = f"/v1.0/actors/{WORKFLOW}/{id}/state"
    keys = [key["key"] for key in (await call("GET", state)).json["keys"]]
    assert keys == ["customStatus", "metadata", "history-000000"]
    assert (await call("GET", f"{state}/customStatus")).json == {"step": 1}
    event = (await call("GET", f"{state}/history-000000")).json
    assert (event["type"], event["name"]) == ("ExecutionStarted", "waiter")
    assert (await call("GET", f"{state}/metadata")).json["status"] == "running"
    assert (await call("GET", f"{state}/none")).code == "ERR_ACTOR_STATE_NOT_FOUND"


async def test_actors(call: Any, id: str) -> None:
    one = f"/v1.0/actors/Counter/{id}"
    assert (await call("POST", f"{one}/method/add", "2")).json == 2
    assert (await call("PUT", f"{one}/method/add")).json == 3
    answer = await call("POST", f"{one}/method/fail")
    assert (answer.status, answer.code) == (500, "ERR_ACTOR_INVOKE_METHOD")
    assert "ValueError" in answer.json["message"]
    assert (await call("POST", f"{one}/method/none")).status == 404
    assert (await call("POST", f"{one}/method/add", '"x"')).status == 400
    answer = await call("POST", f"/v1.0/actors/None/{id}/method/add")
    assert (answer.status, answer.code) == (404, "ERR_ACTOR_NO_ADDRESS")
    assert [key["key"] for key in (await call("GET", f"{one}/state")).json["keys"]] == ["count"]
    assert (await call("GET", f"{one}/state/count")).json == 3
    assert (await call("GET", f"{one}/state/none")).status == 204


async def test_reminders(call: Any, id: str) -> None:
    one = f"/v1.0/actors/Counter/{id}"
    assert (await call("POST", f"{one}/method/remind")).status in (200, 204)
    found = (await call("GET", f"{one}/reminders")).json["reminders"]
    assert [reminder["name"] for reminder in found] == ["later"]


async def test_the_node(call: Any) -> None:
    assert (await call("GET", "/readyz")).json == {"ready": True}
    assert (await call("GET", "/v1.0/healthz")).status == 204
    found = (await call("GET", "/v1.0/metadata")).json
    assert (found["id"], found["workflows"], found["activities"]) == ("shop", ["twice", "waiter"], ["double"])
    assert "Counter" in {active["type"] for active in found["actors"]}


async def test_the_cluster(call: Any, id: str) -> None:
    """One process is a cluster of one."""
    await call("POST", f"{BASE}/waiter/start?instanceID={id}")
    await call("POST", f"/v1.0/actors/Counter/{id}/method/add")
    found = (await call("GET", "/v1.0/cluster")).json
    [one] = found["nodes"]
    assert (one["this"], one["leads"], one["answered"]) == (True, True, True)
    assert (one["appID"], one["namespace"], one["weight"]) == ("shop", "default", 1)
    assert (one["workflows"], one["activities"]) == (["twice", "waiter"], ["double"])
    assert one["partitions"] == {WORKFLOW: found["partitions"], "Counter": found["partitions"]}
    assert one["activations"]["Counter"] >= 1
    assert one["activations"][WORKFLOW] >= 1
    assert one["startedAt"].startswith("20")
    assert (one["clockDifference"], one["roundTrip"]) == (0, 0)
    assert found["handovers"] == []
    assert {kind["name"] for kind in found["actorTypes"]} == {WORKFLOW, "Counter"}
