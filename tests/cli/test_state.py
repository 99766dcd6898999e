"""`perdure state …` and `perdure actor …` against a node."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.statestore.contract import ActorId, Reminder

WORKFLOW = "dapr.internal.default.shop.workflow"
AT = 1767323045678901


@pytest.fixture
def stored(node: Any) -> Any:
    node.node.actors.values[ActorId(WORKFLOW, "x")] = {
        "customStatus": b"null",
        "history-000000": msgspec.msgpack.encode({"type": "ExecutionStarted", "at": AT, "input": b"[1]"}),
        "metadata": msgspec.msgpack.encode({"created": AT}),
    }
    node.node.actors.values[ActorId("Counter", "1")] = {"count": b"5", "a/b": b'{"n": 1}'}
    node.node.actors.wakes[ActorId("Counter", "1")] = [Reminder(ActorId("Counter", "1"), "daily", AT)]
    return node


@pytest.mark.parametrize("actor", [["--instance", "x"], [f"{WORKFLOW}/x"], [WORKFLOW, "x"]])
def test_keys(perdure: Any, stored: Any, actor: list[str]) -> None:
    lines = perdure("state", "keys", *actor).out.splitlines()
    assert lines[0].split() == ["KEY", "BYTES"]
    assert [line.split()[0] for line in lines[1:]] == ["customStatus", "history-000000", "metadata"]
    found = perdure("state", "keys", *actor, "--prefix", "his", "--json").json
    assert [key["key"] for key in found["keys"]] == ["history-000000"]


def test_keys_are_paged_up_to_the_limit(perdure: Any, stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.cli.state.PAGE", 1)
    assert len(perdure("state", "keys", "--instance", "x", "--json").json["keys"]) == 3
    found = perdure("state", "keys", "--instance", "x", "--limit", "2", "--json").json
    assert (len(found["keys"]), found["cursor"]) == (2, "metadata")
    assert "the first 2" in perdure("state", "keys", "--instance", "x", "-n", "2").out


def test_no_keys(perdure: Any, stored: Any) -> None:
    assert perdure("state", "keys", "Counter/none") == (0, "", "Counter/none has no state\n")


def test_values_are_decoded(perdure: Any, stored: Any) -> None:
    time = "2026-01-02T03:04:05.678901Z"
    assert perdure("state", "get", "--instance", "x", "metadata").json == {"created": time}
    found = perdure("state", "get", f"{WORKFLOW}/x", "history-000000", "--json").json
    assert found == {"type": "ExecutionStarted", "at": time, "input": [1]}
    assert perdure("state", "get", "Counter", "1", "a/b").json == {"n": 1}
    assert perdure("state", "get", "--instance", "x", "customStatus").out == "null\n"


@pytest.mark.parametrize("actor", [["--instance", "x"], ["Counter/1"]])
def test_a_key_that_is_not_there(perdure: Any, stored: Any, actor: list[str]) -> None:
    result = perdure("state", "get", *actor, "none")
    assert result.status == 1
    assert "has no state key 'none'" in result.error


def test_calls(perdure: Any, node: Any) -> None:
    assert perdure("actor", "call", "Counter/1", "echo", "--data", '{"n": 1}').json == {"n": 1}
    assert perdure("actor", "call", "Counter/1", "echo") == (0, "", "")
    assert perdure("actor", "call", "Counter/1", "echo", "--json").json is None


def test_a_call_with_a_key(perdure: Any, node: Any) -> None:
    assert perdure("actor", "call", "Counter/1", "echo", "--data", "1", "--key", "order 7").json == 1
    assert node.node.actors.keys_given == ["order 7"]
    assert perdure("actor", "call", "Counter/1", "echo", "--key", "")[0] == 2


@pytest.mark.parametrize(
    ("actor", "method", "said"),
    [
        ("None/1", "echo", "no node has the actor type 'None'"),
        ("Counter/1", "none", "has no method 'none'"),
        ("Counter/1", "fail", "raised ValueError: no"),
        (f"{WORKFLOW}/x", "terminate", "belongs to the runtime"),
    ],
)
def test_calls_that_fail(perdure: Any, node: Any, actor: str, method: str, said: str) -> None:
    result = perdure("actor", "call", actor, method)
    assert (result.status, said in result.error) == (1, True)


def test_reminders(perdure: Any, stored: Any) -> None:
    lines = perdure("actor", "reminders", "Counter/1").out.splitlines()
    assert lines[1].startswith("daily  2026-01-02 03:04:05 UTC (")
    found = perdure("actor", "reminders", "Counter/1", "--json").json
    assert found["reminders"][0]["dueTime"] == "2026-01-02T03:04:05.678901Z"
    assert perdure("actor", "reminders", "--instance", "x") == (0, "", f"{WORKFLOW}/x has no reminders\n")
