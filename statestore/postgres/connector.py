"""Connector: opens connections, and lets none through before it is known what its server may have lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.logs import fields
from perdure.statestore.postgres.lineage import Lineage, Server
from perdure.statestore.postgres.options import Options

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

logger = logging.getLogger("perdure.statestore")

#: The oldest release of PostgreSQL, as `server_version_num`.
OLDEST = 130000
#: Seconds that a connection in doubt has to cancel what the server does for it, before it is cut off.
FAREWELL = 2.0

_SERVER = """
SELECT pg_backend_pid() AS pid, pg_is_in_recovery() AS standby,
    current_setting('transaction_read_only') = 'on' AS read_only,
    current_setting('server_version_num')::integer AS release, current_setting('server_encoding') AS encoding,
    current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    extract(epoch FROM pg_postmaster_start_time())::text AS started,
    CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_flush_lsn() - '0/0')::bigint END AS position,
    CASE WHEN NOT pg_is_in_recovery() THEN
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END AS timeline,
    {system} AS system
"""
_SYSTEM = "(SELECT system_identifier FROM pg_control_system())"


class Connector:
    """Opens connections for one store. `pooled`: whether each request may reach another session of the server."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pooled = options.pooler == "transaction"
        self._probed = options.pooler != "auto"
        self._lineage = Lineage()
        #: Goes up whenever acknowledged writes may be gone: connections of before are of no use then.
        self.generation = 0
        self._callbacks: list[Callable[[str], None]] = []
        #: A connection was lost since the last one was let through.
        self._broke = False
        self._warned = False
        self._system = _SYSTEM
        self._closed = False
        self._farewells: set[asyncio.Task[None]] = set()
        # One after the other: the order in which servers are looked at is the order in which they are admitted.
        self._admitting = asyncio.Lock()

    def on_rollback(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def broke(self) -> None:
        """A connection is gone, and nobody here had closed it."""
        self._broke = True

    def knows(self, started: str, timeline: int) -> bool:
        """Whether this is the server that was admitted last."""
        known = self._lineage.known
        return known is not None and (known.started, known.timeline) == (started, timeline)

    async def connect(self) -> tuple[Connection, int]:
        """A connection that may be used, and its generation. Raises what asyncpg raises, and `StoreUnavailable` for a
        server that cannot be used now."""
        if not self._probed:
            connection = await self._open(self.options.dsn, cached=False)
            try:
                row = await self._look(connection)
                self.pooled = row["pid"] != connection.get_server_pid()
                self._probed = True
            finally:
                self.part(connection)
        return await self._admitted(await self._open(self.options.dsn, cached=not self.pooled), self.pooled)

    async def connect_directly(self) -> tuple[Connection, int]:
        """As `connect`, but a connection whose session stays the same. `ConfigurationError` where a pooler stands between."""
        return await self._admitted(await self._open(self.options.direct, cached=True), False)

    async def look(self, connection: Connection) -> None:
        """Looks again at who answers. For connections through a pooler, which may be led to another server."""
        async with self._admitting:
            self._admit(await self._look(connection))

    def part(self, connection: Connection) -> None:
        """Lets go of a connection, also one in doubt: what the server still does for it is cancelled, if it can be told.
        A backend that waits for a lock or for a replica would wait on, and each new try would add another one."""
        if not connection.is_closed():
            task = asyncio.get_running_loop().create_task(_farewell(connection), name="perdure-farewell")
            self._farewells.add(task)
            task.add_done_callback(self._farewells.discard)

    async def close(self) -> None:
        """Opens no connection from now on, and waits for those in doubt."""
        self._closed = True
        await asyncio.gather(*self._farewells)

    async def _open(self, dsn: str, *, cached: bool) -> Connection:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return await asyncpg.connect(
            dsn,
            timeout=self.options.timeout,
            command_timeout=self.options.timeout,
            statement_cache_size=256 if cached else 0,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": f"perdure {self.options.schema}"},
        )

    async def _admitted(self, connection: Connection, pooled: bool) -> tuple[Connection, int]:
        try:
            async with self._admitting:
                row = await self._look(connection)
                if not pooled and self.options.pooler != "none" and row["pid"] != connection.get_server_pid():
                    raise ConfigurationError(
                        f"{self.options.where} is a pooler, and leases need a session of the server's own: name the server"
                        " itself with direct=postgresql://…; or say pooler=none if the pooler gives each connection one"
                    )
                self._admit(row)
                generation = self.generation
            if not pooled:
                await connection.fetch(self._settings())
            if self._closed:
                raise StoreUnavailable("the store is closed")
        except BaseException:
            self.part(connection)
            raise
        return connection, generation

    def _settings(self) -> str:
        """Sets what a session keeps. The first five make every statement's plan the one that it was written for,
        whatever the statistics of a new or growing table say: a sequential scan that was right for ten rows would stay
        in a prepared statement when there are a million."""
        limit = f"{self.options.timeout * 1000:.0f}"
        settings = {
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
            # What the functions of the schema are written for, whatever the role's default is.
            "default_transaction_isolation": "read committed",
            "lock_timeout": limit,
            # The server's end of connections whose other end is gone without a word.
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }
        if self.options.synchronous_commit is not None:
            settings["synchronous_commit"] = self.options.synchronous_commit
        calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
        return f"SELECT {calls}"

    async def _look(self, connection: Connection) -> asyncpg.Record:
        try:
            rows = await connection.fetch(_SERVER.format(system=self._system))
        except asyncpg.InsufficientPrivilegeError:
            # Somebody took this right away from all. The timeline still tells of promotions.
            self._system = "0::bigint"
            rows = await connection.fetch(_SERVER.format(system=self._system))
        return rows[0]

    def _admit(self, row: asyncpg.Record) -> None:
        if row["standby"]:
            raise StoreUnavailable(f"PostgreSQL: {self.options.where} is a replica (in recovery)")
        if row["read_only"]:
            raise StoreUnavailable(f"PostgreSQL: {self.options.where} takes no writes (read-only)")
        if row["release"] < OLDEST:
            raise ConfigurationError(
                f"PostgreSQL {OLDEST // 10000} or newer is needed, not {row['release'] // 10000}"
            )
        if row["encoding"] != "UTF8":
            raise ConfigurationError(f"the database's encoding must be UTF8, not {row['encoding']}")
        level = self.options.synchronous_commit or row["synchronous_commit"]
        if not self._warned:
            self._warned = True
            if row["fsync"] == "off":
                logger.warning("the server runs with fsync=off: a crash can destroy it", extra=self._where())
            if level == "off":
                logger.warning(
                    "synchronous_commit is off: a crash loses the last commits", extra=self._where()
                )
        durable = row["fsync"] == "on" and level != "off"
        server = Server(row["system"], row["timeline"], row["started"], row["position"], durable)
        reason = self._lineage.admit(server, broke=self._broke)
        self._broke = False
        if reason is not None:
            self.generation += 1
            logger.error(
                "acknowledged writes may be lost", extra=fields(reason=reason, store=self.options.where)
            )
            for callback in self._callbacks:
                try:
                    callback(reason)
                except Exception:
                    logger.exception("rollback callback failed")

    def _where(self) -> dict[str, Any]:
        return fields(store=self.options.where)


async def _farewell(connection: Connection) -> None:
    # Waits until the driver's request to cancel has been answered; cuts the connection off if it is not in time.
    with contextlib.suppress(Exception):
        await connection.close(timeout=FAREWELL)
