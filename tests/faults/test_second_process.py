"""A SQLite file belongs to one process: a second one is told who has it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.processes import WORKFLOWS, NodeProcess
from tests.servers.ports import free_port

STOP = Path(__file__).parent / "programs" / "stop.py"


@pytest.fixture
def first(tmp_path: Path) -> Iterator[NodeProcess]:
    node = NodeProcess("stop", tmp_path, DRAIN="1")
    node.start()
    yield node
    node.kill()


def run(node: NodeProcess, *, json_logs: bool = False) -> subprocess.CompletedProcess[str]:
    """`perdure run` on the file of a node."""
    command = [sys.executable, "-c", "from perdure.cli import main; main()"]
    command += ["run", f"{STOP}:app", "--store", f"sqlite:///{node.path}", "--http-port", str(free_port())]
    command += ["--log-json"] if json_logs else []
    environment = {"FOLDER": str(node.folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=node.folder
    )


@pytest.mark.parametrize("json_logs", [False, True])
def test_it_is_refused(first: NodeProcess, json_logs: bool) -> None:
    first.begin("waits", "waiting")
    (pid,) = {json.loads(first.path.with_name("state.db.lock").read_text())["pid"]}
    second = run(first, json_logs=json_logs)
    assert second.returncode == 1
    assert second.stdout == ""
    (line,) = second.stderr.splitlines()
    assert f"is held by process {pid} (http://127.0.0.1:{first.port})" in line
    assert "Traceback" not in second.stderr

    # The first has noticed nothing.
    assert first.ready()
    first.begin("one", "another", ["on_loop", 0])
    assert first.output("another") == "done"
    first.call("POST", f"{WORKFLOWS}/waiting/raiseEvent/go", "now")
    assert first.output("waiting") == "now"
    assert "ERROR" not in first.text()
    assert first.stop() == 0


def test_after_the_first_it_is_served(first: NodeProcess) -> None:
    first.begin("waits", "waiting")
    assert run(first).returncode == 1
    first.signal(signal.SIGKILL)
    first.ended()
    first.start()
    first.call("POST", f"{WORKFLOWS}/waiting/raiseEvent/go", "now")
    assert first.output("waiting") == "now"
