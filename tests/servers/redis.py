"""Real Redis servers on free loopback ports, for tests, benchmarks and fault runs.

    with redis_server() as server:
        store = open_store(server.url())
        server.kill()       # SIGKILL
        server.start()      # again, on the same folder and port

A server ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote, urlencode

import hiredis

from perdure.statestore.redis.link import packed
from tests.servers.ports import free_port

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0

#: The server's program: of another release, or of Valkey, for trying these.
PROGRAM = os.environ.get("PERDURE_REDIS_SERVER", "redis-server")

#: What every server has unless it is told otherwise. What is acknowledged is on disk.
SETTINGS: Mapping[str, str] = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}


S = TypeVar("S", bound="RedisServer")


class RedisServer:
    """One folder and the server on it: one process at a time."""

    def __init__(self, folder: Path, port: int, **settings: str) -> None:
        """`settings`: of redis.conf, with underscores for hyphens."""
        self.folder = folder
        self.port = port
        self.settings = dict(SETTINGS)
        self.configure(**settings)
        #: As whom `command` asks.
        self.user: str | None = None
        self.password: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, *, user: str = "", password: str = "", database: int = 0, **options: object) -> str:
        """The store's URL, with these options."""
        login = f"{quote(user, '')}:{quote(password, '')}@" if user or password else ""
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
        program = shutil.which(PROGRAM)
        if program is None:
            raise RuntimeError(f"no {PROGRAM} found: install Debian's package redis-server")
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
        """Ends and starts it, both in good order."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        self._signal(signal.SIGCONT)

    # --- asking it ---------------------------------------------------------------------------------------------------

    def command(self, *words: str | bytes | int, patience: float = PATIENCE) -> Any:
        """The answer to one command, over a connection of its own; `hiredis.ReplyError` is raised."""
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as link:
            commands = [words] if self.user is None else [("AUTH", self.user, self.password or ""), words]
            for command in commands:
                link.sendall(packed(*command))
                while (reply := reader.gets()) is False:
                    data = link.recv(1 << 16)
                    if not data:
                        raise ConnectionResetError("the server closed the connection")
                    reader.feed(data)
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
        return reply

    def until(self, true: Callable[[], object], what: str) -> None:
        """Returns when a state is reached; errors of the server while it is on its way do not count."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, hiredis.ReplyError, KeyError):
                if true():
                    return
            time.sleep(0.01)
        raise AssertionError(f"not within {PATIENCE:g} s: {what}\n{self.log()[-3000:]}")

    def follow(self, primary: RedisServer) -> None:
        """Makes it a replica, and returns when it has all that the primary has."""
        self.command("REPLICAOF", "127.0.0.1", primary.port)
        self.until(self.follows, "replication")

    def follows(self) -> bool:
        """Whether it is a replica that has what its primary has."""
        # While it writes its first append-only file it cannot be stopped.
        facts = self.info("replication") | self.info("persistence")
        busy = facts["aof_rewrite_in_progress"], facts["aof_rewrite_scheduled"]
        return facts["master_link_status"] == "up" and busy == ("0", "0")

    def catch_up(self, primary: RedisServer) -> None:
        """Returns when it has what the primary has now."""
        offset = int(primary.info("replication")["master_repl_offset"])
        self.until(lambda: int(self.info("replication")["slave_repl_offset"]) >= offset, "replication")

    def promote(self) -> None:
        """Makes a replica a primary."""
        self.command("REPLICAOF", "NO", "ONE")

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

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self.resume()
        deadline = time.monotonic() + PATIENCE
        while self.running:
            # Again and again: a server that is busy with its files says no to the first one.
            self._signal(number if time.monotonic() < deadline else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)


