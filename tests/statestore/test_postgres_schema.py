"""PostgreSQL's schema: who may make it, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from perdure.errors import ConfigurationError, StoreFormat, StoreUnavailable
from perdure.statestore import (
    Fence,
    Taken,
    TypePartition,
    open_store,
)
from perdure.statestore.contract import InstanceFilter
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    actor_id,
    put,
    row,
    write,
)
from tests.servers.postgres import PostgresServer
from tests.statestore.postgres_use import new_schema, opened, opened_at, schema, server, store

__all__ = ["opened", "opened_at", "schema", "server", "store"]


async def test_many_processes_open_a_new_store_at_once(opened: Callable[..., PostgresStore]) -> None:
    stores = [opened() for _ in range(5)]
    found = await asyncio.gather(*(store.settings() for store in stores))
    assert {one.partitions for one in found} == {PARTITIONS}
    await asyncio.gather(*(store.take([TypePartition("T", 1)], Fence(1, 1)) for store in stores))


async def test_two_schemas_are_two_stores(server: PostgresServer, store: PostgresStore) -> None:
    """With the same actors, partitions and leases, and nothing in common."""
    other = open_store(server.url(schema=new_schema()), partitions=8)
    try:
        actor = actor_id()
        await write(store, put(actor, None, {"k": b"1"}, row=row(actor, 1)))
        assert await store.lease("one").acquire() is not None
        assert (await other.settings()).partitions == 8
        assert await other.load(actor) is None
        assert list(await other.types()) == []
        assert list(await other.take(ALL[:1], Fence(1, 1))) == [Taken(True)]
        assert list((await other.query(InstanceFilter(type=actor.type))).items) == []
        assert await other.lease("one").acquire() is not None
    finally:
        await other.close()


async def test_the_partition_count_is_fixed_at_first_use(
    server: PostgresServer, schema: str, store: PostgresStore
) -> None:
    other = open_store(server.url(schema=schema), partitions=PARTITIONS + 1)
    with pytest.raises(ConfigurationError, match="has 64 partitions, not 65"):
        await other.settings()
    await other.close()
    unasked = open_store(server.url(schema=schema))
    assert (await unasked.settings()).partitions == PARTITIONS
    await unasked.close()


@pytest.mark.parametrize(("name", "what"), [("schema", "has schema 999"), ("format", "has state format 999")])
async def test_a_newer_release_was_there(
    server: PostgresServer, schema: str, store: PostgresStore, name: str, what: str
) -> None:
    server.sql(f"UPDATE {schema}.settings SET value = 999 WHERE name = '{name}'")
    other = open_store(server.url(schema=schema))
    with pytest.raises(StoreFormat, match=f"{what}; this release knows 1"):
        await other.settings()
    await other.close()


async def test_another_programs_schema(server: PostgresServer, schema: str) -> None:
    """Is not touched."""
    server.sql(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.theirs (a int)")
    store = open_store(server.url(schema=schema))
    with pytest.raises(ConfigurationError, match="another program's; choose one with schema="):
        await store.settings()
    await store.close()
    assert server.sql(f"SELECT count(*) FROM pg_class WHERE relnamespace = '{schema}'::regnamespace") == "1"


async def test_an_ordinary_role_with_an_empty_schema_of_its_own(server: PostgresServer, schema: str) -> None:
    """Needs no other right."""
    server.sql(f"CREATE ROLE {schema} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {schema}")
    store = open_store(server.url(user=schema, schema=schema), partitions=PARTITIONS)
    await store.take(ALL, FENCE)
    await write(store, put(actor_id(), None, {"k": b"1"}))
    lease = store.lease("one")
    assert await lease.acquire() is not None
    await lease.renew()
    await store.health()
    await store.close()
    stranger = open_store(server.url(user=schema, schema=f"{schema}_not"))
    with pytest.raises(StoreUnavailable, match="permission denied"):
        await stranger.settings()
    await stranger.close()


@pytest.mark.parametrize(
    ("user", "database", "message"),
    [("nobody_here", "perdure", "nobody_here"), ("perdure", "nothing_here", "nothing_here")],
)
async def test_a_wrong_url(server: PostgresServer, user: str, database: str, message: str) -> None:
    store = open_store(server.url(user=user, database=database))
    with pytest.raises(ConfigurationError, match=message):
        await store.settings()
    await store.close()


async def test_the_encoding_must_hold_any_text(server: PostgresServer, schema: str) -> None:
    server.sql(f"CREATE DATABASE {schema} ENCODING 'SQL_ASCII' TEMPLATE template0")
    store = open_store(server.url(database=schema))
    with pytest.raises(ConfigurationError, match="must be UTF8, not SQL_ASCII"):
        await store.settings()
    await store.close()


async def test_nobody_is_there(server: PostgresServer) -> None:
    store = open_store("postgresql://perdure:secret@127.0.0.1:1/perdure")
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as error:
            await store.settings()
        assert "secret" not in str(error.value)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.load(actor_id())


async def test_the_view_for_people(server: PostgresServer, schema: str, store: PostgresStore) -> None:
    values = {
        "metadata": b"m", "customStatus": b"c", "é": b"e", "history-000001": b"1", "history-1000000": b"2", "n\0": b"0",
    }  # fmt: skip
    await write(store, put(actor_id("view"), None, values))
    shown = server.sql(
        f"SELECT key, convert_from(value, 'UTF8') FROM {schema}.state"
        f" WHERE actor_type = '{ALL[0].type}' AND actor_id = 'view' ORDER BY key COLLATE \"C\""
    )
    assert shown.splitlines() == [
        "customStatus|c", "history-000001|1", "history-1000000|2", "metadata|m", "n\\000|0", "é|e",
    ]  # fmt: skip
