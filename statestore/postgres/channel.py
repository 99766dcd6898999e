"""Channel: one connection at a time, opened when it is needed and thrown away when it is in doubt."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import asyncpg

from perdure.errors import StoreUnavailable
from perdure.statestore.postgres.connector import Connector
from perdure.statestore.postgres.errors import mapped, usable_after

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

    from perdure.statestore.postgres.connector import Connection

#: A statement through a pooler: in front of each row stands who answers, and there is a row even if there is none.
_POOLED = """
SELECT server.started, server.timeline, answer.* FROM {schema}.server_1() server
LEFT JOIN LATERAL (SELECT true AS there, statement.* FROM ({sql}) statement) answer ON true
"""


class Channel:
    """Used by one request at a time. `warning`: what the server warned of during the last one, if `watch`."""

    def __init__(self, connector: Connector, *, watch: bool = False) -> None:
        self._connector = connector
        self._connection: Connection | None = None
        self._generation = 0
        self._prepared: dict[str, PreparedStatement[asyncpg.Record]] = {}
        self._watch = watch
        self.warning: str | None = None

    async def fetch(self, sql: str, *arguments: object) -> list[Any]:
        """The rows of a statement that begins with SELECT and is a transaction of its own. Raises the store's errors.
        After one that leaves the connection in doubt, the connection is thrown away: what the server may still do
        with it, it does unseen."""
        try:
            connection = await self._ready()
            self.warning = None
            if self._connector.pooled:
                return await self._fetch_pooled(connection, sql, arguments)
            prepared = self._prepared.get(sql)
            if prepared is None:
                prepared = self._prepared[sql] = await connection.prepare(sql)
            rows = await prepared.fetch(*arguments)
            if self._generation != self._connector.generation:
                raise StoreUnavailable("PostgreSQL: another server answers now, which may have lost this")
            return rows
        except BaseException as error:
            if not usable_after(error):
                if isinstance(error, Exception) and self._connection is not None:
                    self._connector.broke()
                self._discard()
            if isinstance(error, Exception):
                raise mapped(error) from error
            raise

    async def _fetch_pooled(
        self, connection: Connection, sql: str, arguments: tuple[object, ...]
    ) -> list[Any]:
        """Each request may reach another server: no answer of one that may have lost something goes out before that
        was told."""
        schema = self._connector.options.schema
        rows = await connection.fetch(_POOLED.format(schema=schema, sql=sql), *arguments)
        started, timeline = rows[0][0], rows[0][1]
        if not self._connector.knows(started, timeline):
            await self._connector.look(connection)
            if not self._connector.knows(started, timeline):
                raise StoreUnavailable("PostgreSQL: the pooler leads to several servers")
            self._generation = self._connector.generation
        return [tuple(row)[3:] for row in rows if row[2]]

    async def _ready(self) -> Connection:
        connection = self._connection
        if connection is not None:
            if not connection.is_closed() and self._generation == self._connector.generation:
                return connection
            if connection.is_closed():
                self._connector.broke()
            self._discard()
        connection, self._generation = await self._connector.connect()
        self._connection = connection
        self._prepared.clear()
        if self._watch:
            connection.add_log_listener(self._logged)
        return connection

    def _logged(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        if getattr(message, "severity_en", None) == "WARNING":
            self.warning = str(message)

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        self._prepared.clear()
        if connection is not None:
            self._connector.part(connection)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._prepared.clear()
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close(timeout=1)
