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
from perdure.statestore.postgres.errors import mapped, usable_after
from perdure.statestore.postgres.lineage import Lineage, Server
from perdure.statestore.postgres.options import Options

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

logger = logging.getLogger("perdure.statestore")

#: The oldest release of PostgreSQL, as `server_version_num`.
OLDEST = 130000
#: What makes every statement's plan the one that it was written for, whatever the statistics of a new or growing table
#: say: a sequential scan that was right for ten rows would stay in a prepared statement when there are a million.
_PLANS = (
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
)

_SERVER = """
SELECT pg_backend_pid() AS pid, pg_is_in_recovery() AS standby,
    current_setting('transaction_read_only') = 'on' AS read_only,
    current_setting('server_version_num')::integer AS release, current_setting('server_encoding') AS encoding,
    current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    pg_postmaster_start_time()::text AS started,
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
        # One after the other: the order in which servers are looked at is the order in which they are admitted.
        self._admitting = asyncio.Lock()

    def on_rollback(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def broke(self) -> None:
        """A connection is gone, and nobody here had closed it."""
        self._broke = True

    async def connect(self) -> Connection:
        """A connection that may be used. Raises what asyncpg raises, and `StoreUnavailable` for a server that cannot
        be used now."""
        if not self._probed:
            connection = await self._open(self.options.dsn, cached=False)
            try:
                row = await self._look(connection)
                self.pooled = row["pid"] != connection.get_server_pid()
                self._probed = True
            finally:
                connection.terminate()
        connection = await self._open(self.options.dsn, cached=not self.pooled)
        return await self._admitted(connection, pooled=self.pooled)

    async def connect_directly(self) -> Connection:
        """A connection to the server itself. `ConfigurationError` where a pooler stands between."""
        connection = await self._open(self.options.direct, cached=True)
        return await self._admitted(connection, pooled=False)

    async def look(self, connection: Connection) -> None:
        """Looks again at who answers. For connections through a pooler, which may be led to another server."""
        async with self._admitting:
            self._admit(await self._look(connection))

    async def _open(self, dsn: str, *, cached: bool) -> Connection:
        return await asyncpg.connect(
            dsn,
            timeout=self.options.timeout,
            command_timeout=self.options.timeout,
            statement_cache_size=256 if cached else 0,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": f"perdure {self.options.schema}"},
        )

    async def _admitted(self, connection: Connection, *, pooled: bool) -> Connection:
        try:
            async with self._admitting:
                row = await self._look(connection)
                if not pooled and row["pid"] != connection.get_server_pid():
                    raise ConfigurationError(
                        f"{self.options.where} is a pooler, by which a session may move from one connection of the"
                        " server to another; name the server itself with direct=…, or the pooler's kind with"
                        " pooler=transaction"
                    )
                self._admit(row)
            if not pooled:
                settings = [*_PLANS]
                if self.options.synchronous_commit is not None:
                    settings.append(("synchronous_commit", self.options.synchronous_commit))
                calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings)
                await connection.fetch(f"SELECT {calls}")
        except BaseException:
            connection.terminate()
            raise
        return connection

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
                callback(reason)

    def _where(self) -> dict[str, Any]:
        return fields(store=self.options.where)


class Channel:
    """One connection at a time: opened when it is needed, and again after it was lost. Used by one at a time."""

    def __init__(self, connector: Connector, *, watch: bool = False) -> None:
        self._connector = connector
        self._connection: Connection | None = None
        self._generation = 0
        self._prepared: dict[str, PreparedStatement[asyncpg.Record]] = {}
        self._watch = watch
        #: The server's last warning during the last request, if `watch`.
        self.warning: str | None = None

    async def fetch(self, sql: str, *arguments: object, timeout: float | None = None) -> list[Any]:
        """The rows of a statement that is a transaction of its own. Raises the store's errors. After one that leaves
        the connection in doubt, the connection is thrown away: what the server still does with it is done unseen."""
        try:
            connection = await self._ready()
            self.warning = None
            if self._connector.pooled:
                return await connection.fetch(sql, *arguments, timeout=timeout)
            prepared = self._prepared.get(sql)
            if prepared is None:
                prepared = self._prepared[sql] = await connection.prepare(sql, timeout=timeout)
            return await prepared.fetch(*arguments, timeout=timeout)
        except BaseException as error:
            if not usable_after(error):
                if isinstance(error, Exception):
                    self._connector.broke()
                self.discard()
            if isinstance(error, Exception):
                raise mapped(error) from error
            raise

    async def _ready(self) -> Connection:
        connection = self._connection
        if connection is not None:
            if not connection.is_closed() and self._generation == self._connector.generation:
                return connection
            if connection.is_closed():
                self._connector.broke()
            self.discard()
        connection = self._connection = await self._connector.connect()
        self._generation = self._connector.generation
        self._prepared.clear()
        if self._watch:
            connection.add_log_listener(self._logged)
        return connection

    def _logged(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        if getattr(message, "severity_en", None) == "WARNING":
            self.warning = str(message)

    def discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close(timeout=1)
