"""The schema: its migrations, and what was fixed when it was first used."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from perdure.errors import ConfigurationError, StoreFormat
from perdure.statestore.contract import DEFAULT_PARTITIONS, FORMAT_VERSION, Settings
from perdure.statestore.postgres.ids import lock_key
from perdure.statestore.postgres.options import Options

if TYPE_CHECKING:
    from perdure.statestore.postgres.connector import Connection

#: Seconds that a process waits for another one's migration, and that the server waits for one that went silent.
PATIENCE = 30


async def prepare(connection: Connection, options: Options, partitions: int | None) -> Settings:
    """Brings the schema up to date, and fixes the settings of a new store. Any number of processes may do so at the
    same time, also through a pooler. Raises what asyncpg raises, and `ConfigurationError`."""
    stored = await _stored(connection, options.schema)
    if stored.get("schema") != _migrations()[-1][0] or "format" not in stored:
        _check(stored, options)
        async with connection.transaction():
            await connection.execute(
                f"SET LOCAL lock_timeout = '{PATIENCE}s'; SET LOCAL idle_in_transaction_session_timeout = '{PATIENCE}s'"
            )
            # Of the transaction, not of the session: a pooler would give the session, lock and all, to another.
            await connection.execute(f"SELECT pg_advisory_xact_lock({lock_key(options.schema, 'migration')})")
            stored = await _stored(connection, options.schema)
            _check(stored, options)
            stored = await _migrate(connection, options, stored, partitions)
    _check(stored, options)
    if partitions is not None and stored["partitions"] != partitions:
        raise ConfigurationError(
            f"{options.where} (schema {options.schema}) has {stored['partitions']} partitions, not {partitions}"
        )
    return Settings(partitions=stored["partitions"], format_version=stored["format"])


def _migrations() -> list[tuple[int, str]]:
    """Number and SQL of each, in order."""
    files = resources.files(__package__).joinpath("migrations").iterdir()
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8")) for file in files if file.name.endswith(".sql")
    )


async def _stored(connection: Connection, schema: str) -> dict[str, int]:
    """The stored settings; empty where there is no store yet."""
    try:
        # In a transaction of its own, so that it can fail without ending the one around it.
        async with connection.transaction():
            rows = await connection.fetch(f"SELECT name, value FROM {schema}.settings")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return {}
    return {row["name"]: row["value"] for row in rows}


def _check(stored: dict[str, int], options: Options) -> None:
    newest = _migrations()[-1][0]
    for kind, known in (("schema", newest), ("format", FORMAT_VERSION)):
        if stored.get(kind, 0) > known:
            raise StoreFormat(
                f"{options.where} (schema {options.schema}) has {'state format' if kind == 'format' else kind}"
                f" {stored[kind]}; this release knows {known}: use the newer release"
            )


async def _migrate(
    connection: Connection, options: Options, stored: dict[str, int], partitions: int | None
) -> dict[str, int]:
    schema = options.schema
    if not stored:
        exists = await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema)
        if not exists:
            await connection.execute(f"CREATE SCHEMA {schema}")
        elif await connection.fetchval(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 LIMIT 1",
            schema,
        ):
            raise ConfigurationError(
                f"the schema {schema} of {options.where} is another program's; choose one with schema=…"
            )
    for number, sql in _migrations():
        if number > stored.get("schema", 0):
            await connection.execute(sql.replace("perdure.", f"{schema}."))
            stored["schema"] = number
    stored.setdefault("partitions", partitions or DEFAULT_PARTITIONS)
    stored.setdefault("format", FORMAT_VERSION)
    await connection.executemany(
        f"INSERT INTO {schema}.settings (name, value) VALUES ($1, $2)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        list(stored.items()),
    )
    return stored
