"""The workflow routes, good and bad."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from perdure.errors import (
    InvalidId,
    OutcomeUnknown,
    PayloadTooLarge,
    PerdureError,
    StoreError,
    StoreUnavailable,
    Unavailable,
)

BASE = "/v1.0/workflows/dapr"


async def start(call: Any, name: str, id: str, body: str | None = None) -> None:
    assert (await call("POST", f"{BASE}/{name}/start?instanceID={id}", body)).status == 202


@pytest.mark.parametrize("version", ["v1.0", "v1.0-beta1", "v1.0-alpha1"])
async def test_start_answers_with_the_id(call: Any, version: str) -> None:
    answer = await call("POST", f"/{version}/workflows/dapr/echo/start?instanceID=order_7-a", "[1]")
    assert (answer.status, answer.json) == (202, {"instanceID": "order_7-a"})


async def test_start_hands_on_the_body_exactly_as_it_came(call: Any, node: Any) -> None:
    body = '{ "b" : 1.50, "a": "\\u00e9" }'
    await start(call, "waiter", "x", body)
    assert node.workflows.calls == [("start", "waiter", body.encode(), "x")]


@pytest.mark.parametrize("query", ["", "?instanceID=", "?unknown=1"])
async def test_start_without_an_id_leaves_it_to_the_node(call: Any, node: Any, query: str) -> None:
    answer = await call("POST", f"{BASE}/waiter/start{query}")
    assert answer.json == {"instanceID": "made-0"}
    assert node.workflows.calls == [("start", "waiter", None, None)]


@pytest.mark.parametrize(
    ("id", "code"),
    [
        ("x" * 65, "ERR_INSTANCE_ID_TOO_LONG"),
        ("a.b", "ERR_INSTANCE_ID_INVALID"),
        ("a%2Fb", "ERR_INSTANCE_ID_INVALID"),
        ("a%20b", "ERR_INSTANCE_ID_INVALID"),
        ("%00", "ERR_INSTANCE_ID_INVALID"),
        ("%ff", "ERR_INSTANCE_ID_INVALID"),
        ("a%0A", "ERR_INSTANCE_ID_INVALID"),
        ("%C2%B2", "ERR_INSTANCE_ID_INVALID"),
    ],
)
async def test_start_has_dapr_s_rule_for_ids(call: Any, id: str, code: str) -> None:
    answer = await call("POST", f"{BASE}/echo/start?instanceID={id}")
    assert (answer.status, answer.code) == (400, code)


async def test_letters_of_any_script_are_letters(call: Any) -> None:
    answer = await call("POST", f"{BASE}/echo/start?instanceID=%C3%A4%E5%AD%97")
    assert answer.json == {"instanceID": "ä字"}


async def test_start_of_an_id_that_runs_is_a_conflict(call: Any) -> None:
    await start(call, "waiter", "x")
    answer = await call("POST", f"{BASE}/waiter/start?instanceID=x")
    assert (answer.status, answer.code) == (409, "ERR_INSTANCE_ALREADY_EXISTS")


async def test_start_without_a_name(call: Any) -> None:
    answer = await call("POST", f"{BASE}//start")
    assert (answer.status, answer.code) == (400, "ERR_WORKFLOW_NAME_MISSING")


@pytest.mark.parametrize("name", ["a%00b", "x" * 257])
async def test_start_with_a_name_that_is_none(call: Any, name: str) -> None:
    answer = await call("POST", f"{BASE}/{name}/start")
    assert (answer.status, answer.code) == (400, "ERR_WORKFLOW_NAME_INVALID")


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"{",
        b'"\xff"',
        b"NaN",
        b" ",
        b"[" * 100_000,
        b'"\\ud800"',
        b"\xef\xbb\xbf1",
        b"1 2",
        b"[1e999]",
    ],
)
async def test_a_body_that_is_not_json_is_refused(call: Any, node: Any, body: bytes) -> None:
    answer = await call("POST", f"{BASE}/echo/start", body)
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    assert answer.json["message"].startswith("the body")
    assert node.workflows.calls == []


async def test_plain_text_is_told_about_quotes(call: Any) -> None:
    answer = await call("POST", f"{BASE}/echo/start", "hello", headers={"Content-Type": "text/plain"})
    assert 'text must be in double quotes: "text"' in answer.json["message"]


async def test_a_body_that_is_too_large(call: Any) -> None:
    answer = await call("POST", f"{BASE}/echo/start", b'"' + b"x" * (4 * 1024 * 1024) + b'"')
    assert (answer.status, answer.code) == (413, "ERR_PAYLOAD_TOO_LARGE")
    assert "4194304" in answer.json["message"]


async def test_a_body_of_exactly_the_limit(call: Any) -> None:
    answer = await call("POST", f"{BASE}/echo/start", b'"' + b"x" * (4 * 1024 * 1024 - 2) + b'"')
    assert answer.status == 202


async def test_a_compressed_body_that_is_broken(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    answer = await call("POST", f"{BASE}/echo/start", b"no gzip", headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    assert answer.json["message"] == "the body cannot be read: Can not decode content-encoding: gzip"
    # Not an error of the node's: nothing that anybody has to look at.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_get_has_dapr_s_fields(call: Any) -> None:
    await start(call, "echo", "x", "[1]")
    assert (await call("GET", f"{BASE}/x")).json == {
        "instanceID": "x",
        "workflowName": "echo",
        "createdAt": "2026-01-02T03:04:05.678901Z",
        "lastUpdatedAt": "2026-01-02T03:04:05.678901Z",
        "runtimeStatus": "COMPLETED",
        "properties": {"dapr.workflow.input": "[1]", "dapr.workflow.output": "[1]"},
        "startedAt": "2026-01-02T03:04:05.678901Z",
        "completedAt": "2026-01-02T03:04:05.678901Z",
        "executionID": "e0",
        "generation": 1,
    }


async def test_get_of_a_failed_instance(call: Any) -> None:
    await start(call, "broken", "x")
    found = (await call("GET", f"{BASE}/x")).json
    assert found["runtimeStatus"] == "FAILED"
    assert found["properties"] == {
        "dapr.workflow.failure.error_type": "NotRegistered",
        "dapr.workflow.failure.error_message": "no workflow 'broken'",
        "dapr.workflow.failure.stack_trace": "line 1\nline 2",
    }


async def test_get_of_a_stalled_instance_says_why(call: Any, node: Any) -> None:
    from perdure.workflow.state import RuntimeStatus

    await start(call, "waiter", "x")
    await node.workflows._set(
        "x", runtime_status=RuntimeStatus.STALLED, reason="changed code", tags={"team": "a"}
    )
    found = (await call("GET", f"{BASE}/x")).json
    assert (found["runtimeStatus"], found["reason"]) == ("STALLED", "changed code")
    assert found["tags"] == {"team": "a"}
    assert found["properties"] == {"dapr.workflow.custom_status": '{"step":1}'}


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", ""),
        ("GET", "/wait"),
        ("GET", "/history"),
        ("POST", "/raiseEvent/go"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/terminate"),
        ("POST", "/purge"),
    ],
)
class TestEveryInstanceRoute:
    async def test_an_unknown_instance(self, call: Any, method: str, rest: str) -> None:
        answer = await call(method, f"{BASE}/none{rest}")
        assert (answer.status, answer.code) == (404, "ERR_INSTANCE_ID_NOT_FOUND")

    async def test_no_id(self, call: Any, method: str, rest: str) -> None:
        answer = await call(method, f"{BASE}/{rest}")
        assert (answer.status, answer.code) == (400, "ERR_INSTANCE_ID_PROVIDED_MISSING")

    @pytest.mark.parametrize(
        ("id", "code"),
        [
            ("x" * 257, "ERR_INSTANCE_ID_TOO_LONG"),
            ("a%2Fb", "ERR_INSTANCE_ID_INVALID"),
            ("a%0D%0Ab", "ERR_INSTANCE_ID_INVALID"),
            ("%C2%85", "ERR_INSTANCE_ID_INVALID"),
            ("%ff", "ERR_MALFORMED_REQUEST"),
            ("%ED%A0%80", "ERR_MALFORMED_REQUEST"),
            ("%zz", "ERR_MALFORMED_REQUEST"),
        ],
    )
    async def test_an_id_that_is_none(self, call: Any, method: str, rest: str, id: str, code: str) -> None:
        answer = await call(method, f"{BASE}/{id}{rest}")
        assert (answer.status, answer.code) == (400, code)

    @pytest.mark.parametrize(
        "id", ["x" * 256, "a%20b", "a:b", "a%25", "..", "%7Bx%7D", "%F0%9F%98%80", "start"]
    )
    async def test_an_unusual_id_is_looked_up(self, call: Any, method: str, rest: str, id: str) -> None:
        answer = await call(method, f"{BASE}/{id}{rest}")
        assert answer.status == 404
        assert answer.code == "ERR_INSTANCE_ID_NOT_FOUND"


async def test_raise_event_hands_on_name_and_data(call: Any, node: Any) -> None:
    await start(call, "waiter", "x")
    answer = await call("POST", f"{BASE}/x/raiseEvent/a%2Fb%20c", '{"n":1}')
    assert (answer.status, answer.json) == (202, {})
    assert node.workflows.calls[-1] == ("raise_event", "x", "a/b c", b'{"n":1}')


async def test_raise_event_without_data(call: Any, node: Any) -> None:
    await start(call, "waiter", "x")
    await call("POST", f"{BASE}/x/raiseEvent/go")
    assert node.workflows.calls[-1] == ("raise_event", "x", "go", None)


async def test_raise_event_without_a_name(call: Any) -> None:
    answer = await call("POST", f"{BASE}/x/raiseEvent/")
    assert (answer.status, answer.code) == (400, "ERR_WORKFLOW_EVENT_NAME_MISSING")


async def test_pause_and_resume(call: Any, node: Any) -> None:
    await start(call, "waiter", "x")
    assert (await call("POST", f"{BASE}/x/pause?reason=for%20lunch")).status == 202
    assert (await call("GET", f"{BASE}/x")).json["reason"] == "for lunch"
    answer = await call("POST", f"{BASE}/x/resume")
    assert (answer.status, answer.json) == (202, {})
    assert (await call("GET", f"{BASE}/x")).json["runtimeStatus"] == "RUNNING"


async def test_terminate_takes_an_output(call: Any, node: Any) -> None:
    await start(call, "waiter", "x")
    answer = await call("POST", f"{BASE}/x/terminate?reason=late&recursive=false", '"gone"')
    assert (answer.status, answer.json) == (202, {})
    assert node.workflows.calls[-1] == ("terminate", "x", b'"gone"', "late", False)


async def test_terminate_is_recursive_unless_told(call: Any, node: Any) -> None:
    await start(call, "waiter", "x")
    await call("POST", f"{BASE}/x/terminate")
    assert node.workflows.calls[-1] == ("terminate", "x", None, "", True)


async def test_purge(call: Any, node: Any) -> None:
    await start(call, "echo", "x")
    answer = await call("POST", f"{BASE}/x/purge")
    assert (answer.status, answer.json) == (202, {})
    assert node.workflows.calls[-1] == ("purge", "x", True, False)
    assert (await call("GET", f"{BASE}/x")).status == 404


async def test_purge_of_a_running_instance_needs_force(call: Any) -> None:
    await start(call, "waiter", "x")
    answer = await call("POST", f"{BASE}/x/purge")
    assert (answer.status, answer.code) == (409, "ERR_PURGE_WORKFLOW")
    assert (await call("POST", f"{BASE}/x/purge?force=true&recursive=false")).status == 202


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("raiseEvent/go", "ERR_RAISE_EVENT_WORKFLOW"),
        ("pause", "ERR_PAUSE_WORKFLOW"),
        ("resume", "ERR_RESUME_WORKFLOW"),
    ],
)
async def test_what_a_finished_instance_does_not_take(call: Any, rest: str, code: str) -> None:
    await start(call, "echo", "x")
    answer = await call("POST", f"{BASE}/x/{rest}")
    assert (answer.status, answer.code) == (409, code)


async def test_list_is_newest_first_and_paged(call: Any) -> None:
    for id in "abc":
        await start(call, "echo", id)
    first = (await call("GET", f"{BASE}?limit=2")).json
    assert [one["instanceID"] for one in first["instances"]] == ["c", "b"]
    second = (await call("GET", f"{BASE}?limit=2&cursor={first['cursor']}")).json
    assert [one["instanceID"] for one in second["instances"]] == ["a"]
    assert "cursor" not in second


async def test_list_filters(call: Any, node: Any) -> None:
    await call("GET", f"{BASE}?status=RUNNING,failed&status=stalled&name=echo&prefix=order-&limit=5")
    statuses = {"running", "failed", "stalled"}
    assert node.workflows.calls == [("list", statuses, "echo", "order-", None, 5)]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("status=done", "there are: pending, running"),
        ("limit=0", "from 1 to 1000"),
        ("limit=1001", "from 1 to 1000"),
        ("limit=ten", "not 'ten'"),
        ("limit=%D9%A1", "whole number"),
        ("limit=" + "9" * 5000, "whole number"),
        ("limit=-1", "whole number"),
        ("limit=", "whole number"),
        ("name=" + "x" * 2000, "name must have"),
        ("prefix=%00", "no control characters"),
    ],
)
async def test_list_says_what_is_wrong(call: Any, query: str, word: str) -> None:
    answer = await call("GET", f"{BASE}?{query}")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    assert word in answer.json["message"]


async def test_a_cursor_that_is_none(call: Any) -> None:
    answer = await call("GET", f"{BASE}?cursor=x")
    assert (answer.status, answer.code) == (400, "ERR_INVALID_INPUT")


async def test_history_is_readable_and_paged(call: Any) -> None:
    await start(call, "echo", "x", '{"n":1}')
    first = (await call("GET", f"{BASE}/x/history?limit=1")).json
    assert first == {
        "events": [
            {
                "number": 0,
                "type": "ExecutionStarted",
                "at": "2026-01-02T03:04:05.678901Z",
                "name": "echo",
                "start_id": "s0",
                "execution_id": "e0",
                "input": {"n": 1},
            }
        ],
        "next": 1,
    }
    second = (await call("GET", f"{BASE}/x/history?start=1")).json
    assert [(event["number"], event["type"]) for event in second["events"]] == [(1, "ExecutionCompleted")]
    assert "next" not in second


@pytest.mark.parametrize("query", ["start=-1", "start=x", "limit=0", "limit=1001"])
async def test_history_says_what_is_wrong(call: Any, query: str) -> None:
    assert (await call("GET", f"{BASE}/x/history?{query}")).status == 400


async def test_wait_answers_when_the_instance_finishes(call: Any, node: Any) -> None:
    await start(call, "waiter", "x")
    waiting = asyncio.create_task(call("GET", f"{BASE}/x/wait?timeout=60"))
    await node.workflows.seen("wait", "x", "finished", 60.0)
    await call("POST", f"{BASE}/x/raiseEvent/go", "7")
    found = (await waiting).json
    assert found["properties"]["dapr.workflow.output"] == "7"


async def test_wait_for_the_start(call: Any, node: Any) -> None:
    await start(call, "waiter", "x")
    assert (await call("GET", f"{BASE}/x/wait?until=started")).json["runtimeStatus"] == "RUNNING"
    assert node.workflows.calls[-1] == ("wait", "x", "started", 30.0)


async def test_a_wait_that_is_too_short(call: Any) -> None:
    await start(call, "waiter", "x")
    answer = await call("GET", f"{BASE}/x/wait?timeout=0.01")
    assert (answer.status, answer.code) == (504, "ERR_DEADLINE_EXCEEDED")
    assert "ask again" in answer.json["message"]


@pytest.mark.parametrize(
    "query", ["until=done", "timeout=x", "timeout=-1", "timeout=nan", "timeout=3601", "timeout="]
)
async def test_wait_says_what_is_wrong(call: Any, query: str) -> None:
    answer = await call("GET", f"{BASE}/x/wait?{query}")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")


async def test_a_client_that_goes_ends_only_its_wait(
    call: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.sidecar.polls.CHECK_SECONDS", 0.01)
    await start(call, "waiter", "x")
    waiting = asyncio.create_task(call("GET", f"{BASE}/x/wait?timeout=60"))
    await node.workflows.seen("wait", "x", "finished", 60.0)
    waiting.cancel()
    await node.workflows.seen("wait cancelled", "x")
    assert (await call("GET", f"{BASE}/x")).json["runtimeStatus"] == "RUNNING"


@pytest.mark.parametrize("value", ["yes", "1", "True", ""])
async def test_a_flag_is_true_or_false(call: Any, value: str) -> None:
    answer = await call("POST", f"{BASE}/x/purge?force={value}")
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")
    assert "true or false" in answer.json["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unavailable(), 503, "ERR_UNAVAILABLE"),
        (StoreUnavailable("no answer"), 503, "ERR_STORE_UNAVAILABLE"),
        (OutcomeUnknown(), 504, "ERR_OUTCOME_UNKNOWN"),
        (InvalidId(), 400, "ERR_INSTANCE_ID_INVALID"),
        (PayloadTooLarge(), 413, "ERR_PAYLOAD_TOO_LARGE"),
        (StoreError("disk full"), 500, "ERR_START_WORKFLOW"),
        (PerdureError("odd"), 500, "ERR_START_WORKFLOW"),
        (RuntimeError("secret"), 500, "ERR_START_WORKFLOW"),
    ],
)
async def test_errors_of_the_node(call: Any, node: Any, error: Exception, status: int, code: str) -> None:
    node.workflows.error = error
    answer = await call("POST", f"{BASE}/echo/start")
    assert (answer.status, answer.code) == (status, code)
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "secret" not in answer.json["message"]
