"""Kills real processes with SIGKILL and measures how soon a new one has finished what they had accepted."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import activity_log, child
from benchmarks.child import Spec
from benchmarks.result import Figures

#: Activities of each instance of W7.
STEPS = 5


def half_way(spec: Spec, folder: Path) -> Figures:
    """W7: killed when half of all activities have ended."""
    log = folder / "activities.log"
    spec = replace(spec, log=str(log), task="start-naps")
    total = spec.count * STEPS
    first = child.start(spec)
    try:
        _wait_until(lambda: activity_log.ended(log) >= total // 2, first)
    finally:
        _kill(first)
    before = activity_log.ended(log)
    restarted = time.time()
    times = child.run(replace(spec, task="await-all"))
    again, after_end = activity_log.repeated(log)
    return {
        "instances": len(activity_log.accepted(log)),
        "all done s": times["done"] - restarted,
        "of which start-up s": times["serving"] - restarted,
        "ended before": before,
        "ran twice": again,
        "though ended": after_end,
    }


def in_flight(spec: Spec, folder: Path) -> Figures:
    """A node starts while `count` instances wait for an activity that its killed predecessor was running."""
    spec = replace(spec, log=str(folder / "activities.log"), task="start-stuck")
    first = child.start(spec)
    try:
        assert first.stdout is not None
        if first.stdout.readline() != "started\n":
            raise RuntimeError("the process to be killed ended by itself")
    finally:
        _kill(first)
    restarted = time.time()
    times = child.run(replace(spec, task="await-all"))
    return {"serving s": times["serving"] - restarted, "all done s": times["done"] - restarted}


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        if process.poll() is not None:
            raise RuntimeError("the process to be killed ended by itself")
        time.sleep(0.005)


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.kill(process.pid, 9)
    process.communicate()