class SentinelServer(RedisServer):
    """One sentinel that watches one service."""

    def _arguments(self) -> list[str]:
        # The sentinel itself rewrites its file: it is written once.
        config = self.folder / "redis.conf"
        if not config.exists():
            lines = [f"{name} {value}" for name, value in self.settings.items() if name not in SETTINGS]
            config.write_text(
                "\n".join([f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", *lines, ""])
            )
        return [str(config), "--sentinel"]


@contextlib.contextmanager
def redis_server(**settings: str) -> Iterator[RedisServer]:
    """A server that is started, and ended with the block."""
    with _several() as made:
        server = made(RedisServer, **settings)
        server.start()
        yield server


@contextlib.contextmanager
def redis_replicated(replicas: int = 1, **settings: str) -> Iterator[list[RedisServer]]:
    """A primary, and then its replicas."""
    settings = {"repl_diskless_sync_delay": "0", "repl_ping_replica_period": "1", **settings}
    with _several() as made:
        servers = [made(RedisServer, **settings) for _ in range(1 + replicas)]
        for server in servers:
            server.start()
        for server in servers[1:]:
            server.follow(servers[0])
        yield servers


SERVICE = "perdure"


class Watched(NamedTuple):
    """A service that sentinels watch."""

    servers: list[RedisServer]
    sentinels: list[SentinelServer]

    def url(self, **options: object) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{SERVICE}" + (f"?{urlencode(options)}" if options else "")

    def primary(self) -> RedisServer:
        """Which server the first sentinel names."""
        _, port = self.sentinels[0].command("SENTINEL", "get-master-addr-by-name", SERVICE)
        return next(server for server in self.servers if server.port == int(port))


@contextlib.contextmanager
def redis_watched(**settings: str) -> Iterator[Watched]:
    """A primary, a replica, and three sentinels that promote it when the primary is silent for half a second."""
    with redis_replicated(1, **settings) as servers, _several() as made:
        sentinels = []
        for _ in range(3):
            sentinel = made(SentinelServer)
            sentinel.configure(
                **{
                    "sentinel monitor": f"{SERVICE} 127.0.0.1 {servers[0].port} 2",
                    "sentinel down-after-milliseconds": f"{SERVICE} 500",
                    "sentinel failover-timeout": f"{SERVICE} 3000",
                }
            )
            sentinel.start()
            sentinels.append(sentinel)
        for sentinel in sentinels:
            sentinel.until(partial(_acquainted, sentinel), "the sentinels know each other and the replica")
        yield Watched(servers, sentinels)


def _acquainted(sentinel: RedisServer) -> bool:
    flat = sentinel.command("SENTINEL", "MASTER", SERVICE)
    facts = dict(zip(flat[::2], flat[1::2], strict=True))
    wanted = {b"num-other-sentinels": b"2", b"num-slaves": b"1", b"flags": b"master"}
    return all(facts[name] == value for name, value in wanted.items())


class RedisCluster:
    """Primaries that share the slots, each with as many replicas."""

    def __init__(self, servers: list[RedisServer], primaries: int) -> None:
        self.servers = servers
        self.primaries = servers[:primaries]

    def url(self, **options: object) -> str:
        places = ",".join(f"127.0.0.1:{server.port}" for server in self.primaries)
        return f"redis+cluster://{places}" + (f"?{urlencode(options)}" if options else "")

    def owner(self, slot: int) -> RedisServer:
        """Who has a slot, as the first server sees it."""
        for first, last, primary, *_ in self.servers[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == primary[1])
        raise AssertionError(f"slot {slot} has no server")

    def id(self, server: RedisServer) -> str:
        return str(server.command("CLUSTER", "MYID").decode())

    def replicate(self, server: RedisServer, primary: RedisServer) -> None:
        """Makes a server a replica, and returns when it has all that the primary has."""
        server.until(lambda: server.command("CLUSTER", "REPLICATE", self.id(primary)), "a replica")
        server.until(server.follows, "replication")

    def clear(self) -> None:
        for server in self.primaries:
            server.command("FLUSHALL")

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """From here on keys of the slot may be on either server."""
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, most: int = 1_000_000) -> int:
        """Moves keys of the slot; how many."""
        keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, most)
        for key in keys:
            source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        return len(keys)

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """The slot is the target's."""
        for server in (target, source, *self.servers):
            with contextlib.suppress(hiredis.ReplyError):
                server.command("CLUSTER", "SETSLOT", slot, "NODE", self.id(target))


@contextlib.contextmanager
def redis_cluster(primaries: int = 3, replicas: int = 0, **settings: str) -> Iterator[RedisCluster]:
    """A cluster that is ready; `replicas` of each primary."""
    settings = {
        "cluster_enabled": "yes",
        # A busy machine is no dead node, unless a test says so.
        "cluster_node_timeout": "15000",
        "cluster_replica_validity_factor": "0",
        "repl_diskless_sync_delay": "0",
        **settings,
    }
    with _several() as made:
        servers = [made(RedisServer, **settings) for _ in range(primaries * (1 + replicas))]
        for number, server in enumerate(servers):
            server.start()
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, server in enumerate(servers[:primaries]):
            first, last = 16384 * number // primaries, 16384 * (number + 1) // primaries - 1
            server.command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
        for server in servers[1:]:
            servers[0].command("CLUSTER", "MEET", "127.0.0.1", server.port)
        cluster = RedisCluster(servers, primaries)
        for server in servers:
            server.until(partial(_knows, server, len(servers)), "the nodes know each other")
        for number, server in enumerate(servers[primaries:]):
            cluster.replicate(server, servers[number % primaries])
        for server in servers:
            server.until(partial(_ready, server), "the cluster is ready")
        yield cluster


def _knows(server: RedisServer, others: int) -> bool:
    return cluster_info(server)["cluster_known_nodes"] == str(others)


def _ready(server: RedisServer) -> bool:
    return cluster_info(server)["cluster_state"] == "ok"


def cluster_info(server: RedisServer) -> dict[str, str]:
    lines = server.command("CLUSTER", "INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


class _Maker(Protocol):
    def __call__(self, kind: type[S], **settings: str) -> S: ...


@contextlib.contextmanager
def _several() -> Iterator[_Maker]:
    """Makes servers, each in a folder of its own; all are ended with the block."""
    made: list[RedisServer] = []
    with tempfile.TemporaryDirectory(prefix="redis-", ignore_cleanup_errors=True) as name:

        def make(kind: type[S], **settings: str) -> S:
            folder = Path(name) / str(len(made))
            folder.mkdir()
            server = kind(folder, free_port(), **settings)
            made.append(server)
            return server

        try:
            yield make
        finally:
            for server in made:
                server.kill()
