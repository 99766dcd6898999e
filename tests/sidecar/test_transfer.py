"""Export and import over HTTP."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.workflow import record as records

ONE = "/v1.0/workflows/dapr/x"
RECORD = records.Record(
    format=records.FORMAT,
    type="dapr.internal.default.shop.workflow",
    id="x",
    values={"metadata": b"\x00\xff"},
    reminders=[records.Wake("timer-1", 5, b"e0")],
)


async def test_export_answers_with_a_record(call: Any) -> None:
    await call("POST", "/v1.0/workflows/dapr/waiter/start?instanceID=x")
    answer = await call("GET", f"{ONE}/export")
    assert answer.status == 200
    assert records.decode(msgspec.json.encode(answer.json)).id == "x"


async def test_export_of_an_unknown_instance(call: Any) -> None:
    answer = await call("GET", f"{ONE}/export")
    assert (answer.status, answer.json["message"]) == (404, "there is no workflow instance 'x'")


@pytest.mark.parametrize("replace", [False, True])
async def test_import_hands_on_the_record(call: Any, node: Any, replace: bool) -> None:
    answer = await call(
        "POST", f"{ONE}/import" + ("?replace=true" if replace else ""), records.encode(RECORD)
    )
    assert (answer.status, answer.json) == (202, {})
    assert node.transfers.imported == [(RECORD, replace)]


async def test_import_of_an_id_that_is_there(call: Any, node: Any) -> None:
    await call("POST", "/v1.0/workflows/dapr/waiter/start?instanceID=x")
    answer = await call("POST", f"{ONE}/import", records.encode(RECORD))
    assert answer.status == 409
    assert node.transfers.imported == []


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (f"{ONE}/import", b"", "this is not an exported instance"),
        (f"{ONE}/import", b"{}", "this is not an exported instance"),
        (f"{ONE}/import", b'{"perdure": 1, "type": "t", "id": "x", "values": {"a": 1}}', "not an exported"),
        (f"{ONE}/import", b'{"perdure": 2, "type": "t", "id": "x", "values": {}}', "by a later release"),
        (f"{ONE}/import", b'{"perdure": 1, "type": "", "id": "x", "values": {}}', "actor type"),
        ("/v1.0/workflows/dapr/y/import", records.encode(RECORD), "is the instance 'x'; the path says 'y'"),
        (f"{ONE}/import?replace=yes", records.encode(RECORD), "replace must be true or false"),
    ],
)
async def test_import_of_what_is_no_record(call: Any, node: Any, path: str, body: bytes, said: str) -> None:
    answer = await call("POST", path, body)
    assert (answer.status, said in answer.json["message"]) == (400, True), answer.json
    assert node.transfers.imported == []


async def test_import_takes_more_than_other_requests(
    call: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = msgspec.structs.replace(RECORD, values={"history-000000": b"x" * 5_000_000})
    answer = await call("POST", f"{ONE}/import", records.encode(large))
    assert answer.status == 202
    monkeypatch.setattr("perdure.sidecar.transfer.MAX_RECORD", 1_000_000)
    answer = await call("POST", f"{ONE}/import", records.encode(large))
    assert (answer.status, answer.json["errorCode"]) == (413, "ERR_PAYLOAD_TOO_LARGE")
