"""Each measurement has a process of its own, so that neither memory nor compiled code of another one helps or hurts.

`python -m benchmarks.child SPEC` runs what SPEC (JSON, see `Spec`) says and prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spec:
    """What a child does."""

    #: "perdure" or "dbos".
    subject: str
    #: "W1" … "W6", or a task of crash.py and scale.py.
    task: str
    #: Perdure: the store's URL. DBOS: the database's path.
    store: str
    count: int
    in_flight: int = 0
    #: DBOS only: SQLite's journal mode.
    journal: str = "wal"
    #: Where activities write that they ran.
    log: str = ""


def start(spec: Spec) -> subprocess.Popen[str]:
    """Starts a child; its stdout is the caller's to read."""
    command = [sys.executable, "-m", "benchmarks.child", json.dumps(asdict(spec))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def result(child: subprocess.Popen[str], seconds: float = 1800) -> Any:
    """Waits for a child and reads the last line it printed."""
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    if child.returncode:
        raise RuntimeError(f"{child.args!r} ended with status {child.returncode}")
    return json.loads(output.splitlines()[-1])


def run(spec: Spec) -> Any:
    return result(start(spec))


def _perform(spec: Spec) -> Any:
    # Imported here: a child loads one subject only, and DBOS need not be installed.
    if spec.subject == "dbos":
        from benchmarks import dbos_crash, dbos_subject

        if spec.task in dbos_crash.TASKS:
            return dbos_crash.run(spec)
        return dbos_subject.run(spec.task, spec.count, spec.in_flight, spec.store, spec.journal)
    from benchmarks import perdure_crash, perdure_subject, scale
    from perdure.app import loop_factory, tune

    tune()  # as `perdure run` does
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if spec.task in perdure_crash.TASKS:
            return runner.run(perdure_crash.TASKS[spec.task](spec))
        if spec.task in scale.TASKS:
            return runner.run(scale.TASKS[spec.task](spec))
        return runner.run(perdure_subject.run(spec.task, spec.count, spec.in_flight, spec.store))


def main() -> None:
    answer = _perform(Spec(**json.loads(sys.argv[1])))
    print(json.dumps(answer), flush=True)
    # DBOS keeps threads that outlive its work.
    os._exit(0)


if __name__ == "__main__":
    main()
