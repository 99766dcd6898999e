"""Starts for later, and starts and events that may be sent again, over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from perdure.errors import KeyReused

BASE = "/v1.0/workflows/dapr"
ACTOR = "/v1.0/actors/dapr.internal.default.shop.workflow"


# --- what reaches the node -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2030-01-31T12:00:00.5Z", datetime(2030, 1, 31, 12, 0, 0, 500_000, UTC)),
        ("2030-01-31T13:00:00%2B01:00", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("90s", timedelta(seconds=90)),
        ("PT1H", timedelta(hours=1)),
        ("0s", timedelta(0)),
    ],
)
async def test_a_start_may_have_a_time(call: Any, node: Any, text: str, wanted: object) -> None:
    answer = await call("POST", f"{BASE}/waiter/start?instanceID=x&startTime={text}")
    assert answer.status == 202
    assert node.workflows.calls == [("start", "waiter", None, "x", ("start_at", wanted))]


async def test_a_start_may_say_more(call: Any, node: Any) -> None:
    query = "ifExists=replace&tag=a=b=c&tag=d="
    given = (("idempotency_key", "a key"), ("if_exists", "replace"), ("tags", {"a": "b=c", "d": ""}))
    headers = {"Idempotency-Key": "a key"}
    await call("POST", f"{BASE}/waiter/start?instanceID=x&{query}", "1", headers=headers)
    assert node.workflows.calls[-1] == ("start", "waiter", b"1", "x", *given)
    await call("POST", f"{ACTOR}/y/method/start?{query}", '{"name":"waiter"}', headers=headers)
    assert node.workflows.calls[-1] == ("start", "waiter", None, "y", *given)


@pytest.mark.parametrize(
    "query",
    [
        "startTime=",
        "startTime=tomorrow",
        "startTime=-5s",
        "startTime=2030-02-31T00:00:00Z",
        "startTime=9999-12-31T23:59:59-01:00",
        "startTime=9999999999h",
        "ifExists=ignore",
        "ifExists=",
        "tag=a",
    ],
)
async def test_what_is_none_of_that_is_refused(call: Any, node: Any, query: str) -> None:
    answer = await call("POST", f"{BASE}/waiter/start?instanceID=x&{query}")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    assert node.workflows.calls == []


async def test_an_event_may_have_a_key(call: Any, node: Any) -> None:
    await call("POST", f"{BASE}/waiter/start?instanceID=x")
    path = f"{BASE}/x/raiseEvent/go"
    assert (await call("POST", path, "1", headers={"Idempotency-Key": "7"})).status == 202
    assert node.workflows.calls[-1] == ("raise_event", "x", "go", b"1", "7")


async def test_another_request_with_the_same_key_is_a_conflict(call: Any, node: Any) -> None:
    node.workflows.error = KeyReused("the idempotency key 'k' was used for another start")
    answer = await call("POST", f"{BASE}/waiter/start", headers={"Idempotency-Key": "k"})
    assert (answer.status, answer.code) == (409, "ERR_IDEMPOTENCY_KEY_REUSED")
    assert "'k'" in answer.json["message"]


# --- a real node ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def real(real_node: Any, caller: Any) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession() as session:
        yield caller(session, SimpleNamespace(url=real_node.url))


@pytest.fixture
def id() -> str:
    return uuid.uuid4().hex


async def test_a_key_without_an_id_gives_one(real: Any, id: str) -> None:
    headers = {"Idempotency-Key": f"order {id} é"}
    first = await real("POST", f"{BASE}/twice/start", "21", headers=headers)
    again = await real("POST", f"{BASE}/twice/start", "21", headers=headers)
    assert (first.status, again.status) == (202, 202)
    assert first.json == again.json
    state = (await real("GET", f"{BASE}/{first.json['instanceID']}/wait")).json
    assert (state["generation"], state["properties"]["dapr.workflow.output"]) == (1, "42")
    other = await real("POST", f"{BASE}/twice/start", "22", headers=headers)
    assert (other.status, other.code) == (409, "ERR_IDEMPOTENCY_KEY_REUSED")


async def test_a_real_start_for_later(real: Any, id: str) -> None:
    await real("POST", f"{BASE}/twice/start?instanceID={id}&startTime=1h", "21")
    state = (await real("GET", f"{BASE}/{id}")).json
    assert state["runtimeStatus"] == "PENDING"
    assert state["scheduledAt"] > state["createdAt"]
    assert "startedAt" not in state
    answer = await real("POST", f"{BASE}/twice/start?instanceID={id}", "5")
    assert (answer.status, answer.code) == (409, "ERR_INSTANCE_ALREADY_EXISTS")
    await real("POST", f"{BASE}/twice/start?instanceID={id}&ifExists=return", "5")
    assert (await real("GET", f"{BASE}/{id}")).json == state
    await real("POST", f"{BASE}/twice/start?instanceID={id}&ifExists=replace&tag=a=b", "5")
    state = (await real("GET", f"{BASE}/{id}/wait")).json
    assert (state["properties"]["dapr.workflow.output"], state["tags"]) == ("10", {"a": "b"})


async def test_a_real_event_with_a_key(real: Any, id: str) -> None:
    await real("POST", f"{BASE}/waiter/start?instanceID={id}")
    path, headers = f"{BASE}/{id}/raiseEvent/go", {"Idempotency-Key": "7"}
    assert (await real("POST", path, "1", headers=headers)).status == 202
    state = (await real("GET", f"{BASE}/{id}/wait")).json
    assert state["properties"]["dapr.workflow.output"] == "1"
    # It was taken, though nobody would take it now.
    assert (await real("POST", path, "1", headers=headers)).status == 202
    assert (await real("POST", path, "2", headers=headers)).code == "ERR_IDEMPOTENCY_KEY_REUSED"
    assert (await real("POST", path, "2", headers={"Idempotency-Key": "8"})).status == 409
    keys = (await real("GET", f"{ACTOR}/{id}/state/accepted")).json
    assert list(keys["events"]) == ["7"]


@pytest.mark.parametrize("bad", ["", "x" * 257])
async def test_a_key_that_cannot_be_one(real: Any, id: str, bad: str) -> None:
    answer = await real("POST", f"{BASE}/waiter/start?instanceID={id}", headers={"Idempotency-Key": bad})
    assert (answer.status, answer.code) == (400, "ERR_INVALID_INPUT")


# --- once more -----------------------------------------------------------------------------------------------------------


async def test_a_finished_instance_is_run_again(real: Any, id: str) -> None:
    await real("POST", f"{BASE}/twice/start?instanceID={id}", "21")
    assert (await real("GET", f"{BASE}/{id}/wait")).json["runtimeStatus"] == "COMPLETED"
    again = await real("POST", f"{BASE}/{id}/rerun")
    assert (again.status, again.headers["Location"]) == (202, f"{BASE}/{again.json['instanceID']}")
    state = (await real("GET", f"{BASE}/{again.json['instanceID']}/wait")).json
    assert state["properties"]["dapr.workflow.output"] == "42"
    other = await real("POST", f"{BASE}/{id}/rerun?fromEvent=1&instanceID={id}-2", "5")
    assert (other.status, other.json) == (202, {"instanceID": f"{id}-2"})
    state = (await real("GET", f"{BASE}/{id}-2/wait")).json
    # The workflow's input is what it was; the activity's is not.
    assert state["properties"] == {"dapr.workflow.input": "21", "dapr.workflow.output": "10"}


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("fromEvent=99", 404, "ERR_NOT_FOUND"),
        ("fromEvent=0", 400, "ERR_INVALID_INPUT"),
        ("fromEvent=-1", 400, "ERR_MALFORMED_REQUEST"),
        ("fromEvent=x", 400, "ERR_MALFORMED_REQUEST"),
        ("instanceID=a%2Fb", 400, "ERR_INSTANCE_ID_INVALID"),
    ],
)
async def test_what_cannot_be_run_again_over_http(
    real: Any, id: str, query: str, status: int, code: str
) -> None:
    await real("POST", f"{BASE}/twice/start?instanceID={id}", "21")
    await real("GET", f"{BASE}/{id}/wait")
    answer = await real("POST", f"{BASE}/{id}/rerun?{query}")
    assert (answer.status, answer.code) == (status, code)


async def test_what_goes_on_is_not_run_again(real: Any, id: str) -> None:
    assert (await real("POST", f"{BASE}/{id}/rerun")).status == 404
    await real("POST", f"{BASE}/waiter/start?instanceID={id}")
    answer = await real("POST", f"{BASE}/{id}/rerun")
    assert (answer.status, answer.code) == (409, "ERR_RERUN_WORKFLOW")
