"""Housekeeping: what is swept, and how much is done at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from perdure.errors import StoreError
from perdure.statestore import (
    ActorId,
)
from perdure.statestore.postgres import PostgresStore, sweeper
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    actor_id,
    all_keys,
    put,
    row,
    write,
)
from tests.servers.postgres import PostgresServer
from tests.statestore.postgres_use import opened, opened_at, schema, server, store
from tests.waiting import eventually

__all__ = ["opened", "opened_at", "schema", "server", "store"]


async def test_what_a_reset_leaves_is_swept(
    server: PostgresServer, schema: str, store: PostgresStore, opened: Callable[..., PostgresStore]
) -> None:
    """In the end nothing is left but what is there, and the sweep of several processes does not disturb."""
    other = opened()
    await other.settings()
    actors = [actor_id(f"a{number}") for number in range(30)]
    versions: dict[ActorId, bytes | None] = dict.fromkeys(actors)
    for generation in range(3):
        for actor in actors:
            values = {f"history-{n:06d}": b"%d" % generation for n in range(100)}
            commit = put(actor, versions[actor], values, reset=True)
            await (store, other)[generation % 2].commit([commit])
            versions[actor] = commit.version
    await write(store, *(put(actor, versions[actor], {}, reset=True) for actor in actors[10:]))

    def left() -> bool:
        keys, garbage = server.sql(
            f"SELECT (SELECT count(*) FROM {schema}.keys), (SELECT count(*) FROM {schema}.garbage)"
        ).split("|")
        return (keys, garbage) == ("1000", "0")

    await eventually(left, "swept")
    for actor in actors[:10]:
        assert len(await all_keys(store, actor)) == 100
    assert await store.load(actors[10]) is None


async def test_garbage_of_a_process_that_died_is_swept(
    server: PostgresServer, schema: str, store: PostgresStore, opened: Callable[..., PostgresStore]
) -> None:
    """By the next one that opens the store."""
    actor = actor_id()
    await write(store, first := put(actor, None, {f"k{n}": b"" for n in range(2 * sweeper.ROWS + 1)}))
    await store.close()
    # As the reset of a process would have left it that died then.
    server.sql(f"UPDATE {schema}.actors SET former = keyset, keyset = nextval('{schema}.numbers')")
    server.sql(f"INSERT INTO {schema}.garbage SELECT former FROM {schema}.actors")
    again = opened()
    snapshot = await again.load(actor)
    assert snapshot is not None
    assert (snapshot.version, snapshot.values) == (first.version, {})
    await eventually(lambda: server.sql(f"SELECT count(*) FROM {schema}.keys") == "0", "swept")
    await eventually(lambda: server.sql(f"SELECT count(*) FROM {schema}.garbage") == "0", "forgotten")


async def test_many_loads_are_few_statements(server: PostgresServer, store: PostgresStore) -> None:
    """And one actor that cannot be read hurts nobody else; reads need no more connections than they may have."""
    actors = [actor_id(f"a{number}") for number in range(300)]
    await write(store, *(put(actor, None, {"k": actor.id.encode()}) for actor in actors))
    strange = [actor_id("nul\0"), actor_id("\ud800"), actor_id("nobody")]
    found = await asyncio.gather(*(store.load(actor) for actor in [*actors, *strange]))
    assert [dict(one.values) if one else None for one in found] == [
        *({"k": actor.id.encode()} for actor in actors),
        *[None] * 3,
    ]
    used = int(
        server.sql(
            f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure {store.options.schema}'"
        )
    )
    assert used <= store.options.connections


async def test_a_bounded_number_of_connections(
    server: PostgresServer, opened: Callable[..., PostgresStore]
) -> None:
    store = opened(connections=2)
    await store.take(ALL, FENCE)
    actors = [actor_id(f"a{number}") for number in range(50)]
    await asyncio.gather(
        *(write(store, put(actor, None, {"k": b"1"}, row=row(actor, 1))) for actor in actors)
    )
    await asyncio.gather(*(store.row(actor) for actor in actors), *(store.keys(actor) for actor in actors))
    sql = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure {store.options.schema}'"
    assert server.sql(sql) == "2"


async def test_a_commit_of_too_many_bytes(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused before the server would end the connection over it."""
    monkeypatch.setattr("perdure.statestore.postgres.store.MOST_BYTES", 1000)
    with pytest.raises(StoreError, match="more than 1000 bytes"):
        await store.commit([put(actor_id(), None, {"k": bytes(1001)})])
    await write(store, put(actor_id(), None, {"k": bytes(1000)}))
