from __future__ import annotations

import importlib.util
import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import pytest

from perdure.cli import main


def _load_fake() -> ModuleType:
    path = Path(__file__).parents[1] / "sidecar" / "fake.py"
    spec = importlib.util.spec_from_file_location("perdure_fake_node", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = _load_fake()


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert (self.status, self.err) == (0, "")
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that a failure says."""
        assert self.status != 0
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").strip()


Perdure = Callable[..., Result]
T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> T:
    """The result of what runs an event loop of its own: in this thread is the one of the async tests."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _exit_status(arguments: Sequence[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Perdure:
    """Runs the command line in this process: `perdure("workflow", "get", "x")`."""

    def run(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        status = in_thread(lambda: _exit_status(arguments))
        out, err = capsys.readouterr()
        return Result(status, out, err)

    return run


@pytest.fixture(name="in_thread")
def _in_thread() -> Callable[..., Any]:
    return in_thread


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fake node, which the command line asks unless it is told otherwise."""
    with fake.ServedNode() as served:
        monkeypatch.setenv("PERDURE_SERVER", served.url)
        yield served


APP = """
from perdure import App

app = App("shop")
other = App("other")


@app.activity
async def double(ctx, number: int) -> int:
    return 2 * number


@app.workflow
async def twice(ctx, number: int) -> int:
    return await ctx.call_activity(double, input=number)


@app.workflow
async def approval(ctx) -> object:
    ctx.set_custom_status("waiting")
    return await ctx.wait_for_external_event("approved")
"""


class RunningNode:
    """`perdure run` as a process; its store is `state.db` in its folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "shop.py").write_text(APP)
        self.store = f"sqlite:///{folder}/state.db"
        command = [
            Path(sys.executable).with_name("perdure"),
            *("run", "shop.py:app", "--store", self.store, "--http-port", "0", *arguments),
        ]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.said: list[str] = []
        self.url = ""

    def until_it_serves(self) -> RunningNode:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            name, _, value = line.strip().partition(" ")
            if name == "http":
                self.url = value.strip()
            if name == "activities":
                break
        assert self.url, "".join(self.said)
        # Nobody reads its log from here on, and it must not stop for that.
        self._drain = threading.Thread(target=self.said.extend, args=(self.process.stderr,), daemon=True)
        self._drain.start()
        return self

    def end(self, number: int) -> int:
        """Sends a signal; the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._drain.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    nodes: list[RunningNode] = []

    def start(*arguments: str) -> RunningNode:
        running = RunningNode(tmp_path, *arguments)
        nodes.append(running)
        return running.until_it_serves()

    yield start
    for running in nodes:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)
