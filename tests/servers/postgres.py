"""Real PostgreSQL servers on free loopback ports, for tests, benchmarks and fault runs.

    with postgres_server() as server:
        store = open_store(server.url(schema="mine"))
        server.kill()       # SIGKILL to all its processes, as in a power cut without the loss of the disk's cache
        server.start()

Debian's `/usr/lib/postgresql/<newest>/bin`, or what is in PATH. PostgreSQL refuses to run as root, so root runs it as the
user `postgres` or `nobody`. A server ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from tests.servers.ports import free_port

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0
USER = "perdure"
DATABASE = "perdure"

#: What every server has unless it is told otherwise. What is acknowledged is durable, as with PostgreSQL's defaults.
SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "fsync": "on",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # Else each kill leaves segments behind in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "max_wal_size": "1GB",
    "wal_level": "replica",
    "log_checkpoints": "off",
    "log_min_messages": "warning",
}


class PostgresServer:
    """One data directory and the server on it: one at a time."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def url(
        self, *, user: str = USER, database: str = DATABASE, address: str | None = None, **options: object
    ) -> str:
        """The store's URL, with these options. `address`: of a proxy or pooler before the server."""
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}@{address or self.address}/{database}{query}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # --- life --------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server, and returns when it takes connections."""
        assert not self.running, "the server runs already"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_user("--pdeathsig", "KILL"), str(programs() / "postgres"), "-D", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        deadline = time.monotonic() + PATIENCE
        while self._status() not in ("ready", "standby"):
            if not self.running or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends the server in good order (`fast`: what is connected is cut off), and returns when it is gone."""
        if self._process is not None:
            self.resume()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to all processes of the server at once. What it was doing stops where it is."""
        if self._process is not None:
            family = self._family()
            for pid in family:
                _signal(pid, signal.SIGKILL)
            self._process.wait()
            # Backends whose parent is gone belong to init: wait until none can still write.
            deadline = time.monotonic() + PATIENCE
            while any(map(_alive, family)) and time.monotonic() < deadline:
                time.sleep(0.005)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open, and nothing is answered."""
        for pid in self._family():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        for pid in self._family():
            _signal(pid, signal.SIGCONT)

    def promote(self) -> None:
        """Makes a replica the primary, and returns when it is."""
        self._run("pg_ctl", "promote", "-D", str(self.folder), "-w")

    # --- asking it ---------------------------------------------------------------------------------------------------

    def sql(self, text: str, *, database: str = DATABASE) -> str:
        """What `psql` prints for some SQL, without decoration."""
        return self._run(
            "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text, self.url(database=database)
        ).strip()

    def configure(self, **settings: str) -> None:
        """Adds settings, for the next start."""
        with (self.folder / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    # --- processes ---------------------------------------------------------------------------------------------------

    def _status(self) -> str:
        """The last line of `postmaster.pid`, if this process wrote it."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return ""
        assert self._process is not None
        return lines[7].strip() if len(lines) > 7 and lines[0] == str(self._process.pid) else ""

    def _family(self) -> list[int]:
        """The server's processes, the first one first: it makes no new ones once it is stopped."""
        if self._process is None or self._process.poll() is not None:
            return []
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [parent, *map(int, children)]

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [*_as_user(), str(programs() / program), *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}{done.stdout}"
        return done.stdout


@contextlib.contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """A new server that runs, with a user `perdure` (superuser, no password) and a database `perdure`. With fsync=off
    its data is in memory."""
    with _folder(memory=settings.get("fsync") == "off") as folder:
        server = PostgresServer(folder / "data", free_port())
        shutil.copytree(_template(), server.folder, symlinks=True, copy_function=_copy)
        _own(server.folder)
        server.configure(**{**SETTINGS, "port": str(server.port), **settings})
        try:
            server.start()
            yield server
        finally:
            server.kill()  # Nobody wants what it would write in an ordered stop.


@contextlib.contextmanager
def replica(primary: PostgresServer, **settings: str) -> Iterator[PostgresServer]:
    """A server that follows another one, asynchronously unless the primary's settings say otherwise. Its name for
    `synchronous_standby_names` is `replica`."""
    with _folder() as folder:
        server = PostgresServer(folder / "data", free_port())
        address = f"postgresql://{USER}@127.0.0.1:{primary.port}/?application_name=replica"
        primary._run("pg_basebackup", "-d", address, "-D", str(server.folder), "-R", "-c", "fast")
        # It looks for a primary that is gone only so long.
        server.configure(**{"port": str(server.port), "wal_retrieve_retry_interval": "100ms", **settings})
        try:
            server.start()
            yield server
        finally:
            server.kill()  # Nobody wants what it would write in an ordered stop.


@contextlib.contextmanager
def pooler(server: PostgresServer, *, connections: int = 3) -> Iterator[str]:
    """The address of a pgbouncer before a server, in transaction mode: with so few connections to it that whoever asks
    twice gets different ones."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    assert Path(program).exists(), "pgbouncer is not installed (Debian: apt install pgbouncer)"
    port = free_port()
    with _folder() as folder:
        (folder / "users").write_text(f'"{USER}" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host=127.0.0.1 port={server.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = trust
            auth_file = {folder}/users
            pool_mode = transaction
            default_pool_size = {connections}
            max_client_conn = 200
            server_round_robin = 1
            server_login_retry = 1
            """.replace("            ", "")
        )
        _own(folder)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*_as_user("--pdeathsig", "KILL"), program, str(folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            _wait_for_port(port, process, folder / "log")
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"pgbouncer did not start:\n{log.read_text()}") from None
            time.sleep(0.01)
        else:
            return


@functools.cache
def programs() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0])
    )
    in_path = shutil.which("initdb")
    if not found and in_path is None:
        raise AssertionError(
            "PostgreSQL is not installed: there is no initdb (Debian: apt install postgresql)"
        )
    return (found[-1] if found else Path(str(in_path))).resolve().parent


@functools.cache
def _template() -> Path:
    """An empty data directory, made once for each process: a copy takes a tenth of the time of a new one."""
    context = _folder(memory=True)
    folder = context.__enter__()
    import atexit

    atexit.register(context.__exit__, None, None, None)
    template = PostgresServer(folder / "data", free_port())
    template.folder.mkdir()
    _own(template.folder)
    template._run(
        "initdb", "-D", str(template.folder), "-U", USER, "-A", "trust", "-E", "UTF8",
        "--locale=C", "--no-sync", "--no-instructions",
    )  # fmt: skip
    single = subprocess.run(
        [*_as_user(), str(programs() / "postgres"), "--single", "-D", str(template.folder), "postgres"],
        input=f"CREATE DATABASE {DATABASE}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert single.returncode == 0, single.stderr
    return template.folder


@contextlib.contextmanager
def _folder(*, memory: bool = False) -> Iterator[Path]:
    """A temporary folder that the server's user can get at, unlike those of pytest. `memory`: not on a disk."""
    where = "/dev/shm" if memory and os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="perdure-postgres-", dir=where))
    try:
        _own(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _user() -> pwd.struct_passwd | None:
    """Whom root runs the server as; None for anybody else."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _as_user(*options: str) -> list[str]:
    """What to put before a command: the process stays the same, so that its pid is the program's."""
    user = _user()
    who = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"] if user else []
    return ["setpriv", *who, *options, "--"] if who or options else []


def _own(folder: Path) -> None:
    user = _user()
    if user is not None:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    shutil.copymode(source, target)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
