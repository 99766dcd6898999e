"""Servers that have lost what they acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from perdure.statestore import (
    COMMITTED,
    Fenced,
    Taken,
)
from perdure.statestore.contract import RollbackAware
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    actor_id,
    put,
    write,
)
from tests.servers.postgres import pooler, postgres_server, replica
from tests.statestore.asking import again
from tests.statestore.postgres_use import TIMEOUT, opened_at, schema
from tests.waiting import eventually

__all__ = ["opened_at", "schema"]


async def test_a_replica_is_promoted(opened_at: Callable[..., PostgresStore]) -> None:
    """Several servers are named; the second takes over, without what the first one had not sent. That is said before
    anything else is."""
    with postgres_server() as first, replica(first) as second:
        store = opened_at(first, address=f"{first.address},{second.address}", timeout=TIMEOUT / 4)
        said: list[str] = []
        assert isinstance(store, RollbackAware)
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        await write(store, kept := put(actor_id(), None, {"k": b"kept"}))
        position = first.sql("SELECT pg_current_wal_lsn()")
        await eventually(
            lambda: second.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == "t",
            "the replica has it",
        )
        second.pause()
        await write(store, put(actor_id(), kept.version, {"k": b"lost"}))
        first.kill()
        second.resume()
        # What it had been sent but not taken is gone with the sender's buffers, or not: both may happen.
        second.promote()
        asked = asyncio.gather(*(again(lambda: store.load(actor_id())) for _ in range(5)))
        snapshots = await asked
        assert len(said) == 1
        assert "replica was promoted" in said[0]
        assert len({one.version for one in snapshots}) == 1
        commit = put(actor_id(), snapshots[0].version, {"k": b"on"})
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        assert len(said) == 1


async def test_a_replica_is_promoted_behind_a_pooler(opened_at: Callable[..., PostgresStore]) -> None:
    """No connection of ours ends; still no answer of the new server comes before the word."""
    with postgres_server() as first, replica(first) as second, pooler(first) as address:
        store = opened_at(first, address=address, timeout=TIMEOUT / 4)
        said: list[str] = []
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        await write(store, put(actor_id(), None, {"k": b"1"}))
        position = first.sql("SELECT pg_current_wal_lsn()")
        await eventually(
            lambda: second.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == "t",
            "the replica has it",
        )
        first.kill()
        second.promote()
        # As the administrator would lead the pooler there: by the same address.
        second.stop()
        second.port, port = first.port, second.port
        second.configure(port=str(first.port))
        second.start()
        answers: list[tuple[int, Any]] = []

        async def ask() -> None:
            answers.append((len(said), await again(lambda: store.load(actor_id()))))

        await asyncio.gather(*(ask() for _ in range(10)))
        assert len(said) == 1
        assert {told for told, _ in answers} == {0}  # Asked before, all of them.
        commit = put(actor_id(), answers[0][1].version, {"k": b"2"})
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        second.port = port


async def test_a_crash_of_a_server_that_acknowledges_early(
    opened_at: Callable[..., PostgresStore],
) -> None:
    """With synchronous_commit=off the last commits may be gone: that is said, once per crash, and never for a
    connection that ended for another reason than the server's."""
    with postgres_server(wal_writer_delay="10s") as server:
        store = opened_at(server, synchronous_commit="off")
        said: list[str] = []
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        last = None
        for number in range(50):
            commit = put(actor_id(), last, {"k": b"%d" % number})
            await write(store, commit)
            last = commit.version
        assert said == []
        server.kill()
        server.start()
        snapshot = await again(lambda: store.load(actor_id()))
        assert len(said) == 1
        assert "not on disk yet" in said[0]
        expected = snapshot.version if snapshot else None
        results = list(await again(lambda: store.commit([put(actor_id(), expected, {"k": b"on"})])))
        assert results in ([COMMITTED], [Fenced(None)])
        assert len(said) == 1


async def test_the_schema_itself_is_lost(opened_at: Callable[..., PostgresStore]) -> None:
    """The new server was cut off before the store was first used: it is made anew, with as many partitions."""
    with postgres_server() as first, postgres_server() as second:
        store = opened_at(first, address=f"{first.address},{second.address}", timeout=TIMEOUT / 4)
        said: list[str] = []
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        first.kill()
        assert list(await again(lambda: store.take(ALL[:1], FENCE))) == [Taken(True)]
        assert len(said) == 1
        assert (await store.settings()).partitions == PARTITIONS
