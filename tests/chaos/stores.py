"""Real servers of stores, on a host of their own, that keep what they acknowledged over SIGKILL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.cluster import StoreProcess
from tests.chaos.network import Host

PATIENCE = 60.0


class StoreServer:
    """One server, which may have several processes of one group."""

    def __init__(self, host: Host, folder: Path, command: Sequence[str], port: int, url: str) -> None:
        self.url = url
        self._command = host.command(*command)
        self._place = (host.address, port)
        self._log = folder / "store.log"
        self._process: subprocess.Popen[bytes] | None = None
        #: Whether it answers, beyond taking connections.
        self.answers: Callable[[], bool] = lambda: True

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not (self._listens() and self.answers()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the store's server does not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(self._place, timeout=1):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            # Stopped first: a server that sees a part of itself die may still do something about it.
            self._signal(signal.SIGSTOP)
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            for pid in _family(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


def _family(pid: int) -> list[int]:
    """The process and its children: those of PostgreSQL are in sessions of their own."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(member for child in children for member in _family(int(child)))]


def redis_on(host: Host, folder: Path) -> StoreServer:
    """Every commit is on disk before it is acknowledged."""
    data = folder / "redis"
    data.mkdir(exist_ok=True)
    command = [
        "redis-server",
        "--bind",
        host.address,
        "--protected-mode",
        "no",
        "--dir",
        str(data),
        "--save",
        "",
    ]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    server = StoreServer(host, folder, command, 6379, f"redis://{host.address}")

    def answers() -> bool:
        # While it reads its log it takes connections and says nothing.
        with contextlib.suppress(OSError), socket.create_connection((host.address, 6379), timeout=1) as link:
            link.sendall(b"PING\r\n")
            return link.recv(5) == b"+PONG"
        return False

    server.answers = answers
    return server


def postgres_on(host: Host, folder: Path) -> StoreServer:
    programs = postgres_programs()
    data = folder / "postgres"
    user = "postgres"
    # Becomes the program itself, as `runuser` does not. Who becomes another user loses the signal of before.
    become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--pdeathsig", "KILL", "--")
    if not data.exists():
        data.mkdir()
        shutil.chown(data, user)
        # The server's user has to reach it.
        for parent in data.parents:
            if parent.owner() == "root" and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        _run(
            "runuser",
            "-u",
            user,
            "--",
            f"{programs}/initdb",
            "-D",
            str(data),
            "-U",
            "perdure",
            "--auth=trust",
        )
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 0.0.0.0/0 trust\n")
    command = [*become, f"{programs}/postgres", "-D", str(data), "-h", host.address]
    command += ["-k", "", "-c", "max_connections=200"]
    url = f"postgresql://perdure@{host.address}/postgres"
    server = StoreServer(host, folder, command, 5432, url)

    def answers() -> bool:
        # Any query fails while the server recovers.
        command = [
            f"{programs}/psql",
            "-h",
            host.address,
            "-U",
            "perdure",
            "-d",
            "postgres",
            "-c",
            "SELECT 1",
        ]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    server.answers = answers
    return server


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, the newest of those that Debian installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise RuntimeError("no PostgreSQL server found: install Debian's package postgresql")
    return found[-1]


def store_on(kind: str, host: Host, folder: Path) -> StoreProcess:
    """`kind`: "redis" or "postgres"."""
    return {"redis": redis_on, "postgres": postgres_on}[kind](host, folder)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
