"""Real Redis servers on free loopback ports, for tests, benchmarks and fault runs.

    with redis_server() as server:
        store = open_store(server.url())
        server.kill()       # SIGKILL
        server.start()      # again, on the same folder and port

A server ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import hiredis

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0

#: What every server has unless it is told otherwise. What is acknowledged is on disk.
SETTINGS: Mapping[str, str] = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}


class RedisServer:
    """One folder and the server on it: one process at a time."""

    program = "redis-server"

    def __init__(self, folder: Path, port: int, **settings: str) -> None:
        """`settings`: of redis.conf, with underscores for hyphens."""
        self.folder = folder
        self.port = port
        self.settings = dict(SETTINGS)
        self.configure(**settings)
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, *, user: str = "", password: str = "", database: int = 0, **options: object) -> str:
        """The store's URL, with these options."""
        login = f"{quote(user)}:{quote(password)}@" if user or password else ""
        path = f"/{database}" if database else ""
        query = f"?{urlencode(options)}" if options else ""
        return f"redis://{login}127.0.0.1:{self.port}{path}{query}"

    def configure(self, **settings: str) -> None:
        """Changes settings, for the next start."""
        self.settings.update({name.replace("_", "-"): value for name, value in settings.items()})

    # --- life --------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Starts the server; `wait`: and returns when it answers."""
        assert not self.running, "the server runs already"
        program = shutil.which(self.program)
        if program is None:
            raise RuntimeError(f"no {self.program} found: install redis-server and redis-sentinel")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when the server answers, with its data read."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, hiredis.ReplyError):
                self.command("PING")
                return
            if not self.running or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends the server in good order, and returns when it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and returns when it is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        self._signal(signal.SIGCONT)

    # --- asking it ---------------------------------------------------------------------------------------------------

    def command(self, *words: object, patience: float = PATIENCE) -> Any:
        """The answer to one command, over a connection of its own; `hiredis.ReplyError` is raised."""
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as link:
            link.sendall(hiredis.pack_command(tuple(map(_word, (*self._login(), *words)))))
            while (reply := reader.gets()) is False:
                data = link.recv(1 << 16)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def info(self, section: str) -> dict[str, str]:
        lines = self.command("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    # --- inside ------------------------------------------------------------------------------------------------------

    def _arguments(self) -> list[str]:
        lines = [
            f'{name} "{value}"' if value == "" else f"{name} {value}" for name, value in self.settings.items()
        ]
        config = self.folder / "redis.conf"
        config.write_text("\n".join([f"port {self.port}", f"dir {self.folder}", *lines, ""]))
        return [str(config)]

    def _login(self) -> tuple[str, ...]:
        return ()

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self.resume()
        self._signal(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)


@contextlib.contextmanager
def redis_server(**settings: str) -> Iterator[RedisServer]:
    """A server that is started, and ended with the block."""
    with tempfile.TemporaryDirectory(prefix="redis-") as name:
        server = RedisServer(Path(name), free_port(), **settings)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _word(word: object) -> str | bytes:
    return word if isinstance(word, bytes) else str(word)
