"""`perdure export` and `perdure import`, through nodes and on stores that no node has open."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.workflow import record as records
from tests.cli.conftest import RunningNode
from tests.servers.redis import redis_server

SHOP = "dapr.internal.default.shop.workflow"


def started(perdure: Any, node: RunningNode, *ids: str) -> None:
    """Instances that wait for an event, the last one newest."""
    for id in ids:
        assert perdure("workflow", "start", "approval", "--id", id, "--server", node.url).status == 0
        assert perdure("workflow", "wait", id, "--until", "started", "--server", node.url).status == 0


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def status(perdure: Any, id: str, *where: str) -> str:
    return str(perdure("workflow", "get", id, *where, "--json").json["runtimeStatus"])


def test_through_a_node_there_and_back(
    perdure: Any, serve: Callable[..., RunningNode], tmp_path: Path
) -> None:
    node = serve()
    at, file = ("--server", node.url), tmp_path / "all.jsonl"
    started(perdure, node, "a", "b")
    perdure("workflow", "start", "twice", "--id", "c", "-i", "21", "--wait", *at)
    assert perdure("export", str(file), *at) == (0, "exported 3 instances\n", "")
    assert [one["id"] for one in lines(file)] == ["c", "b", "a"]
    assert {one["type"] for one in lines(file)} == {SHOP}

    result = perdure("import", str(file), *at)
    assert (result.status, result.out) == (1, "imported 0 instances\n")
    assert "3 instances were not imported: c: there is an instance 'c', which is completed" in result.error

    for id in ("a", "b", "c"):
        assert perdure("workflow", "purge", id, "--force", *at).status == 0
    assert perdure("import", str(file), *at) == (0, "imported 3 instances\n", "")
    assert perdure("workflow", "get", "c", *at, "--json").json["properties"]["dapr.workflow.output"] == "42"
    assert perdure("workflow", "raise", "a", "approved", "--data", "7", *at).status == 0
    ended = perdure("workflow", "wait", "a", *at, "--json").json
    assert ended["properties"]["dapr.workflow.output"] == "7"
    assert status(perdure, "b", *at) == "RUNNING"


def test_replace_goes_back_to_what_was_exported(
    perdure: Any, serve: Callable[..., RunningNode], tmp_path: Path
) -> None:
    node = serve()
    at, file = ("--server", node.url), tmp_path / "a.jsonl"
    started(perdure, node, "a")
    assert perdure("export", str(file), "--id", "a", *at, "--json").json == {"exported": 1, "failed": []}
    perdure("workflow", "raise", "a", "approved", "--data", "1", *at)
    assert perdure("workflow", "wait", "a", *at).status == 0
    assert perdure("import", str(file), *at).status == 1
    assert perdure("import", str(file), "--replace", *at, "--json").json == {"imported": 1, "failed": []}
    assert status(perdure, "a", *at) == "RUNNING"
    perdure("workflow", "raise", "a", "approved", "--data", "2", *at)
    ended = perdure("workflow", "wait", "a", *at, "--json").json
    assert ended["properties"]["dapr.workflow.output"] == "2"


def test_from_a_store_without_a_node_to_another(
    perdure: Any, serve: Callable[..., RunningNode], tmp_path: Path
) -> None:
    node = serve()
    started(perdure, node, "a", "b")
    assert node.end(signal.SIGTERM) == 0
    file, other = tmp_path / "all.jsonl", f"sqlite:///{tmp_path}/other.db"
    assert perdure("export", str(file), "--store", node.store).out == "exported 2 instances\n"
    for _ in range(2):
        # The second time all of it is there.
        result = perdure("import", str(file), "--store", other)
    assert (result.status, result.out) == (1, "imported 0 instances\n")
    assert status(perdure, "a", "--store", other) == "RUNNING"
    again = tmp_path / "again.jsonl"
    assert perdure("export", str(again), "--store", other).status == 0
    assert lines(again) == lines(file)

    (tmp_path / "state.db").unlink()
    (tmp_path / "other.db").rename(tmp_path / "state.db")
    node = serve()
    assert perdure("workflow", "raise", "b", "approved", "--data", "7", "--server", node.url).status == 0
    ended = perdure("workflow", "wait", "b", "--server", node.url, "--json").json
    assert ended["properties"]["dapr.workflow.output"] == "7"


def test_the_node_that_has_the_file_is_asked(
    perdure: Any, serve: Callable[..., RunningNode], tmp_path: Path
) -> None:
    node = serve()
    started(perdure, node, "a")
    file = tmp_path / "all.jsonl"
    assert perdure("export", str(file), "--store", node.store).status == 0
    assert perdure("workflow", "purge", "a", "--force", "--server", node.url).status == 0
    assert perdure("import", str(file), "--store", node.store).out == "imported 1 instance\n"
    assert status(perdure, "a", "--server", node.url) == "RUNNING"


def test_standard_output_and_input(perdure: Any, serve: Callable[..., RunningNode], tmp_path: Path) -> None:
    node = serve()
    started(perdure, node, "a", "b")
    result = perdure("export", "--prefix", "a", "--server", node.url)
    assert (result.status, result.err, json.loads(result.out)["id"]) == (0, "", "a")
    other = f"sqlite:///{tmp_path}/other.db"
    assert perdure("import", "-", "--store", other, stdin=result.out).out == "imported 1 instance\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: "{", "line 2: this is not an exported instance"),
        (lambda one: one | {"perdure": 99}, "was exported by a later release"),
        (lambda one: one | {"id": "b"}, "has 'b' twice"),
        (lambda one: one | {"values": {}}, "it has no key metadata"),
        (lambda one: one | {"values": one["values"] | {"metadata": "AAAA"}}, "metadata cannot be read"),
        (
            lambda one: one | {"values": _without(one["values"], "history-000000")},
            "history events 0 are there",
        ),
        (lambda one: one | {"values": one["values"] | {"history-000000": "AAAA"}}, "history-000000"),
        (lambda one: one | {"reminders": [{"name": "soon", "due": 1}]}, "has a reminder 'soon'"),
    ],
)
def test_a_file_in_which_anything_is_wrong_is_refused_whole(
    perdure: Any,
    exported: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Any],
    said: str,
) -> None:
    first, second = lines(exported)
    changed = change(second)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in (first, changed)))
    other = f"sqlite:///{tmp_path}/other.db"
    result = perdure("import", str(wrong), "--store", other)
    assert (result.status, said in result.error) == (1, True), result.error
    assert not (tmp_path / "other.db").exists()


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


@pytest.fixture
def exported(perdure: Any, serve: Callable[..., RunningNode], tmp_path: Path) -> Path:
    """A file with the instances b and a."""
    node = serve()
    started(perdure, node, "a", "b")
    file = tmp_path / "exported.jsonl"
    assert perdure("export", str(file), "--server", node.url).status == 0
    return file


def test_an_import_of_another_app(
    perdure: Any, exported: Path, serve: Callable[..., RunningNode], tmp_path: Path
) -> None:
    one = lines(exported)[0] | {"type": SHOP.replace("shop", "other")}
    file = tmp_path / "other.jsonl"
    file.write_text(json.dumps(one))
    result = perdure("import", str(file), "--store", f"sqlite:///{tmp_path}/state.db")
    assert result.status == 1
    assert "this node serves dapr.internal.default.shop.workflow" in result.error


def test_files_that_cannot_be(perdure: Any, node: Any, tmp_path: Path) -> None:
    assert "cannot be read: No such file" in perdure("import", str(tmp_path / "none")).error
    assert "cannot be written: No such file" in perdure("export", str(tmp_path / "none" / "x")).error
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_no_file(perdure: Any, node: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    result = perdure("export", str(file), "--server", "http://127.0.0.1:1")
    assert (result.status, result.error.startswith("no node answers")) == (1, True)
    assert list(tmp_path.iterdir()) == []
    result = perdure("export", str(file), "--id", "none")
    assert (result.status, result.error) == (
        1,
        "1 instance was not exported: none: there is no workflow instance 'none'",
    )


def test_records_are_read_as_they_were_written() -> None:
    record = records.Record(
        format=records.FORMAT, type=SHOP, id="ä", values={"metadata": b"\x00\xff"}, reminders=[]
    )
    assert records.decode(records.encode(record)) == record


def test_export_is_read_by_whoever_pages(perdure: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the API gives at once."""
    monkeypatch.setattr("perdure.cli.transfer.PAGE", 2)
    for number in range(5):
        perdure("workflow", "start", "waiter", "--id", f"i{number}")
    result = perdure("export")
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == ["i4", "i3", "i2", "i1", "i0"]


