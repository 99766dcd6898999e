"""Dapr's actor API beyond method calls, on a real node: state transactions, reminders, timers, idempotency keys."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tests.waiting import eventually


@pytest.fixture
async def call(real_node: Any, caller: Any) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession() as session:
        yield caller(session, SimpleNamespace(url=real_node.url))


@pytest.fixture
def base() -> str:
    return f"/v1.0/actors/Counter/{uuid.uuid4().hex}"


def transaction(*operations: tuple[str, dict[str, Any]]) -> str:
    return json.dumps([{"operation": name, "request": request} for name, request in operations])


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_state_transaction(call: Any, base: str, method: str) -> None:
    first = transaction(
        ("upsert", {"key": "count", "value": 5}), ("upsert", {"key": "x/y", "value": {"a": None}})
    )
    answer = await call(method, f"{base}/state", first)
    assert (answer.status, answer.body) == (204, b"")
    assert (await call("POST", f"{base}/method/add", "2")).json == 7
    assert (await call("GET", f"{base}/state/x%2Fy")).json == {"a": None}
    second = transaction(
        ("delete", {"key": "x/y"}), ("delete", {"key": "never"}), ("upsert", {"key": "count", "value": 1})
    )
    assert (await call(method, f"{base}/state", second)).status == 204
    assert (await call("GET", f"{base}/state/x%2Fy")).status == 204
    assert (await call("POST", f"{base}/method/add", "2")).json == 3


async def test_a_value_that_expires(call: Any, base: str) -> None:
    kept = {"key": "k", "value": 1, "metadata": {"ttlInSeconds": "3600"}}
    short = {"key": "s", "value": 1, "metadata": {"ttlInSeconds": "1"}}
    assert (
        await call("POST", f"{base}/state", transaction(("upsert", kept), ("upsert", short)))
    ).status == 204
    answer = await call("GET", f"{base}/state/k")
    assert answer.json == 1
    assert answer.headers["metadata.ttlExpireTime"].endswith("Z")

    async def gone() -> bool:
        return (await call("GET", f"{base}/state/s")).status == 204

    await eventually(gone)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "{}",
        "[1]",
        '[{"operation": "upsert"}]',
        '[{"operation": "increment", "request": {"key": "a"}}]',
        '[{"operation": "upsert", "request": {"value": 1}}]',
        '[{"operation": "upsert", "request": {"key": "a", "value": 1, "etag": "7"}}]',
        '[{"operation": "upsert", "request": {"key": "a", "value": 1, "metadata": {"ttlInSeconds": "0"}}}]',
        '[{"operation": "upsert", "request": {"key": "a", "value": 1, "metadata": {"ttlInSeconds": "1.5"}}}]',
    ],
)
async def test_what_is_no_transaction(call: Any, base: str, body: str) -> None:
    answer = await call("POST", f"{base}/state", body)
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")


async def test_a_transaction_is_all_or_nothing(call: Any, base: str) -> None:
    body = transaction(("upsert", {"key": "good", "value": 1}), ("upsert", {"key": "~reply/x", "value": 1}))
    answer = await call("POST", f"{base}/state", body)
    assert (answer.status, answer.code) == (400, "ERR_INVALID_INPUT")
    assert (await call("GET", f"{base}/state")).json == {"keys": []}


async def test_a_reminder_from_its_setting_to_its_end(call: Any, base: str) -> None:
    one = f"{base}/reminders/daily"
    wanted = {"dueTime": "1h0m0s", "period": "R10/PT3S", "ttl": "2h", "data": {"n": 1}}
    assert (await call("GET", one)).code == "ERR_ACTOR_REMINDER_NOT_FOUND"
    answer = await call("POST", one, json.dumps(wanted))
    assert (answer.status, answer.body) == (204, b"")
    found = (await call("GET", one)).json
    assert found.pop("dueTime") < found.pop("ttl")
    assert found == {
        "name": "daily",
        "actorType": "Counter",
        "actorID": base.rpartition("/")[2],
        "period": "R10/PT3S",
        "data": {"n": 1},
    }
    again = await call("PUT", one, '{"dueTime": "1h", "overwrite": false}')
    assert (again.status, again.code) == (409, "ERR_ACTOR_REMINDER_ALREADY_EXISTS")
    assert (await call("PUT", one, '{"dueTime": "PT2H"}')).status == 204
    assert "period" not in (await call("GET", one)).json
    for _ in range(2):
        assert (await call("DELETE", one)).status == 204
    assert (await call("GET", one)).status == 404


async def test_a_reminder_fires(call: Any, base: str) -> None:
    assert (await call("POST", f"{base}/reminders/now", "")).status == 204

    async def fired() -> bool:
        return (await call("GET", f"{base}/reminders/now")).status == 404

    await eventually(fired)


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        ({"drop": {}}, {"interval": 0, "retries": 0}),
        ({"constant": {"interval": "5s", "max_retries": 9}}, {"interval": 5_000_000, "retries": 9}),
        ({"constant": {"interval": "PT5S", "maxRetries": 0}}, {"interval": 5_000_000, "retries": 0}),
        ({"constant": {}}, {"interval": 1_000_000, "retries": -1}),
    ],
)
@pytest.mark.parametrize("name", ["failure_policy", "failurePolicy"])
async def test_its_failure_policy(call: Any, base: str, policy: Any, stored: Any, name: str) -> None:
    await call("POST", f"{base}/reminders/r", json.dumps({"dueTime": "1h", name: policy}))
    (found,) = (await call("GET", f"{base}/reminders")).json["reminders"]
    assert {key: found["data"][key] for key in ("interval", "retries") if key in found["data"]} == stored


@pytest.mark.parametrize(
    "body",
    [
        "x",
        "[]",
        '{"dueTime": 5}',
        '{"failure_policy": {}}',
        '{"failure_policy": {"constant": {"interval": "soon"}}}',
        '{"failure_policy": {"constant": {"interval": "1ms"}}}',
        '{"failure_policy": {"drop": {}, "constant": {}}}',
    ],
)
async def test_what_is_no_reminder(call: Any, base: str, body: str) -> None:
    answer = await call("POST", f"{base}/reminders/r", body)
    assert (answer.status, answer.code) == (400, "ERR_MALFORMED_REQUEST")


async def test_times_that_are_none(call: Any, base: str) -> None:
    for body in ('{"dueTime": "soon"}', '{"period": "0s"}', '{"dueTime": "10s", "ttl": "5s"}'):
        answer = await call("POST", f"{base}/reminders/r", body)
        assert (answer.status, answer.code) == (400, "ERR_INVALID_INPUT")
    assert (await call("POST", f"{base}/reminders/{'x' * 257}", "")).status == 400
    assert (await call("POST", f"{base}/reminders/dapr.internal.expire", "")).status == 400


async def test_a_timer_calls_a_method(call: Any, base: str) -> None:
    body = '{"dueTime": "10ms", "period": "R2/PT0.01S", "callback": "add", "data": 5}'
    assert (await call("POST", f"{base}/timers/t", body)).status == 204

    async def counted() -> bool:
        answer = await call("GET", f"{base}/state/count")
        return bool(answer.status == 200 and answer.json == 10)

    await eventually(counted)
    assert (await call("PUT", f"{base}/timers/t", '{"dueTime": "1h", "callback": "add"}')).status == 204
    for _ in range(2):
        assert (await call("DELETE", f"{base}/timers/t")).status == 204


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "ERR_MALFORMED_REQUEST"),
        ('{"dueTime": "1s"}', "ERR_MALFORMED_REQUEST"),
        ('{"callback": "none"}', "ERR_MALFORMED_REQUEST"),
        ('{"callback": "add", "data": "five"}', "ERR_INVALID_INPUT"),
        ('{"callback": "add", "dueTime": "soon"}', "ERR_INVALID_INPUT"),
    ],
)
async def test_what_is_no_timer(call: Any, base: str, body: str, code: str) -> None:
    answer = await call("POST", f"{base}/timers/t", body)
    assert (answer.status, answer.code) == (400, code)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("state", 400, "ERR_ACTOR_INSTANCE_MISSING"),
        ("reminders/r", 403, "ERR_ACTOR_REMINDER_NON_HOSTED"),
        ("timers/t", 404, "ERR_ACTOR_NO_ADDRESS"),
    ],
)
async def test_a_type_that_nobody_hosts(call: Any, path: str, status: int, code: str) -> None:
    body = "[]" if path == "state" else '{"callback": "add"}'
    answer = await call("POST", f"/v1.0/actors/None/1/{path}", body)
    assert (answer.status, answer.code) == (status, code)


async def test_a_call_with_a_key_is_executed_once(call: Any, base: str) -> None:
    headers = {"Idempotency-Key": "order-7"}
    answers = await asyncio.gather(
        *(call("POST", f"{base}/method/add", "5", headers=headers) for _ in range(5)),
    )
    assert [answer.json for answer in answers] == [5] * 5
    other = await call("POST", f"{base}/method/add", "6", headers=headers)
    assert (other.status, other.code) == (409, "ERR_IDEMPOTENCY_KEY_REUSED")
    assert (await call("POST", f"{base}/method/add", "1")).json == 6
    shown = (await call("GET", f"{base}/state/~reply%2Forder-7")).json
    assert (shown["method"], shown["done"], shown["reply"]) == ("add", True, 5)
    long = await call("POST", f"{base}/method/add", "1", headers={"Idempotency-Key": "x" * 257})
    assert (long.status, long.code) == (400, "ERR_INVALID_INPUT")
