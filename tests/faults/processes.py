"""Nodes as processes of their own: started, started again when they end, asked over HTTP, signalled, read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.servers.ports import free_port
from tests.waiting import PATIENCE, until

PROGRAMS = Path(__file__).parent / "programs"
WORKFLOWS = "/v1.0/workflows/dapr"


class NodeProcess:
    """`programs/<program>.py` with a SQLite file in `folder`: one process at a time."""

    def __init__(self, program: str, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.path = folder / "state.db"
        self.log = folder / "node.log"
        #: How often a process was started, and how those that ended did.
        self.starts = 0
        self.statuses: list[int] = []
        self._environment = {
            **os.environ,
            "FOLDER": str(folder),
            "PORT": str(self.port),
            "STORE": f"sqlite:///{self.path}",
            **environment,
        }
        self._command = [sys.executable, str(PROGRAMS / f"{program}.py")]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._supervised = False

    # --- life ------------------------------------------------------------------------------------------------------

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.starts += 1
        return process

    def start(self) -> None:
        """Returns when the node is ready."""
        process = self.spawn()
        self.until(lambda: process.poll() is not None or self.ready(), "the node serves")
        assert process.poll() is None, f"the node ended by itself:\n{self.text()}"

    def ready(self) -> bool:
        return self.status("GET", "/v1.0/healthz") == 204

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def ended(self, within: float = PATIENCE) -> int:
        """The exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process has not ended within {within:g} s:\n{self.text()}") from None
        self._process = None
        return status

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL, whatever is running. No process is started after it."""
        with self._lock:
            self._supervised = False
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    @contextlib.contextmanager
    def supervised(self, *, restarts: int) -> Iterator[None]:
        """Starts the process again whenever it ends, so often at most."""
        self._supervised = True
        most = self.starts + 1 + restarts
        self.spawn()
        thread = threading.Thread(target=self._supervise, args=(most,), daemon=True)
        thread.start()
        try:
            self.until(self.ready, "the node serves")
            yield
        finally:
            self.kill()
            thread.join()

    def _supervise(self, most: int) -> None:
        while True:
            process = self._process
            assert process is not None
            status = process.wait()
            with self._lock:
                if not self._supervised:
                    return
                self.statuses.append(status)
                if self.starts >= most:
                    return
                self.spawn()

    # --- what it says ------------------------------------------------------------------------------------------------

    def text(self) -> str:
        return self.log.read_text()[-8000:] if self.log.exists() else ""

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return until(condition, what, said=self.text)

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the decoded answer; 0 when nobody answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        except (OSError, EOFError, ValueError):
            return 0, None
        except Exception as error:
            if type(error).__module__ != "http.client":
                raise
            return 0, None
        return status, json.loads(text) if text else None

    def status(self, method: str, path: str, body: Any = None) -> int:
        return self.ask(method, path, body)[0]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of a call that has to succeed."""
        status, answer = self.ask(method, path, body)
        assert 200 <= status < 300, f"{method} {path}: {status} {answer}\n{self.text()}"
        return answer

    def begin(self, workflow: str, id: str, input: Any = None) -> None:
        """Starts an instance, however often the node dies meanwhile."""

        def started() -> bool:
            status, answer = self.ask("POST", f"{WORKFLOWS}/{workflow}/start?instanceID={id}", input)
            assert status in (0, 202, 409, 503), answer
            # Without an answer it may have begun all the same, and even ended: it must not begin again.
            return status in (202, 409) or bool(self.instance(id))

        self.until(started, f"{id} starts")

    def instance(self, id: str) -> dict[str, Any]:
        """Its status; {} when nobody answers."""
        status, answer = self.ask("GET", f"{WORKFLOWS}/{id}")
        return dict(answer) if status == 200 else {}

    def runtime_status(self, id: str) -> str:
        return str(self.instance(id).get("runtimeStatus", ""))

    def until_status(self, id: str, *wanted: str) -> dict[str, Any]:
        """The instance, once it has one of these statuses."""

        def found() -> dict[str, Any]:
            state = self.instance(id)
            return state if state.get("runtimeStatus") in wanted else {}

        return dict(self.until(found, f"{id} is {' or '.join(wanted)}"))

    def output(self, id: str) -> Any:
        """The result of an instance that completes."""
        state = self.until_status(id, "COMPLETED", "FAILED", "TERMINATED")
        assert state["runtimeStatus"] == "COMPLETED", state
        return json.loads(state["properties"]["dapr.workflow.output"])

    # --- what it left ------------------------------------------------------------------------------------------------

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Read from the file, also while a node has it."""
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    def metadata(self, id: str) -> dict[str, Any]:
        """The stored metadata of an instance."""
        ((value,),) = self.rows(
            "SELECT metadata FROM heads JOIN actors USING (num) WHERE id = ? AND metadata IS NOT NULL", id
        )
        return dict(msgspec.msgpack.decode(value))

    def lines(self, name: str) -> list[str]:
        """What the program wrote into a file of the folder."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []
