"""What the killed process and its successor do, on DBOS. `crash.py` starts and kills them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from dbos import DBOS, SetWorkflowID, WorkflowHandleAsync

from benchmarks import activity_log
from benchmarks.activity_log import ActivityLog
from benchmarks.child import Spec
from benchmarks.dbos_subject import launch

_log: ActivityLog


@DBOS.step()
async def logged_nap(name: str) -> str:
    _log.began(name)
    await asyncio.sleep(0.05)
    _log.ended(name)
    return name


@DBOS.workflow()
async def logged_naps(name: str, count: int) -> int:
    for at in range(count):
        await logged_nap(f"{name}/{at}")
    return count


def ids(count: int) -> list[str]:
    return [f"instance-{at:06}" for at in range(count)]


async def start_naps(spec: Spec) -> None:
    """Starts `count` workflows of five steps each, and is killed while they run."""
    for name in ids(spec.count):
        with SetWorkflowID(name):
            await DBOS.start_workflow_async(logged_naps, name, 5)
            _log.accepted(name)
    await asyncio.Event().wait()


async def await_all(spec: Spec) -> dict[str, float]:
    """The successor: DBOS recovers by itself; this looks."""
    serving = time.time()
    for name in activity_log.accepted(Path(spec.log)):
        handle: WorkflowHandleAsync[int] = await DBOS.retrieve_workflow_async(name)
        await handle.get_result(polling_interval_sec=0.05)
    return {"serving": serving, "done": time.time()}


TASKS = {"start-naps": start_naps, "await-all": await_all}


def run(spec: Spec) -> dict[str, float] | None:
    global _log
    _log = ActivityLog(spec.log)
    launch(Path(spec.store), spec.journal)
    return asyncio.run(TASKS[spec.task](spec))
