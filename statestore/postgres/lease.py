"""PostgresLease: an advisory lock of a session that does nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from asyncpg.prepared_stmt import PreparedStatement

from perdure.errors import ConfigurationError, StoreError
from perdure.statestore.postgres.errors import mapped
from perdure.statestore.postgres.ids import lock_key

if TYPE_CHECKING:
    from perdure.statestore.postgres.connector import Connection
    from perdure.statestore.postgres.store import PostgresStore

#: Seconds without a sign of life after which the server ends the holder's session, and with it the lock: of a holder
#: whose network is cut, whose machine is gone, or which stands still.
LAPSE = 3
#: Seconds that a renewal may take.
RENEW = 2.0


class PostgresLease:
    """One contender for a lease of a `PostgresStore`. The lock goes with the session, and the session with the
    process: so it is free as soon as the server notices that either is gone."""

    def __init__(self, store: PostgresStore, name: str) -> None:
        self._store = store
        self._name = name
        self._key = lock_key(store.options.schema, f"lease {name}")
        self._table = f"{store.options.schema}.leases"
        self._connection: Connection | None = None
        self._statements: _Statements
        self._generation = 0
        self._term: int | None = None
        #: Writes under the term, and those of them that were answered.
        self._writes = 0
        self._answered = 0
        # One request at a time, as the connection has it.
        self._busy = asyncio.Lock()

    async def acquire(self) -> int | None:
        await self._store.settings()
        async with self._busy:
            try:
                return await self._acquire()
            except BaseException as error:
                # The term may be stored or not; a later one will be higher either way.
                self._lose()
                if isinstance(error, ConfigurationError):
                    raise
                if isinstance(error, Exception):
                    raise mapped(error) from error
                raise

    async def _acquire(self) -> int | None:
        connector = self._store.connector
        connection = self._connection
        if connection is None or connection.is_closed() or self._generation != connector.generation:
            self._lose()
            connection, self._generation = await connector.connect_directly()
            self._connection = connection
            await connection.execute(_LIVELY)
            # While a statement is being prepared the server waits for more without counting the time, so this is done
            # before there is a lock that a holder that stands still just then would keep.
            lock = _LOCK if connection.get_server_version().major >= 14 else _LOCK_BEFORE_14
            self._statements = _Statements(
                *[
                    await connection.prepare(text.format(table=self._table, lapse=LAPSE))
                    for text in (lock, _BEGIN, _WRITE, _RENEW)
                ]
            )
        if self._term is None and not await self._statements.lock.fetchval(self._key):
            return None
        self._term = None
        self._writes = self._answered = 0
        term: int = await self._statements.begin.fetchval(self._name, self._store.now() // 1000)
        self._term = term
        return term

    async def read(self) -> bytes | None:
        return await self._store.read_lease(self._name)

    async def write(self, value: bytes) -> None:
        async with self._busy:
            self._writes += 1
            number = self._writes
            found = await self._ask("write", number, value)
            if found is None:
                self._lose()
                raise self._not_held("a higher term was acquired")
            self._answered = number

    async def renew(self) -> None:
        async with self._busy:
            found = await self._ask("renew", self._answered, seconds=RENEW)
            if found is None:
                self._lose()
                raise self._not_held("a higher term was acquired, or the server lost what was written")

    async def release(self) -> None:
        async with self._busy:
            connection, held = self._connection, self._term is not None
            self._term = None
            if connection is None or not held:
                return
            try:
                await connection.execute(f"SELECT pg_advisory_unlock({self._key})")
                if connection.get_server_version().major >= 14:
                    await connection.execute("SET idle_session_timeout = 0")
            except Exception:  # noqa: BLE001 - whatever it was, the lock goes with the session
                self._lose()

    async def close(self) -> None:
        """Ends the session."""
        async with self._busy:
            self._lose()

    async def _ask(
        self, statement: Literal["write", "renew"], *arguments: object, seconds: float | None = None
    ) -> object:
        """One statement under the term, in the session that has the lock: an answer proves that it has it."""
        if self._term is None or self._connection is None:
            raise self._not_held("it was not acquired, or is lost")
        try:
            async with asyncio.timeout(seconds):
                prepared: PreparedStatement[Any] = getattr(self._statements, statement)
                found: object = await prepared.fetchval(self._name, self._term, *arguments)
        except BaseException as error:
            # The session may be gone, and the lock another's.
            self._lose()
            if isinstance(error, Exception):
                raise self._not_held(f"its session is lost: {mapped(error)}") from error
            raise
        if self._generation != self._store.connector.generation:
            self._lose()
            raise self._not_held("another server answers now")
        return found

    def _lose(self) -> None:
        """Ends the session. What the server may still do for it, it does before the lock is another's, or under a
        term that is not the newest any more."""
        self._term = None
        connection, self._connection = self._connection, None
        if connection is not None:
            self._store.connector.part(connection)

    def _not_held(self, why: str) -> StoreError:
        return StoreError(f"the lease {self._name!r} is not held: {why}")


class _Statements(NamedTuple):
    """What is asked in the session that may have the lock, each in one message."""

    lock: PreparedStatement[Any]
    begin: PreparedStatement[Any]
    write: PreparedStatement[Any]
    renew: PreparedStatement[Any]


#: True if it is had; from then on the server ends the session when it says nothing.
_LOCK = """
SELECT CASE WHEN pg_try_advisory_lock($1) THEN set_config('idle_session_timeout', '{lapse}s', false) IS NOT NULL END
"""
_LOCK_BEFORE_14 = "SELECT pg_try_advisory_lock($1)"
_BEGIN = """
INSERT INTO {table} AS l (name, term, writes) VALUES ($1, $2, 0) ON CONFLICT (name) DO UPDATE
SET term = greatest(l.term + 1, excluded.term), writes = 0 RETURNING term
"""
_WRITE = """
UPDATE {table} SET value = $4, writes = $3 WHERE name = $1 AND term = $2 AND writes < $3 RETURNING 1
"""
_RENEW = "SELECT 1 FROM {table} WHERE name = $1 AND term = $2 AND writes >= $3"
#: So that the server notices soon that nobody is there any more.
_LIVELY = f"""
SET tcp_keepalives_idle = 1; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 2;
SET tcp_user_timeout = {LAPSE * 1000}
"""