def test_a_store_of_many_processes(perdure: Any, serve: Callable[..., RunningNode], tmp_path: Path) -> None:
    """A file moves to Redis: first while no node is there, then through the one that is."""
    node = serve()
    started(perdure, node, "a", "b")
    assert node.end(signal.SIGTERM) == 0
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert perdure("export", str(one), "--id", "a", "--store", node.store).status == 0
    assert perdure("export", str(two), "--id", "b", "--store", node.store).status == 0
    with redis_server() as redis:
        url = redis.url()
        assert perdure("import", str(one), "--store", url) == (0, "imported 1 instance\n", "")
        assert perdure("import", str(one), "--store", url).status == 1
        other = serve("--store", url, "--peer-port", "0")
        try:
            assert perdure("import", str(two), "--store", url) == (0, "imported 1 instance\n", "")
            for id in ("a", "b"):
                raised = perdure("workflow", "raise", id, "approved", "--data", "7", "--server", other.url)
                assert raised.status == 0, raised
                ended = perdure("workflow", "wait", id, "--server", other.url, "--json").json
                assert ended["properties"]["dapr.workflow.output"] == "7"
        finally:
            other.end(signal.SIGKILL)
        # Its lease is still there for a while, and is waited for.
        assert perdure("import", str(two), "--replace", "--store", url).out == "imported 1 instance\n"
        assert status(perdure, "b", "--store", url) == "RUNNING"
