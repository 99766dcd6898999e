"""`perdure run` as a process of its own, driven over HTTP and killed for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers.ports import free_port

#: How long anything may take on a busy machine, in seconds.
PATIENCE = 60


def command() -> str:
    """The program under test: PERDURE_COMMAND, or the one beside this Python."""
    beside = Path(sys.executable).with_name("perdure")
    found = os.environ.get("PERDURE_COMMAND") or (str(beside) if beside.exists() else shutil.which("perdure"))
    assert found, "perdure is not installed"
    return found


class NodeProcess:
    """One node at a time, in one working folder. Starting again is the restart after a kill."""

    def __init__(self, app: str, folder: Path, *, store: str | None = None, **environment: str) -> None:
        self.port = free_port()
        self.log = folder / "node.log"
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._command = [command(), "run", app, "--http-port", str(self.port)]
        if store is not None:
            self._command += ["--store", store]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the node answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: self.status("GET", "/v1.0/healthz") in (200, 204), "the node serves")

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            self._process = None

    def status(self, method: str, path: str, body: Any = None) -> int:
        """The HTTP status of a call; 0 when nobody answers."""
        try:
            return self._call(method, path, body)[0]
        except OSError:
            return 0

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer of a call that has to succeed."""
        status, text = self._call(method, path, body)
        assert status < 300, f"{method} {path}: {status} {text}"
        return json.loads(text) if text else None

    def _call(self, method: str, path: str, body: Any) -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a state of another process, which cannot be awaited."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            process = self._process
            if process is not None and process.poll() is not None:
                raise AssertionError(f"the node ended by itself:\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {PATIENCE} s: {what}\n{self.log.read_text()}")
            time.sleep(0.02)
