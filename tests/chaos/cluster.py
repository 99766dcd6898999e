"""The processes of a fault run: a store, placement and nodes, each on its host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.chaos.network import Host, Network, network

PROGRAM = Path(__file__).with_name("program.py")
HTTP_PORT = 3500
PEER_PORT = 50002
PLACEMENT_PORT = 50005
#: Seconds in which a process has to say that it is ready, on a busy machine.
PATIENCE = 60.0


class StoreProcess(Protocol):
    """A store's server on a host."""

    url: str

    def start(self) -> None:
        """Starts it, also again with what it kept; returns when it answers."""

    def kill(self) -> None:
        """SIGKILL to all of it."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Server:
    """One program on one host: at most one process at a time."""

    def __init__(self, name: str, host: Host, command: Sequence[str], folder: Path, ready: str) -> None:
        self.name = name
        self.host = host
        #: What the process said of itself when it was ready last.
        self.said = ""
        self._command = host.command(*command)
        self._log = folder / f"{name}.log"
        self._ready = ready
        self._environment = {
            **os.environ,
            "LEDGER": str(folder / "ledger"),
            "NODE": name,
            "PYTHONUNBUFFERED": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.paused = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        self.said = ""
        self._from = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def ready(self) -> None:
        """Returns when the process has said that it serves."""
        deadline = time.monotonic() + PATIENCE
        while not self._has_said():
            if not self.running:
                raise AssertionError(f"{self.name} ended by itself:\n{self.text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} is not ready after {PATIENCE:g} s:\n{self.text()}")
            await asyncio.sleep(0.02)

    def _has_said(self) -> bool:
        with self._log.open("rb") as log:
            log.seek(self._from)
            for line in log.read().decode(errors="replace").splitlines():
                if line.startswith(self._ready):
                    self.said = line
                    return True
        return False

    async def start(self) -> None:
        self.spawn()
        await self.ready()

    def kill(self) -> None:
        """SIGKILL; at once, also when it is paused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.paused = False

    async def stop(self) -> None:
        """SIGTERM, and its end."""
        process = self._process
        assert process is not None
        process.terminate()
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} has not stopped within {PATIENCE:g} s:\n{self.text()}")
            await asyncio.sleep(0.02)
        assert process.returncode == 0, f"{self.name} ended with {process.returncode}:\n{self.text()}"

    def pause(self) -> None:
        if self.running and self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            self.paused = True

    def resume(self) -> None:
        if self.running and self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self.paused = False

    def text(self) -> str:
        return self._log.read_text(errors="replace")[-6000:] if self._log.exists() else ""


class Cluster:
    """Made by `cluster`."""

    def __init__(self, net: Network, store: StoreProcess, folder: Path, *, placement: int) -> None:
        self.net = net
        self.store = store
        self.folder = folder
        self.placement: dict[str, Server] = {}
        self.nodes: dict[str, Server] = {}
        for number in range(1, placement + 1):
            self._add_placement(f"p{number}")

    def _add_placement(self, name: str) -> None:
        host = self.net.add(name)
        command = [sys.executable, "-m", "perdure", "placement", "--store", self.store.url]
        command += ["--host", host.address, "--port", str(PLACEMENT_PORT)]
        self.placement[name] = Server(name, host, command, self.folder, "perdure ")

    def add_node(self, name: str) -> Server:
        """A node that is not started yet."""
        host = self.net.hosts.get(name) or self.net.add(name)
        addresses = ",".join(f"{server.host.address}:{PLACEMENT_PORT}" for server in self.placement.values())
        command = [sys.executable, str(PROGRAM), "--name", name, "--store", self.store.url]
        command += ["--audit", str(self.folder), "--host", host.address, "--placement", addresses]
        node = self.nodes[name] = Server(name, host, command, self.folder, "ready")
        return node

    @property
    def urls(self) -> list[str]:
        """Where the nodes serve HTTP, whether they run or not."""
        return [f"http://{node.host.address}:{HTTP_PORT}" for node in self.nodes.values()]

    def close(self) -> None:
        for server in [*self.nodes.values(), *self.placement.values()]:
            server.kill()
        self.store.kill()


@contextlib.asynccontextmanager
async def cluster(kind: str, folder: Path, *, nodes: int, placement: int) -> AsyncIterator[Cluster]:
    """Everything started, and ended whatever happens. `kind`: "redis" or "postgres"; `folder` exists; `placement`: how many replicas
    of the service, 0 to have the nodes run it themselves."""
    from tests.chaos.stores import store_on

    with network() as net:
        store = store_on(kind, net.add("store"), folder)
        made = Cluster(net, store, folder, placement=placement)
        try:
            store.start()
            for server in made.placement.values():
                await server.start()
            for number in range(1, nodes + 1):
                made.add_node(f"n{number}").spawn()
            for node in made.nodes.values():
                await node.ready()
            yield made
        finally:
            made.close()
