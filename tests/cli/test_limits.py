"""Limits over real processes: a resource that refuses whoever is too many, and processes that are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.nodes import Nodes, running

#: A seat is a file lock: the kernel gives it back when its process dies.
APP = """
import asyncio
import fcntl
import os
from pathlib import Path

from perdure import ActivityContext, App, WorkflowContext

FOLDER = Path(os.environ["FOLDER"])
SEATS = 3
app = App("shop", replay_check="off")


def take():
    for number in range(SEATS):
        seat = open(FOLDER / f"seat-{number}", "w")
        try:
            fcntl.flock(seat, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            seat.close()
        else:
            return seat
    with open(FOLDER / "refused", "a") as file:
        file.write("refused\\n")
    raise RuntimeError("all seats are taken")


@app.activity(global_max_concurrent=SEATS)
async def render(ctx: ActivityContext, page: int) -> int:
    with take():
        await asyncio.sleep(0.02)
        return os.getpid()


@app.workflow(global_max_concurrent=2)
async def book(ctx: WorkflowContext, pages: int) -> list[int]:
    return await ctx.map(render, range(pages))
"""


def statuses(nodes: Nodes, ids: list[str]) -> list[str]:
    answers = [nodes.ask("GET", f"/v1.0/workflows/dapr/{id}")[1] for id in ids]
    return [answer["runtimeStatus"] for answer in answers]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kill", [False, True])
def test_no_seat_too_many_over_processes(tmp_path: Path, kill: bool) -> None:
    with running(Nodes(tmp_path, app=APP)) as nodes:
        children = nodes.until_whole()
        ids = [f"book-{number}" for number in range(4)]
        for id in ids:
            nodes.begin("book", id, 80)
        if kill:
            nodes.until(lambda: "COMPLETED" in statuses(nodes, ids), "the first is done")
            os.kill(children[1], signal.SIGKILL)
            # The dead one's share is kept back, and the rest goes on.
        under_way: list[int] = []

        def done() -> bool:
            # One after another they would not be what was true at one time.
            under_way.append(len(nodes.call("GET", "/v1.0/workflows/dapr?status=RUNNING")["instances"]))
            return statuses(nodes, ids) == ["COMPLETED"] * len(ids)

        nodes.until(done, "all are done")
        assert max(under_way) <= 2
        pids: set[Any] = {pid for id in ids for pid in nodes.output(id)}
        assert len(pids) > 1
        assert not (tmp_path / "refused").exists()


def test_options_reach_every_node(tmp_path: Path) -> None:
    limits = ("--max-concurrent-activities", "2", "--max-concurrent-workflows", "5")
    with running(Nodes(tmp_path, *limits, nodes=2, app=APP)) as nodes:
        nodes.until_whole()
        nodes.begin("book", "book", 10)
        assert len(nodes.output("book")) == 10
        for node in nodes.members():
            assert node["queues"]["workflows"]["*"]["limit"] == 5
