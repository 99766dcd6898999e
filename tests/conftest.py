"""What a whole run does: it leaves no process behind, and several processes share it well. And what waits in any test."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests import waiting

#: In the environment of everything that a run starts, directly or not.
MARK = "PERDURE_TEST_RUN"
#: Seconds in which what was told to end may still do so, on a busy machine.
PATIENCE = 20.0


def pytest_configure(config: pytest.Config) -> None:
    if _is_worker(config):
        return
    os.environ[MARK] = f"{os.getpid()}-{time.time_ns()}"
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Hundreds of processes are started, and each would take three times as long. Nothing is written here.
        folder = tempfile.TemporaryDirectory(prefix="perdure-bytecode-", ignore_cleanup_errors=True)
        os.environ["PYTHONPYCACHEPREFIX"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process gets one half of the tests, and then of what the other is left with: so the tests of a file are run
    by one process, and share a server."""
    if config.getoption("dist") != "load":
        return None  # Somebody knows better.
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """A process that is left behind is wrong, whatever the tests say."""
    yield  # pytest-xdist ends its workers here.
    if _is_worker(session.config):
        return
    deadline = time.monotonic() + PATIENCE
    while (left := _started_by(os.environ[MARK])) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid, command in left.items():
        print(f"\nleft behind, and killed now: {pid} {command}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _started_by(run: str) -> dict[int, str]:
    """The processes with this mark that have not ended, and what they run."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It ended, or it is somebody else's.
            marked = f"{MARK}={run}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if marked and int(folder.name) != os.getpid():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


@pytest.fixture
def eventually() -> Any:
    """`await eventually(lambda: …)`: returns the condition's value when it is true."""
    return waiting.eventually
