"""Answers and requests that are lost: nothing acknowledged is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import asyncpg
import pytest

from perdure.clock import LoopClock
from perdure.errors import StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    CommitResult,
    Committer,
    Conflict,
    Fence,
    Fenced,
    Taken,
)
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    actor_id,
    all_keys,
    put,
    values_of,
    write,
)
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.proxy import CuttingProxy, Way
from tests.statestore.asking import again
from tests.statestore.postgres_use import TIMEOUT, opened_at, own, schema, server
from tests.waiting import eventually

__all__ = ["opened_at", "schema", "server"]


async def test_an_answer_is_lost(server: PostgresServer, opened_at: Callable[..., PostgresStore]) -> None:
    """The commit is there; the same one again is `Committed`, and applies nothing twice, also when another one has
    come in between."""
    async with CuttingProxy(server.address) as proxy:
        store, other = opened_at(server, address=proxy.address), opened_at(server)
        await store.take(ALL, FENCE)
        await write(store, first := put(actor_id(), None, {"k": b"1"}))
        lost = put(actor_id(), first.version, {"k": b"2", "history-000000": b"h"}, recover=True)
        proxy.swallowing = {Way.BACK}
        asked = asyncio.create_task(store.commit([lost]))

        async def arrived() -> bool:
            snapshot = await other.load(actor_id())
            return snapshot is not None and snapshot.version == lost.version

        await eventually(arrived, "the commit is there")
        proxy.cut()
        with pytest.raises(StoreUnavailable):
            await asked
        proxy.swallowing = set()
        await write(store, lost)
        await write(other, third := put(actor_id(), lost.version, {"k": b"3"}))
        assert list(await store.commit([lost])) == [Conflict(third.version)]
        assert await values_of(store, actor_id()) == {"k": b"3", "history-000000": b"h"}


async def test_a_request_is_lost(server: PostgresServer, opened_at: Callable[..., PostgresStore]) -> None:
    """Nothing of it happens, and nobody waits for ever."""
    async with CuttingProxy(server.address) as proxy:
        store = opened_at(server, address=proxy.address, timeout=0.5)
        await own(store)
        commit = put(actor_id(), None, {"k": b"1"})
        proxy.swallowing = {Way.THERE, Way.BACK}
        with pytest.raises(StoreUnavailable):
            await store.commit([commit])
        with pytest.raises(StoreUnavailable):
            await store.load(actor_id())
        proxy.cut()
        proxy.swallowing = set()
        assert await again(lambda: store.load(actor_id())) is None
        await own(store, commit)


async def test_connections_are_cut_at_any_moment(
    server: PostgresServer, opened_at: Callable[..., PostgresStore]
) -> None:
    """Through a network that loses connections all the time, a chain of commits becomes exactly that chain."""
    async with CuttingProxy(server.address) as proxy:
        store = opened_at(server, address=proxy.address)
        await again(lambda: store.take(ALL, FENCE))
        committer = Committer(store, LoopClock())
        stop = False

        async def cut() -> None:
            """After some bytes: more than it takes to connect, less than all."""
            limit = 0
            while not stop:
                passed = sum(proxy.passed.values())
                if passed >= limit:
                    proxy.cut()
                    limit = passed + random.randrange(10_000, 50_000)
                await asyncio.sleep(0.001)

        cutting = asyncio.create_task(cut())
        chains = [actor_id(f"a{number}") for number in range(5)]

        async def run(actor: ActorId) -> None:
            last = None
            for number in range(40):
                commit = put(actor, last, {f"history-{number:06d}": b"h", "k": b"%d" % number})
                done: asyncio.Future[CommitResult] = asyncio.get_running_loop().create_future()
                committer.submit(commit, done.set_result)
                assert await done == COMMITTED
                last = commit.version

        await asyncio.wait_for(asyncio.gather(*map(run, chains)), TIMEOUT)
        stop = True
        await cutting
        assert proxy.connections > 3
        for actor in chains:
            assert await again(lambda actor=actor: all_keys(store, actor)) == [
                "k",
                *(f"history-{number:06d}" for number in range(40)),
            ]


async def test_a_commit_of_a_client_that_is_gone(
    server: PostgresServer, schema: str, opened_at: Callable[..., PostgresStore]
) -> None:
    """It waits for a lock when its client gives up: the server is told to end it, and it is not there later on; had it
    come through it would have met the fence."""
    store = opened_at(server, timeout=0.5)
    other = opened_at(server)
    await own(store, first := put(actor_id(), None, {"k": b"1"}))
    blocker = await asyncpg.connect(server.url())
    try:
        async with blocker.transaction():
            await blocker.execute(f"SELECT 1 FROM {schema}.actors FOR UPDATE")
            late = put(actor_id(), first.version, {"k": b"late"})
            with pytest.raises(StoreUnavailable):
                await store.commit([late])

            def waiting() -> str:
                return server.sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    f" AND application_name = 'perdure {schema}'"
                )

            await eventually(lambda: waiting() == "0", "the server ended it")
    finally:
        await blocker.close()
    assert list(await other.take(ALL[:1], Fence(5, 8))) == [Taken(False)]
    await other.take(ALL, Fence(6, 0))
    assert list(await again(lambda: store.commit([late]))) == [Fenced(Fence(6, 0))]
    assert await values_of(other, actor_id()) == {"k": b"1"}


async def test_the_server_stands_still(opened_at: Callable[..., PostgresStore]) -> None:
    """A commit that it took with it when it stopped may be done when it goes on: once."""
    with postgres_server() as server:
        store = opened_at(server, timeout=0.5)
        await own(store)
        server.pause()
        commit = put(actor_id(), None, {"history-000000": b"1"})
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.commit([commit])
        server.resume()
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        await own(store, put(actor_id(), commit.version, {"history-000001": b"2"}))
        keys = await again(lambda: all_keys(store, actor_id()))
        assert keys == ["history-000000", "history-000001"]


async def test_a_cancelled_request_leaves_a_usable_store(
    server: PostgresServer, opened_at: Callable[..., PostgresStore]
) -> None:
    store = opened_at(server, connections=2)
    await store.take(ALL, FENCE)
    await write(store, put(actor_id(), None, {"k": b"1"}))
    for number in range(10):
        task = asyncio.create_task(store.keys(actor_id()))
        await asyncio.sleep(0.001 * number)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len((await store.keys(actor_id())).items) == 1
