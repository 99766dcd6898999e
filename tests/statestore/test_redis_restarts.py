"""Servers that go and come, and stores that are closed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from perdure.errors import StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    Settings,
)
from perdure.statestore.redis import scripts
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    TYPE,
    actor_id,
    put,
    values_of,
    write,
)
from tests.servers.redis import RedisServer, redis_server
from tests.servers.redis_proxy import redis_proxy
from tests.statestore.asking import again
from tests.statestore.redis_use import Opened, clean, opened, server, watched

__all__ = ["clean", "opened", "server"]


async def test_a_restart(opened: Opened) -> None:
    """Nothing acknowledged is gone, and so nobody is told that something may be."""
    with redis_server() as server:
        store = opened(server.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        await write(store, first := put(actor_id(), None, {"k": b"1"}))
        server.kill()
        commit = put(actor_id(), first.version, {"k": b"2"})
        with pytest.raises(StoreUnavailable):
            await store.commit([commit])
        server.start()
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        assert await values_of(store, actor_id()) == {"k": b"2"}
        await store.health()
        assert reasons == []


@pytest.mark.parametrize("last", ["commit", "take", "release", "removal"])
async def test_a_restart_that_loses(opened: Opened, last: str) -> None:
    """Whatever was acknowledged last: that it is gone is told before the first answer, and once."""
    with redis_server(appendonly="no") as server:
        store = opened(server.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        server.command("SAVE")
        first = put(actor_id(), None, {"k": b"1"})
        if last in ("commit", "removal"):
            await write(store, first)
        if last == "removal":
            await write(store, put(actor_id(), first.version, {}, reset=True))
        if last == "take":
            await store.take(ALL[:1], FENCE._replace(term=9))
        if last == "release":
            await store.release(ALL, FENCE)
        server.kill()
        server.start()

        async def told() -> list[str]:
            await store.load(actor_id())
            return list(reasons)

        assert len(await again(told)) == 1
        await write(store, first)
        await store.health()
        assert len(reasons) == 1


async def test_a_server_that_comes_back_empty(opened: Opened) -> None:
    """It gets the settings again with which the store is used; with others it is as if it were away."""
    with redis_server(appendonly="no") as server:
        store = opened(server.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        server.kill()
        server.start()
        await again(store.health)
        assert len(reasons) == 1
        assert await store.settings() == Settings(PARTITIONS)
        assert await opened(server.url(), None).settings() == Settings(PARTITIONS)
        assert await store.types() == []
        await store.take(ALL, FENCE)
        assert await store.types() == [TYPE]
        server.kill()
        server.start()
        await opened(server.url(), 7).settings()
        deadline = asyncio.get_running_loop().time() + 60
        while len(reasons) < 2 and asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(StoreUnavailable):
                await store.load(actor_id())
        with pytest.raises(StoreUnavailable, match="7 partitions"):
            await store.commit([put(actor_id(), None, {"k": b""})])


async def test_a_commit_that_was_on_its_way(opened: Opened) -> None:
    """It may be there after a restart, on top of the last one that was acknowledged: nothing is lost by that."""
    with redis_server() as server:
        async with redis_proxy(server.port) as proxy:
            store = opened(f"redis://127.0.0.1:{proxy.port}?timeout=1")
            reasons = watched(store)
            await store.take(ALL, FENCE)
            await write(store, first := put(actor_id(), None, {"k": b"1"}))
            second = put(actor_id(), first.version, {"k": b"2"})
            proxy.lose_answer(scripts.COMMIT.sha)
            with pytest.raises(StoreUnavailable):
                await store.commit([second])
            server.kill()
            server.start()
            assert list(await again(lambda: store.commit([second]))) == [COMMITTED]
            assert reasons == []


async def test_a_connection_that_breaks_is_no_restart(clean: RedisServer, opened: Opened) -> None:
    store = opened(clean.url())
    reasons = watched(store)
    await store.health()
    clean.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await again(store.health)
    assert reasons == []


async def test_a_pause(clean: RedisServer, opened: Opened) -> None:
    """Silence is an unknown outcome after the time given; then it goes on."""
    store = opened(clean.url(timeout=0.3))
    await store.take(ALL, FENCE)
    commit = put(actor_id(), None, {"k": b"1"})
    clean.pause()
    try:
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            await store.commit([commit])
        with pytest.raises(StoreUnavailable):
            await store.health()
    finally:
        clean.resume()
    assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]


async def test_no_server(opened: Opened) -> None:
    """Also at the start: it may come later."""
    with redis_server() as server:
        url = server.url(timeout=1)
        server.kill()
        store = opened(url)
        with pytest.raises(StoreUnavailable, match=str(server.port)):
            await store.settings()
        server.start()
        assert await again(store.settings) == Settings(PARTITIONS)


async def test_scripts_that_are_gone(clean: RedisServer, opened: Opened) -> None:
    """They are sent again, in the same call."""
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    clean.command("SCRIPT", "FLUSH")
    batch = [put(actor_id(f"a{n}"), None, {"k": b"1"}) for n in range(3)]
    assert list(await store.commit(batch)) == [COMMITTED] * 3
    clean.command("SCRIPT", "FLUSH")
    assert await values_of(store, actor_id("a1")) == {"k": b"1"}


async def test_closing(clean: RedisServer, opened: Opened) -> None:
    """A closed store says so, and its leases are free at once."""
    store, other = opened(clean.url()), opened(clean.url())
    assert await store.lease("name").acquire() is not None
    assert await other.lease("name").acquire() is None
    await asyncio.gather(store.close(), store.close())
    assert await other.lease("name").acquire() is not None
    for ask in (store.health, lambda: store.load(actor_id()), lambda: store.commit([])):
        with pytest.raises(StoreUnavailable, match="closed"):
            await ask()


async def test_closing_finishes_what_was_begun(clean: RedisServer, opened: Opened) -> None:
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    commits = [
        asyncio.ensure_future(store.commit([put(actor_id(f"a{n}"), None, {"k": b"1"})])) for n in range(50)
    ]
    await asyncio.sleep(0)
    await store.close()
    assert [list(commit.result()) for commit in commits] == [[COMMITTED]] * 50


async def test_closing_while_it_connects(opened: Opened) -> None:
    with redis_server() as server:
        server.pause()
        store = opened(server.url(timeout=30))
        asked = asyncio.ensure_future(store.settings())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreUnavailable):
            await asked
        server.resume()
