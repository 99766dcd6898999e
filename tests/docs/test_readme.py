"""The README, done as it says: every command in order, and the answers compared with those it shows."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Block, blocks
from tests.examples.node_process import PATIENCE
from tests.servers.ports import free_port

README = ROOT / "README.md"
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -e . && "
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest -n 2\n"


class Reader:
    """Somebody with two terminals. Only what would disturb others differs: the port, and that the process that is
    killed is this one's own. The environment is the one that runs the tests; `.ci/run` does the installation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "terminal.log"
        self.node: subprocess.Popen[bytes] | None = None
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)

    def run(self, command: str) -> None:
        """The first terminal: a node in the foreground."""
        command = command.strip().removeprefix(INSTALL)
        assert "&&" not in command
        with self.log.open("ab") as log:
            self.node = subprocess.Popen(
                [*shlex.split(command), "--http-port", str(self.port)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def type(self, commands: str) -> str:
        """The second terminal: what the last command prints."""
        if commands.startswith("pkill -9 -f 'perdure run'"):
            self.stop()
            return ""
        commands = commands.replace("localhost:3500", f"127.0.0.1:{self.port}")
        environment = {**os.environ, "PERDURE_SERVER": f"http://127.0.0.1:{self.port}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands.replace("curl -s", "curl -sS --fail-with-body")],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{commands}\n{done.stdout}\n{done.stderr}\n{self.log.read_text()}")
        return done.stdout

    def stop(self) -> None:
        if self.node is not None:
            # Its children, if it has any, end by themselves.
            self.node.send_signal(signal.SIGKILL)
            self.node.wait()
            self.node = None


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.stop()


def test_every_command_works_and_answers_as_shown(reader: Reader) -> None:
    shown = blocks(README)
    for at, block in enumerate(shown):
        if block.info == "sh run":
            reader.run(block.text)
        elif block.info == "sh":
            following = shown[at + 1] if at + 1 < len(shown) else Block("", "", 0)
            expected = json.loads(following.text) if following.info == "json" else None
            do(reader, block, expected)


def test_the_cluster_works_and_survives(reader: Reader) -> None:
    run, ask = (
        next(b for b in blocks(README) if b.info == info) for info in ("sh cluster run", "sh cluster")
    )
    expected = json.loads(blocks(README)[blocks(README).index(ask) + 1].text)
    reader.run(run.text)
    for block in (Block("sh", ".venv/bin/perdure cluster --json", ask.line), ask):
        do(reader, block, {"partitions": 1024} if block is not ask else expected)
    # Every node is in the table, and the death of one is noticed by nobody who asks the others.
    assert reader.node is not None
    killed = int(Path(f"/proc/{reader.node.pid}/task/{reader.node.pid}/children").read_text().split()[0])
    os.kill(killed, signal.SIGKILL)
    again = ask.text.replace("order-2", "order-3")
    do(reader, Block("sh", again, ask.line), {**expected, "instanceID": "order-3"})


def do(reader: Reader, block: Block, expected: Any) -> None:
    """People look again when it is not there yet; so does this: a node starts, an instance gets to its next step."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = reader.type(block.text)
            if expected is None or holds(expected, last_json(answer)):
                return
            problem = f"README.md line {block.line} shows {expected}, but the answer is {answer}"
        except AssertionError as error:
            problem = f"README.md line {block.line}: {error}"
        assert time.monotonic() < deadline, problem
        time.sleep(0.05)


def last_json(text: str) -> Any:
    """Commands may print several answers, one after the other, and tables before them."""
    decoder, at, value = json.JSONDecoder(), text.find("{"), None
    if at < 0:
        return None
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        while at < len(text) and text[at].isspace():
            at += 1
    return value


def holds(expected: Any, found: Any) -> bool:
    """Everything that is shown is there; more may be."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            name in found and holds(value, found[name]) for name, value in expected.items()
        )
    return bool(expected == found)


def test_the_first_command_installs_and_runs() -> None:
    first = next(block for block in blocks(README) if block.info == "sh run")
    assert first.text.startswith(INSTALL)


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    """.ci/run takes it from here by its mark."""
    assert [block.text for block in blocks(README) if block.info == "sh test"] == [TEST]
    assert "readme_block 'sh test'" in (ROOT / ".ci" / "run").read_text()


def test_the_workflow_shown_is_the_example() -> None:
    shown = next(block.text for block in blocks(README) if block.info == "python")
    example = (ROOT / "examples" / "hello.py").read_text()
    assert example.endswith(shown)
