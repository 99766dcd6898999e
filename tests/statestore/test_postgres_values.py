"""What a store over PostgreSQL can hold, and that it does what one in memory does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings

from perdure.clock import LoopClock
from perdure.statestore import (
    COMMITTED,
    CommitResult,
    Committer,
    MemoryStore,
    Rejected,
    StateStore,
    open_store,
)
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    PARTITIONS,
    actor_id,
    put,
    reminder,
    values_of,
    write,
)
from tests.servers.postgres import PostgresServer, postgres_server
from tests.statestore import test_equivalence as equivalence
from tests.statestore.postgres_use import opened, opened_at, schema, server, store

__all__ = ["opened", "opened_at", "schema", "server", "store"]


async def test_any_key(store: PostgresStore) -> None:
    """Also with a NUL, which PostgreSQL's text cannot hold."""
    actor = actor_id()
    values = {
        key: key.encode() for key in ("\0", "a\0b", "\x01", "a-\0-000001", "a-000001", "\U0010ffff", "")
    }
    await write(store, first := put(actor, None, values))
    assert await values_of(store, actor) == values
    assert [key for key, _ in (await store.keys(actor, "a")).items] == ["a\0b", "a-000001", "a-\0-000001"]
    await write(store, put(actor, first.version, {"left": b""}, delete=list(values)))
    assert await values_of(store, actor) == {"left": b""}


async def test_what_cannot_be_stored_is_rejected_alone(store: PostgresStore) -> None:
    """One id with a NUL, one key that is no text, one number too large: the others of the batch pass."""
    bad = [
        put(actor_id("nul\0"), None, {"k": b""}),
        put(actor_id("surrogate"), None, {"\ud800": b""}),
        put(actor_id("due"), None, {}, reminders=[reminder(actor_id("due"), "r", 2**63)]),
        put(actor_id("partition"), None, {}, partition=-1),
    ]
    good = [put(actor_id(f"good {number}"), None, {"k": b"1"}) for number in range(3)]
    batch = [good[0], bad[0], bad[1], good[1], bad[2], bad[3], good[2]]
    results = list(await store.commit(batch))
    assert [isinstance(result, Rejected) for result in results] == [c in bad for c in batch]
    assert results[0] == results[3] == results[6] == COMMITTED
    for commit in good:
        assert await values_of(store, commit.actor) == {"k": b"1"}
    assert await store.load(bad[0].actor) is None
    assert list((await store.keys(bad[0].actor)).items) == []
    assert await store.row(bad[0].actor) is None
    assert list(await store.reminders(bad[0].actor)) == []


async def test_what_only_the_server_refuses_is_found_by_halving(store: PostgresStore) -> None:
    """A key longer than an index takes, random so that it cannot be made smaller: alone `Rejected`, by name."""
    long = "".join(random.Random(1).choices([chr(n) for n in range(33, 0x2000)], k=6000))
    committer = Committer(store, LoopClock())
    results: dict[str, CommitResult] = {}
    for number in range(40):
        commit = put(actor_id(f"a{number}"), None, {long if number == 17 else "k": b"1"})
        committer.submit(commit, lambda result, id=commit.actor.id: results.update({id: result}))
    await committer.drain()
    refused = results.pop("a17")
    assert isinstance(refused, Rejected)
    assert "index row" in refused.reason
    assert set(results.values()) == {COMMITTED}


async def test_a_numbered_key_can_be_put_again(store: PostgresStore) -> None:
    """Among others that are new, in a batch with others."""
    one, two = actor_id("1"), actor_id("2")
    await write(store, first := put(one, None, {"x-000001": b"1", "history-000000": b"h"}))
    second = put(one, first.version, {"x-000001": b"2", "history-000001": b"h"})
    await write(store, second, put(two, None, {"history-000000": b"h", "x-000001": b"3"}))
    assert await values_of(store, one) == {"history-000000": b"h", "history-000001": b"h", "x-000001": b"2"}
    assert await values_of(store, two) == {"history-000000": b"h", "x-000001": b"3"}
    third = put(one, second.version, {"x-000001": b"4", "history-000001": b"again"})
    await write(store, third)
    assert (await values_of(store, one))["history-000001"] == b"again"


MINE = [actor if "\0" not in actor.id else actor_id("d") for actor in equivalence.ACTORS]


class Again:
    """One store, emptied for each example: a new schema for each would take most of the time."""

    def __init__(self, server: PostgresServer) -> None:
        self._runner = asyncio.Runner()
        self._url = server.url(schema="again")

    async def _emptied(self) -> StateStore:
        store = open_store(self._url, partitions=PARTITIONS)
        await store.settings()
        connection = await asyncpg.connect(self._url.partition("?")[0])
        await connection.execute(
            "TRUNCATE again.actors, again.keys, again.owing, again.reminders, again.instances"
        )
        await connection.execute("TRUNCATE again.fences, again.types, again.garbage")
        await connection.close()
        return store

    async def _run(self, steps: list[Any]) -> None:
        store = await self._emptied()
        try:
            await equivalence.run(steps, MemoryStore(partitions=PARTITIONS), store)
        finally:
            await store.close()

    def run(self, steps: list[Any]) -> None:
        self._runner.run(self._run(steps))

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="module")
def again() -> Iterator[Again]:
    # Nothing has to be on disk.
    with postgres_server(fsync="off") as server:
        one = Again(server)
        yield one
        one.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(equivalence.STEPS)
def test_memory_and_postgres_are_the_same(
    again: Again, monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    monkeypatch.setattr(equivalence, "ACTORS", MINE)
    for step in steps:
        if isinstance(step, list):
            for plan in step:
                if "\0" in plan["actor"].id:
                    plan["actor"] = actor_id("d")
    again.run(steps)
