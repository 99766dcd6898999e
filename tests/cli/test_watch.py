"""`perdure workflow watch`"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import fake
from tests.waiting import until

PERDURE = Path(sys.executable).with_name("perdure")
SECONDS = 60


class Watching:
    """`perdure workflow watch` as a process, in a terminal or not."""

    def __init__(self, *arguments: str, terminal: tuple[int, int] | None = None) -> None:
        """`terminal`: its rows and columns."""
        self._read, write = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(write, termios.TIOCSWINSZ, struct.pack("HHHH", *terminal, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name)
        self.process = subprocess.Popen(
            [PERDURE, "workflow", "watch", *arguments, "--interval", "50ms"],
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment,
        )
        os.close(write)
        self._said = bytearray()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while True:
            try:
                piece = os.read(self._read, 65536)
            except OSError:
                return  # what a terminal says whose last user is gone
            if not piece:
                return
            self._said += piece

    @property
    def text(self) -> str:
        return self._said.decode()

    def until_said(self, text: str) -> None:
        until(lambda: text in self.text or self.process.poll() is not None, f"it says {text!r}")
        assert text in self.text, f"it ended with {self.process.wait()}: {self.text}"

    def end(self) -> tuple[int, str]:
        """Its exit status when it has ended by itself, and its errors."""
        status = self.process.wait(SECONDS)
        self._thread.join(SECONDS)
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            return status, stderr.read().decode()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watching]]:
    started: list[Watching] = []

    def start(*arguments: str, **more: Any) -> Watching:
        started.append(Watching(*arguments, **more))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGKILL)
            one.end()
        os.close(one._read)


def test_one_instance_line_by_line(perdure: Any, node: Any, watch: Callable[..., Watching]) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    watching = watch("x")
    watching.until_said("RUNNING")
    node.run(node.node.workflows.pause("x", "for lunch"))
    watching.until_said("SUSPENDED  for lunch")
    node.run(node.node.workflows.raise_event("x", "go", b"7"))
    assert watching.end() == (0, "")
    assert [line.split()[1:4] for line in watching.text.splitlines()] == [
        ["x", "waiter", "RUNNING"],
        ["x", "waiter", "SUSPENDED"],
        ["x", "waiter", "COMPLETED"],
    ]


def test_one_instance_as_json(perdure: Any, node: Any, watch: Callable[..., Watching]) -> None:
    perdure("workflow", "start", "waiter", "--id", "x")
    watching = watch("x", "--json")
    watching.until_said("RUNNING")
    node.run(node.node.workflows.raise_event("x", "go", b"7"))
    assert watching.end() == (0, "")
    found = [json.loads(line) for line in watching.text.splitlines()]
    assert [one["runtimeStatus"] for one in found] == ["RUNNING", "COMPLETED"]
    assert found[1]["properties"]["dapr.workflow.output"] == "7"


def test_an_instance_that_fails(perdure: Any, node: Any) -> None:
    perdure("workflow", "start", "broken", "--id", "x")
    result = perdure("workflow", "watch", "x")
    assert result.status == 1
    assert result.error == "x failed: no workflow 'broken'"
    assert result.out.endswith("x  broken  FAILED  no workflow 'broken'\n")


def test_an_unknown_instance(perdure: Any, node: Any) -> None:
    result = perdure("workflow", "watch", "none")
    assert (result.status, result.error) == (1, "there is no workflow instance 'none'")


def test_no_node_that_ever_answered(perdure: Any) -> None:
    result = perdure("workflow", "watch", "x", "--server", "http://127.0.0.1:1")
    assert (result.status, result.error.startswith("no node answers")) == (1, True)


def test_filters_are_for_the_list(perdure: Any, node: Any) -> None:
    assert perdure("workflow", "watch", "x", "--status", "running").status == 2
    assert perdure("workflow", "watch", "--status", "done").status == 2
    assert perdure("workflow", "watch", "--interval", "soon").status == 2


def test_the_list_line_by_line(perdure: Any, node: Any, watch: Callable[..., Watching]) -> None:
    perdure("workflow", "start", "waiter", "--id", "a-1")
    perdure("workflow", "start", "waiter", "--id", "b-1")
    watching = watch("--prefix", "a-")
    watching.until_said("a-1  waiter  RUNNING")
    perdure("workflow", "start", "echo", "--id", "a-2")
    watching.until_said("a-2  echo  COMPLETED")
    watching.process.send_signal(signal.SIGINT)
    assert watching.end() == (130, "")
    assert "b-1" not in watching.text


def test_a_view_of_one_instance_in_a_terminal(
    perdure: Any, node: Any, watch: Callable[..., Watching]
) -> None:
    perdure("workflow", "start", "waiter", "--id", "x", "-i", "[1]")
    watching = watch("x", terminal=(24, 80))
    watching.until_said("TimerCreated")
    assert "RUNNING" in watching.text
    node.run(node.node.workflows.raise_event("x", "go", b"7"))
    assert watching.end() == (0, "")
    assert "ExecutionCompleted" in watching.text
    # The cursor is shown again.
    assert watching.text.rindex("\x1b[?25h") > watching.text.rindex("\x1b[?25l")


def test_a_view_of_the_list_in_a_terminal(perdure: Any, node: Any, watch: Callable[..., Watching]) -> None:
    for number in range(40):
        perdure("workflow", "start", "waiter", "--id", f"i-{number:02d}")
    watching = watch(terminal=(12, 80))
    watching.until_said("instances and more")
    assert "i-39" in watching.text
    # What is not seen is not asked for.
    assert "i-20" not in watching.text
    node.run(node.node.workflows.pause("i-39"))
    watching.until_said("SUSPENDED")
    watching.process.send_signal(signal.SIGINT)
    assert watching.end()[0] == 130


def test_a_node_that_goes_away_is_asked_again(perdure: Any, watch: Callable[..., Watching]) -> None:
    with fake.ServedNode() as node:
        url = node.url
        node.run(node.node.workflows.start("waiter", None, "x"))
        watching = watch("x", "--server", url)
        watching.until_said("RUNNING")
    # It is gone, and has lost everything: what comes back does not know the instance.
    port = int(url.rpartition(":")[2])
    with fake.ServedNode(lambda: fake.serve_fake(port)):
        status, said = watching.end()
    assert status == 1
    assert said.endswith("error: there is no workflow instance 'x'\n")
