"""`perdure workflow …` against a node."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import Unavailable


def test_start_prints_the_id(perdure: Any, node: Any) -> None:
    result = perdure("workflow", "start", "waiter", "--id", "order-7", "--input", '{"n": 1}')
    assert result == (0, "order-7\n", "")
    assert node.node.workflows.calls == [("start", "waiter", b'{"n": 1}', "order-7")]


def test_start_as_json(perdure: Any, node: Any) -> None:
    assert perdure("workflow", "start", "waiter", "--json").json == {"instanceID": "made-0"}


def test_start_takes_ids_that_dapr_does_not(perdure: Any, node: Any) -> None:
    assert perdure("workflow", "start", "waiter", "--id", "order.7: ä", "-i", "[1]").out == "order.7: ä\n"
    assert node.node.workflows.calls == [("start", "waiter", b"[1]", "order.7: ä")]


def test_start_takes_names_of_any_kind(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "shop/order ä", "--id", "x")
    assert node.node.workflows.calls == [("start", "shop/order ä", None, "x")]


def test_input_from_stdin_and_file(perdure: Any, node: Any, tmp_path: Path) -> None:
    perdure("workflow", "start", "waiter", "--input", "-", stdin='"from stdin"')
    file = tmp_path / "input.json"
    file.write_text("[2]")
    perdure("workflow", "start", "waiter", "--input", f"@{file}")
    assert [call[2] for call in node.node.workflows.calls] == [b'"from stdin"', b"[2]"]


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [
        ("hello", 2, """for the text hello write --input '"hello"'"""),
        ("{", 2, "--input is not JSON"),
        ("", 2, "--input is not JSON"),
        ("-", 2, "standard input is not JSON"),
        ("@/none", 1, "'/none', which cannot be read: No such file"),
    ],
)
def test_input_that_is_none(perdure: Any, node: Any, value: str, status: int, said: str) -> None:
    result = perdure("workflow", "start", "waiter", "--input", value)
    assert (result.status, said in result.error) == (status, True), result.error
    assert node.node.workflows.calls == []


def test_start_of_an_id_that_is_taken(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    result = perdure("workflow", "start", "waiter", "--id", "x")
    assert result.status == 1
    assert "use another id" in result.error


def test_start_and_wait(perdure: Any, node: Any) -> None:
    result = perdure("workflow", "start", "echo", "--id", "x", "-i", "[1,2]", "--wait")
    assert result.status == 0
    assert "COMPLETED" in result.out
    assert "[1, 2]" in result.out
    assert perdure("workflow", "start", "echo", "--wait", "--json").json["runtimeStatus"] == "COMPLETED"


def test_waiting_for_a_failure_fails(perdure: Any, node: Any) -> None:
    result = perdure("workflow", "start", "broken", "--id", "x", "--wait")
    assert result.status == 1
    assert result.error == "x failed: no workflow 'broken'"
    assert "line 2" in result.out


def test_get_shows_one_instance(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x", "-i", '{"n":1}')
    out = perdure("workflow", "get", "x").out
    assert "RUNNING" in out
    assert '{"n": 1}' in out
    assert "2026-01-02 03:04:05 UTC" in out
    assert perdure("workflow", "get", "x", "--json").json["instanceID"] == "x"


def test_get_of_an_unknown_instance(perdure: Any, node: Any) -> None:
    result = perdure("workflow", "get", "none")
    assert (result.status, result.error) == (1, "there is no workflow instance 'none'")


def test_what_payloads_contain_does_not_steer_the_terminal(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x", "-i", '"\u009b31m [red]"')
    out = perdure("workflow", "get", "x").out
    assert "\\x9b31m [red]" in out


def test_wait_for_the_end(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")

    def finish() -> None:
        node.run(node.node.workflows.seen("wait", "x", "finished", 25.0))
        node.run(node.node.workflows.raise_event("x", "go", b"7"))

    helper = threading.Thread(target=finish)
    helper.start()
    found = perdure("workflow", "wait", "x", "--json").json
    helper.join()
    assert found["properties"]["dapr.workflow.output"] == "7"


def test_wait_goes_on_over_steps_and_restarts(
    perdure: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.cli.waiting.STEP", 0.01)
    monkeypatch.setattr("perdure.cli.waiting.AGAIN", 0.0)
    perdure("workflow", "start", "waiter", "--id", "x")
    node.node.workflows.error = Unavailable("stopping")
    result = perdure("workflow", "wait", "x", "--timeout", "0.1")
    assert result.status == 1
    assert result.error == "x has not finished within 0.1 s; it goes on"
    assert len([call for call in node.node.workflows.calls if call[0] == "wait"]) > 2


def test_wait_for_the_start(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    assert perdure("workflow", "wait", "x", "--until", "started", "--timeout", "1m").status == 0


def test_list_shows_a_table(perdure: Any, node: Any) -> None:
    for name, id in (("waiter", "a-1"), ("echo", "a-2"), ("broken", "b-1")):
        perdure("workflow", "start", name, "--id", id)
    lines = perdure("workflow", "list").out.splitlines()
    assert lines[0].split() == ["ID", "WORKFLOW", "STATUS", "CREATED", "UPDATED"]
    assert [line.split()[0] for line in lines[1:]] == ["b-1", "a-2", "a-1"]
    assert "no workflow 'broken'" in lines[1]


def test_list_filters(perdure: Any, node: Any) -> None:
    perdure("workflow", "list", "-s", "RUNNING,failed", "--status", "stalled", "--name", "w", "--prefix", "a")
    assert node.node.workflows.calls == [("list", {"running", "failed", "stalled"}, "w", "a", None, 100)]


def test_list_pages_up_to_its_limit(perdure: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.cli.workflow.PAGE", 2)
    for number in range(5):
        perdure("workflow", "start", "echo", "--id", f"i{number}")
    found = perdure("workflow", "list", "--limit", "3", "--json").json
    assert [one["instanceID"] for one in found["instances"]] == ["i4", "i3", "i2"]
    assert found["cursor"] == "3"
    assert "cursor" not in perdure("workflow", "list", "--limit", "5", "--json").json
    assert "the 3 newest; --limit shows more" in perdure("workflow", "list", "-n", "3").out


def test_an_empty_list(perdure: Any, node: Any) -> None:
    assert perdure("workflow", "list") == (0, "", "no instances\n")
    assert perdure("workflow", "list", "--json").json == {"instances": []}


def test_history(perdure: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.cli.workflow.PAGE", 1)
    perdure("workflow", "start", "broken", "--id", "x", "-i", "[1]")
    lines = perdure("workflow", "history", "x").out.splitlines()
    assert lines[0].startswith("from 2026-01-02 03:04:05 UTC")
    assert lines[2].split() == ["0", "+0", "ms", "ExecutionStarted", "broken", "[1]"]
    assert "NotRegistered: no workflow 'broken'" in lines[3]
    found = perdure("workflow", "history", "x", "--json").json
    assert [event["type"] for event in found["events"]] == ["ExecutionStarted", "ExecutionCompleted"]


def test_raise(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    assert perdure("workflow", "raise", "x", "a/b", "--data", "[1]").out == "raised a/b to x\n"
    assert node.node.workflows.calls[-1] == ("raise_event", "x", "a/b", b"[1]")
    assert perdure("workflow", "raise", "x", "go", "--json").json == {}


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["pause", "x", "--reason", "for lunch"], ("pause", "x", "for lunch")),
        (["resume", "x"], ("resume", "x", "")),
        (["cancel", "x"], ("cancel", "x", "")),
        (["cancel", "x", "--reason", "late"], ("cancel", "x", "late")),
        (["terminate", "x"], ("terminate", "x", None, "", True)),
        (
            ["terminate", "x", "--output", '"gone"', "--reason", "late", "--no-recursive"],
            ("terminate", "x", b'"gone"', "late", False),
        ),
        (["purge", "x", "--force"], ("purge", "x", True, True)),
        (["purge", "x", "--force", "--no-recursive"], ("purge", "x", False, True)),
    ],
)
def test_steering(perdure: Any, node: Any, arguments: list[str], call: tuple[Any, ...]) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    result = perdure("workflow", *arguments)
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith(" x\n")
    assert node.node.workflows.calls[-1] == call


@pytest.mark.parametrize(
    "verb", ["get", "wait", "history", "pause", "resume", "cancel", "terminate", "purge"]
)
def test_every_command_on_an_unknown_instance(perdure: Any, node: Any, verb: str) -> None:
    result = perdure("workflow", verb, "a/b#?%")
    assert result.status == 1
    # The id is one part of the path, whatever is in it: '/' is what is wrong with it.
    assert "is not valid" in result.error
    assert perdure("workflow", verb, "none").error == "there is no workflow instance 'none'"


def test_purge_of_what_runs(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    assert "use force" in perdure("workflow", "purge", "x").error


def test_start_with_a_time_a_key_and_what_if_it_exists(perdure: Any, node: Any) -> None:
    options = ("--at", "90s", "--if-exists", "return", "--key", "k ä", "--tag", "a=b=c", "--tag", "d=")
    wanted = (
        ("idempotency_key", "k ä"),
        ("if_exists", "return"),
        ("start_at", timedelta(seconds=90)),
        ("tags", {"a": "b=c", "d": ""}),
    )
    for id in ("x", "order.7: ä"):
        assert perdure("workflow", "start", "waiter", "--id", id, *options).status == 0
        assert node.node.workflows.calls[-1] == ("start", "waiter", None, id, *wanted)
    perdure("workflow", "start", "echo", "--at", "2030-01-31T12:00:00Z")
    at = datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert node.node.workflows.calls[-1] == ("start", "echo", None, None, ("start_at", at))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--at", "tomorrow"), "--at"),
        (("--if-exists", "ignore"), "error, return or replace"),
        (("--key", ""), "--key"),
        (("--key", "a\nb"), "--key"),
        (("--tag", "a"), "NAME=VALUE"),
    ],
)
def test_start_with_options_that_are_none(perdure: Any, node: Any, options: Any, said: str) -> None:
    result = perdure("workflow", "start", "waiter", *options)
    assert (result.status, said in result.error) == (2, True), result.error
    assert node.node.workflows.calls == []


def test_raise_with_an_id_of_ones_own(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    assert perdure("workflow", "raise", "x", "go", "-d", "1", "--event-id", "é 1").status == 0
    assert node.node.workflows.calls[-1] == ("raise_event", "x", "go", b"1", "é 1")


def test_rerun_prints_the_new_id(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "echo", "--id", "x")
    assert perdure("workflow", "rerun", "x").out == "made\n"
    unchanged = (("from_event", None), ("new_instance_id", None), ("payload", None))
    assert node.node.workflows.calls[-1] == ("rerun", "x", *unchanged)
    result = perdure("workflow", "rerun", "x", "--from-event", "3", "--new-id", "y.1", "-i", "[1]", "--json")
    assert result.json == {"instanceID": "y.1"}
    changed = (("from_event", 3), ("new_instance_id", "y.1"), ("payload", b"[1]"))
    assert node.node.workflows.calls[-1] == ("rerun", "x", *changed)


def test_rerun_of_what_goes_on(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    result = perdure("workflow", "rerun", "x")
    assert (result.status, "not finished" in result.error) == (1, True)
