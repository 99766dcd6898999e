"""The actor routes: calls, the start of a workflow by a call, state keys, reminders."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.statestore.contract import ActorId, Reminder
from perdure.workflow import events

WORKFLOW = "dapr.internal.default.shop.workflow"
START = f"/v1.0/actors/{WORKFLOW}/order-7/method/start"
AT = 1767323045678901


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_call_hands_json_both_ways(call: Any, method: str) -> None:
    answer = await call(method, "/v1.0/actors/Counter/1/method/echo", '{"n": 1.50}')
    assert (answer.status, answer.body) == (200, b'{"n": 1.50}')
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE"])
async def test_a_method_without_a_result(call: Any, method: str) -> None:
    answer = await call(method, "/v1.0/actors/Counter/1/method/echo")
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("None/1/method/add", 404, "ERR_ACTOR_NO_ADDRESS"),
        ("Counter/1/method/none", 404, "ERR_NOT_FOUND"),
        ("Counter/1/method/fail", 500, "ERR_ACTOR_INVOKE_METHOD"),
        ("Counter/1/method/", 400, "ERR_ACTOR_METHOD_MISSING"),
        ("Counter//method/echo", 400, "ERR_ACTOR_INSTANCE_MISSING"),
        ("/1/method/echo", 400, "ERR_ACTOR_INSTANCE_MISSING"),
        ("Counter/a%2Fb/method/echo", 400, "ERR_ACTOR_ID_INVALID"),
        (f"Counter/{'x' * 257}/method/echo", 400, "ERR_ACTOR_ID_TOO_LONG"),
        (f"Counter/{'%C3%A4' * 129}/method/echo", 400, "ERR_ACTOR_ID_TOO_LONG"),
        ("Cou%00nter/1/method/echo", 400, "ERR_ACTOR_TYPE_INVALID"),
    ],
)
async def test_a_call_that_cannot_be_made(call: Any, path: str, status: int, code: str) -> None:
    answer = await call("POST", f"/v1.0/actors/{path}")
    assert (answer.status, answer.code) == (status, code)


async def test_a_call_with_a_body_that_is_no_json(call: Any) -> None:
    answer = await call("POST", "/v1.0/actors/Counter/1/method/echo", "x")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_an_actor_call_starts_a_workflow(call: Any, node: Any, method: str) -> None:
    answer = await call(method, START, '{"input": { "n":1.50 } , "name": "waiter"}')
    assert (answer.status, answer.json) == (202, {"instanceID": "order-7"})
    assert node.workflows.calls == [("start", "waiter", b'{ "n":1.50 }', "order-7")]


async def test_an_actor_call_starts_without_input(call: Any, node: Any) -> None:
    await call("POST", START, '{"name": "waiter"}')
    assert node.workflows.calls == [("start", "waiter", None, "order-7")]


async def test_an_actor_call_has_the_wide_rule_for_ids(call: Any) -> None:
    answer = await call("POST", f"/v1.0/actors/{WORKFLOW}/order.7:%20a/method/start", '{"name": "waiter"}')
    assert answer.json == {"instanceID": "order.7: a"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "ERR_MALFORMED_REQUEST"),
        ("x", "ERR_MALFORMED_REQUEST"),
        ("[]", "ERR_MALFORMED_REQUEST"),
        ("{}", "ERR_MALFORMED_REQUEST"),
        ('{"name": 1}', "ERR_MALFORMED_REQUEST"),
        ('{"name": "x", "inputs": 1}', "ERR_MALFORMED_REQUEST"),
        ('{"name": "x", "input": "\\ud800"}', "ERR_MALFORMED_REQUEST"),
        ('{"name": ""}', "ERR_WORKFLOW_NAME_MISSING"),
        ('{"name": "a\\u0000b"}', "ERR_WORKFLOW_NAME_INVALID"),
        ('{"name": "' + "x" * 257 + '"}', "ERR_WORKFLOW_NAME_INVALID"),
    ],
)
async def test_a_start_by_actor_call_that_is_none(call: Any, node: Any, body: str, code: str) -> None:
    answer = await call("POST", START, body)
    assert (answer.status, answer.code) == (400, code)
    assert node.workflows.calls == []


async def test_an_actor_call_raises_an_event(call: Any, node: Any) -> None:
    await call("POST", START, '{"name": "waiter"}')
    path = START.replace("start", "raise")
    answer = await call("POST", path, '{"name": "go", "data": {"n": 1.50}}')
    assert answer.status == 202
    assert node.workflows.calls[-1] == ("raise_event", "order-7", "go", b'{"n": 1.50}')
    answer = await call("POST", path, '{"name": "go"}')
    assert (answer.status, answer.code) == (409, "ERR_ACTOR_INVOKE_METHOD")
    for body in ("", "[]", '{"data": 1}', '{"name": "x", "input": 1}'):
        answer = await call("POST", path, body)
        assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    answer = await call("POST", path, '{"name": ""}')
    assert (answer.status, answer.code) == (400, "ERR_WORKFLOW_EVENT_NAME_MISSING")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{WORKFLOW}/x/method/CreateWorkflowInstance"),
        ("GET", f"{WORKFLOW}/x/method/raise"),
        ("GET", f"{WORKFLOW}/x/method/start"),
        ("DELETE", f"{WORKFLOW}/x/method/start"),
        ("POST", "dapr.internal.default.shop.activity/x::0::1/method/start"),
        ("POST", "dapr.internal.anything/x/method/start"),
    ],
)
async def test_nothing_else_of_the_runtime_can_be_called(call: Any, method: str, path: str) -> None:
    answer = await call(method, f"/v1.0/actors/{path}")
    assert (answer.status, answer.code) == (403, "ERR_ACTOR_TYPE_RESERVED")


async def test_another_app_s_workflows_are_not_here(call: Any) -> None:
    path = "/v1.0/actors/dapr.internal.default.other.workflow/x/method/start"
    answer = await call("POST", path, '{"name": "waiter"}')
    assert (answer.status, answer.code) == (404, "ERR_ACTOR_NO_ADDRESS")


@pytest.fixture
def stored(node: Any) -> Any:
    actor = ActorId(WORKFLOW, "order-7")
    node.actors.values[actor] = {
        "customStatus": b'{"step":1}',
        "history-000000": events.encode(
            events.ExecutionStarted(at=AT, name="w", start_id="s", execution_id="e", input=b"[1]")
        ),
        "history-000001": events.encode(
            events.TaskScheduled(at=AT, id=0, name="charge", nonce=b"\xff\x00", key="k", input=b"no json")
        ),
        "metadata": msgspec.msgpack.encode({"created": AT, "generation": 2}),
    }
    node.actors.values[ActorId("Counter", "1")] = {"count": b"5", "a/b": b"{}"}
    return node.actors


BASE = f"/v1.0/actors/{WORKFLOW}/order-7"


async def test_state_keys_are_listed_and_paged(call: Any, stored: Any) -> None:
    found = (await call("GET", f"{BASE}/state?prefix=history-")).json
    assert [key["key"] for key in found["keys"]] == ["history-000000", "history-000001"]
    assert all(key["size"] > 0 for key in found["keys"])
    first = (await call("GET", f"{BASE}/state?limit=3")).json
    second = (await call("GET", f"{BASE}/state?start={first['cursor']}")).json
    assert [key["key"] for key in second["keys"]] == ["metadata"]
    assert "cursor" not in second


async def test_an_actor_that_does_not_exist_has_no_keys(call: Any) -> None:
    assert (await call("GET", "/v1.0/actors/Counter/none/state")).json == {"keys": []}


async def test_a_value_is_shown_decoded(call: Any, stored: Any) -> None:
    time = "2026-01-02T03:04:05.678901Z"
    assert (await call("GET", f"{BASE}/state/customStatus")).json == {"step": 1}
    assert (await call("GET", f"{BASE}/state/metadata")).json == {"created": time, "generation": 2}
    assert (await call("GET", f"{BASE}/state/history-000001")).json == {
        "type": "TaskScheduled",
        "at": time,
        "id": 0,
        "name": "charge",
        "nonce": {"base64": "/wA="},
        "key": "k",
        "input": {"base64": "bm8ganNvbg=="},
    }


async def test_a_user_s_value_is_its_json(call: Any, stored: Any) -> None:
    assert (await call("GET", "/v1.0/actors/Counter/1/state/count")).body == b"5"
    assert (await call("GET", "/v1.0/actors/Counter/1/state/a%2Fb")).json == {}


async def test_a_key_that_is_not_there(call: Any, stored: Any) -> None:
    answer = await call("GET", "/v1.0/actors/Counter/1/state/coun")
    assert (answer.status, answer.body) == (204, b"")
    answer = await call("GET", f"{BASE}/state/history-00000")
    assert (answer.status, answer.code) == (404, "ERR_ACTOR_STATE_NOT_FOUND")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "prefix=%00", "start=" + "x" * 2000])
async def test_state_keys_say_what_is_wrong(call: Any, query: str) -> None:
    answer = await call("GET", f"{BASE}/state?{query}")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "state"),
        ("PUT", "state"),
        ("POST", "reminders/r"),
        ("DELETE", "reminders/r"),
        ("POST", "timers/t"),
        ("DELETE", "timers/t"),
    ],
)
async def test_nothing_of_the_runtime_is_changed_from_outside(call: Any, method: str, path: str) -> None:
    answer = await call(method, f"{BASE}/{path}", "[]")
    assert (answer.status, answer.code) == (403, "ERR_ACTOR_TYPE_RESERVED")


async def test_reminders(call: Any, node: Any) -> None:
    actor = ActorId("Counter", "1")
    node.actors.wakes[actor] = [
        Reminder(actor, "daily", AT, msgspec.msgpack.encode({"period": "P1D", "data": b'"x"'})),
        Reminder(actor, "once", AT),
    ]
    assert (await call("GET", "/v1.0/actors/Counter/1/reminders")).json == {
        "reminders": [
            {
                "name": "daily",
                "dueTime": "2026-01-02T03:04:05.678901Z",
                "data": {"period": "P1D", "data": "x"},
            },
            {"name": "once", "dueTime": "2026-01-02T03:04:05.678901Z", "data": None},
        ]
    }
