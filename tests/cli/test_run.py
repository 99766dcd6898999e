"""`perdure run` as a process, driven by the other commands; and its store without it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perdure import App


def test_a_node_from_start_to_stop(perdure: Any, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = serve()
    monkeypatch.setenv("PERDURE_SERVER", node.url)
    assert [line.split() for line in node.said[-5:]] == [
        ["perdure", "0.1.0:", "app", "shop,", "namespace", "default"],
        ["store", node.store],
        ["http", node.url],
        ["workflows", "approval,", "twice"],
        ["activities", "double"],
    ]
    found = perdure("workflow", "start", "twice", "--id", "t", "-i", "21", "--wait", "--json").json
    assert found["properties"]["dapr.workflow.output"] == "42"
    assert perdure("workflow", "start", "approval", "--id", "order.7").out == "order.7\n"
    perdure("workflow", "wait", "order.7", "--until", "started")
    assert perdure("workflow", "pause", "order.7", "--reason", "lunch").status == 0
    assert perdure("workflow", "get", "order.7", "--json").json["runtimeStatus"] == "SUSPENDED"
    assert perdure("workflow", "resume", "order.7").status == 0
    assert perdure("workflow", "raise", "order.7", "Approved", "--data", '{"by": "ann"}').status == 0
    found = perdure("workflow", "wait", "order.7", "--json").json
    assert found["properties"]["dapr.workflow.output"] == '{"by":"ann"}'
    events = perdure("workflow", "history", "t", "--json").json["events"]
    assert [event["type"] for event in events] == [
        "ExecutionStarted",
        "TaskScheduled",
        "TaskCompleted",
        "ExecutionCompleted",
    ]
    ids = [one["instanceID"] for one in perdure("workflow", "list", "--json").json["instances"]]
    assert ids == ["order.7", "t"]
    assert perdure("workflow", "purge", "t").status == 0
    assert "no workflow instance 't'" in perdure("workflow", "get", "t").error
    assert node.end(signal.SIGTERM) == 0


def test_failures_against_a_node(perdure: Any, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_SERVER", serve().url)
    result = perdure("workflow", "start", "nothing", "--wait")
    assert result.status == 1
    assert "nothing" in result.error
    perdure("workflow", "start", "approval", "--id", "x")
    assert perdure("workflow", "start", "approval", "--id", "x").status == 1
    assert perdure("workflow", "purge", "x").status == 1
    assert perdure("workflow", "terminate", "x", "--output", '"late"').status == 0
    result = perdure("workflow", "wait", "x")
    assert (result.status, result.error) == (1, "x terminated")
    assert perdure("workflow", "raise", "x", "approved").status == 1
    assert perdure("workflow", "wait", "none", "--timeout", "5").status == 1


def test_a_store_is_asked_through_the_node_that_has_it(perdure: Any, serve: Any) -> None:
    node = serve()
    assert (
        perdure("workflow", "start", "twice", "--id", "t", "-i", "1", "--wait", "--store", node.store).status
        == 0
    )
    assert (
        perdure("workflow", "list", "--store", node.store, "--json").json["instances"][0]["instanceID"] == "t"
    )
    keys = perdure("state", "keys", "--instance", "t", "--store", node.store, "--json").json["keys"]
    assert [key["key"] for key in keys][-1] == "history-000003"


def test_a_second_node_is_told_who_has_the_store(serve: Any, tmp_path: Path) -> None:
    node = serve()
    command = [Path(sys.executable).with_name("perdure"), "run", "shop.py:app", "--store", node.store]
    second = subprocess.run(
        [*command, "--http-port", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    error = second.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert f"process {node.process.pid} ({node.url})" in error
    assert "Traceback" not in second.stderr


def test_a_port_that_is_taken(serve: Any, tmp_path: Path) -> None:
    port = serve().url.rpartition(":")[2]
    command = [Path(sys.executable).with_name("perdure"), "run", "shop.py:app", "--store", "memory://"]
    second = subprocess.run(
        [*command, "--http-port", port], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    last = second.stderr.splitlines()[-1]
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; another program has that port" in last
    assert "choose another port" in last
    assert "Traceback" not in second.stderr


def test_a_store_is_read_when_nobody_has_it(perdure: Any, serve: Any, tmp_path: Path) -> None:
    node = serve()
    store = ("--store", node.store)
    perdure("workflow", "start", "twice", "--id", "t", "-i", "21", "--wait", *store)
    perdure("workflow", "start", "approval", "--id", "a", *store)
    perdure("workflow", "wait", "a", "--until", "started", *store)
    looks = [
        ("workflow", "get", "t", "--json"),
        ("workflow", "list", "--json"),
        ("workflow", "list", "--status", "running", "--json"),
        ("workflow", "history", "t", "--json"),
        ("state", "keys", "--instance", "t", "--json"),
        ("state", "keys", "dapr.internal.default.shop.workflow/a", "--json"),
        ("state", "get", "--instance", "t", "metadata"),
        ("state", "get", "--instance", "a", "history-000000"),
        ("state", "get", "--instance", "a", "customStatus"),
        ("actor", "reminders", "--instance", "a", "--json"),
    ]
    online = [perdure(*look, *store).json for look in looks]
    assert node.end(signal.SIGKILL) == -signal.SIGKILL
    offline = [perdure(*look, *store).json for look in looks]
    assert offline == online
    assert online[8] == "waiting"
    assert "TaskCompleted" in perdure("workflow", "history", "t", *store).out
    assert "there is no workflow instance 'none'" in perdure("workflow", "get", "none", *store).error
    assert "has no state key 'none'" in perdure("state", "get", "--instance", "t", "none", *store).error
    assert "of the app 'x'" in perdure("workflow", "list", "--app-id", "x", *store).error
    assert perdure("workflow", "list", "--app-id", "shop", *store).status == 0
    result = perdure("workflow", "terminate", "a", *store)
    assert (result.status, "start one with 'perdure run'" in result.error) == (1, True)
    # Looking leaves the store as it was: the node goes on.
    again = serve()
    assert perdure("workflow", "raise", "a", "approved", *store).status == 0
    assert perdure("workflow", "wait", "a", *store).status == 0
    again.end(signal.SIGINT)


def test_several_apps_in_one_store(perdure: Any, in_thread: Any, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/state.db"

    async def start(app: App) -> None:
        async with app.serve(store=store) as node:
            await node.client.start("x", None, f"of-{app.app_id}")

    for name in ("one", "two"):
        in_thread(partial(asyncio.run, start(App(name))))
    assert "(one, two); say which with --app-id" in perdure("workflow", "list", "--store", store).error
    found = perdure("workflow", "list", "--store", store, "--app-id", "two", "--json").json
    assert [one["instanceID"] for one in found["instances"]] == ["of-two"]


def test_a_holder_without_http(in_thread: Any, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    command = [Path(sys.executable).with_name("perdure"), "workflow", "list", "--store", store]

    async def look() -> tuple[bytes, bytes]:
        async with App("x").serve(store=store):
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            return await process.communicate()

    out, err = in_thread(lambda: asyncio.run(look()))
    assert out == b""
    assert b"which serves no HTTP" in err


def test_a_store_that_does_not_exist(perdure: Any, tmp_path: Path) -> None:
    result = perdure("workflow", "list", "--store", f"sqlite:///{tmp_path}/none.db")
    assert (result.status, result.error) == (1, f"there is no file {tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_store(perdure: Any, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("nonsense " * 1000)
    result = perdure("workflow", "list", "--store", f"sqlite:///{tmp_path}/x.db")
    assert (result.status, "x.db" in result.error) == (1, True)


def test_logs_as_json(serve: Any, tmp_path: Path) -> None:
    serve()  # writes shop.py
    command = [Path(sys.executable).with_name("perdure"), "run", "shop.py:app", "--store", "memory://"]
    with subprocess.Popen(
        [*command, "--http-port", "0", "--log-json"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            entry = json.loads(line)
            if entry["event"] == "run.serves":
                break
        assert entry["workflows"] == ["approval", "twice"]
        process.send_signal(signal.SIGTERM)
        assert all(json.loads(line) for line in process.stderr)
    assert process.returncode == 0
