"""`perdure run --nodes N` as a process with processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.processes import NodeProcess

APP = '''
import asyncio
import os
import time
from pathlib import Path

from perdure import ActivityContext, App, WorkflowContext, when_all

FOLDER = Path(os.environ["FOLDER"])
app = App("shop", replay_check="off")


def note(name: str, text: object) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\\n")


@app.activity
async def where(ctx: ActivityContext, seconds: float) -> int:
    note("began", ctx.idempotency_key)
    await asyncio.sleep(seconds)
    note("ended", ctx.idempotency_key)
    return os.getpid()


@app.workflow
async def spread(ctx: WorkflowContext, order: tuple[int, float]) -> list[int]:
    """Which processes ran so many activities of so many seconds."""
    return list(await when_all([ctx.call_activity(where, input=order[1]) for _ in range(order[0])]))


@app.workflow
async def approval(ctx: WorkflowContext) -> str:
    return await ctx.wait_for_external_event("go")
'''


class Nodes(NodeProcess):
    """The parent, and its children by /proc. Its app is `shop.py` in the folder, its store `state.db`."""

    def __init__(self, folder: Path, *arguments: str, nodes: int = 3, app: str = APP) -> None:
        super().__init__("", folder)
        self.nodes = nodes
        self.app = folder / "shop.py"
        self.app.write_text(app)
        self.store = f"sqlite:///{self.path}"
        self._command = [sys.executable, "-m", "perdure", "run", f"{self.app}:app"]
        self._command += [
            "--store",
            self.store,
            "--http-port",
            str(self.port),
            "--nodes",
            str(nodes),
            *arguments,
        ]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when all nodes are ready."""
        process = self.spawn()
        told = self.summaries() + 1
        self.until(lambda: process.poll() is not None or self.summaries() >= told, "all nodes serve")
        assert process.poll() is None, f"it ended by itself:\n{self.text()}"

    def summaries(self) -> int:
        text = self.log.read_text() if self.log.exists() else ""
        return text.count("\n  nodes ") + text.count('"run.serves"')

    def children(self) -> list[int]:
        """The pids of the processes that it started and that live."""
        with contextlib.suppress(FileNotFoundError):
            return [
                int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        return []

    def until_whole(self) -> list[int]:
        """Its children, when each is in the placement table."""

        def whole() -> list[int]:
            children = self.children()
            return children if len(children) == len(self.members()) == self.nodes else []

        return list(self.until(whole, "every node is back"))

    def members(self) -> list[Any]:
        status, answer = self.ask("GET", "/v1.0/cluster")
        return list(answer["nodes"]) if status == 200 else []

    def errors(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if "ERROR" in line or "Traceback" in line]

    def entries(self) -> list[dict[str, Any]]:
        """Its log, where that is JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@contextlib.contextmanager
def running(nodes: Nodes) -> Iterator[Nodes]:
    """From start to kill."""
    try:
        nodes.start()
        yield nodes
    finally:
        children = nodes.children() if nodes._process is not None else []
        nodes.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
