"""docs/tutorial.md, done as it says: every file written, every command typed, every answer compared."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, blocks
from tests.examples.node_process import PATIENCE, command
from tests.servers.ports import free_port

#: These only look, so they can be typed again.
LOOKS = ("perdure workflow get ", "perdure workflow history ")
TUTORIAL = ROOT / "docs" / "tutorial.md"


class Reader:
    """Somebody with an editor and two terminals in an empty folder. Only what would disturb others differs: the port,
    and that the process that is killed is this one's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder.parent / f"{folder.name}.log"
        self.node: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def replace(self, name: str, definition: str, text: str) -> None:
        """Puts the block in place of the function of this name, and of whatever else the block defines anew."""
        path = self.folder / name
        lines = path.read_text().splitlines(keepends=True)
        found = next(
            node
            for node in ast.parse("".join(lines)).body
            if isinstance(node, ast.AsyncFunctionDef) and node.name == definition
        )
        assert found.end_lineno is not None
        begin = found.decorator_list[0].lineno - 1
        path.write_text("".join([*lines[:begin], text, *lines[found.end_lineno :]]))

    def run(self, typed: str) -> None:
        """The first terminal: Ctrl-C, if a node runs there, and a node in the foreground."""
        self.stop(signal.SIGINT)
        words = shlex.split(typed)
        assert words[0] == "perdure"
        with self.log.open("ab") as log:
            self.node = subprocess.Popen(
                [command(), *words[1:], "--http-port", str(self.port)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def type(self, typed: str) -> str:
        """The second terminal: all that is printed there, whether or not it succeeds."""
        done = subprocess.run(
            ["bash", "-c", typed],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{Path(command()).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PERDURE_SERVER": f"http://127.0.0.1:{self.port}",
                "PYTEST_ADDOPTS": "-p no:cacheprovider",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        return done.stdout

    def stop(self, number: signal.Signals) -> None:
        if self.node is not None:
            self.node.send_signal(number)
            self.node.wait(PATIENCE)
            self.node = None


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    folder = tmp_path / "claims"
    folder.mkdir()
    reader = Reader(folder)
    yield reader
    reader.stop(signal.SIGKILL)


@pytest.mark.timeout(300)
def test_every_step_works_and_answers_as_shown(reader: Reader) -> None:
    shown = blocks(TUTORIAL)
    for at, block in enumerate(shown):
        kind, *names = block.info.split()
        match kind, names:
            case "python" | "ini", [name]:
                reader.write(name, block.text)
            case "python", [name, definition]:
                reader.replace(name, definition, block.text)
            case "sh", ["run"]:
                reader.run(block.text)
            case "sh", ["kill"]:
                reader.stop(signal.SIGKILL)
            case "sh", []:
                following = shown[at + 1] if at + 1 < len(shown) else Block("", "", 0)
                do(reader, block, following.text if following.info == "text" else "")
            case "sh", ["install"]:
                assert "pip install" in block.text  # Done already, or this would not run.
            case "text", []:
                assert shown[at - 1].info == "sh"
            case _:
                raise AssertionError(f"tutorial.md line {block.line}: nobody does what is in {block.info!r}")


def do(reader: Reader, block: Block, expected: str) -> None:
    """All that is typed is typed once; but people look again when what they look for is not there yet."""
    deadline = time.monotonic() + PATIENCE
    while "error:" in (answer := reader.type("perdure workflow list")):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    *before, last = block.text.splitlines()
    done = "".join(reader.type(typed) for typed in before)
    while not matches(expected, answer := done + reader.type(last)):
        told = f"tutorial.md line {block.line} shows\n{expected}\nbut the answer is\n{answer}"
        assert last.startswith(LOOKS), told
        assert time.monotonic() < deadline, f"{told}\n{reader.log.read_text()}"
        time.sleep(0.05)


def matches(expected: str, answer: str) -> bool:
    """`…` is anything, and it does not matter where lines are broken."""
    parts = [re.escape(" ".join(part.split())) for part in expected.split("…")]
    return re.search(".*".join(parts), " ".join(answer.split())) is not None
