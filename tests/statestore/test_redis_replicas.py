"""Replicas that become primaries, and what a write waits for."""

from __future__ import annotations

import pytest

from perdure.errors import ConfigurationError, StoreError, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
)
from perdure.statestore.redis import durability
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    TYPE,
    actor_id,
    partition_of,
    put,
    write,
)
from tests.servers.redis import redis_replicated, redis_server
from tests.statestore.asking import again
from tests.statestore.redis_use import Opened, opened, watched
from tests.waiting import eventually

__all__ = ["opened"]


async def test_a_primary_that_becomes_a_replica(opened: Opened) -> None:
    """It takes no writes; as primary again it has another history."""
    with redis_replicated(1) as (first, second):
        store = opened(first.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        second.catch_up(first)
        second.promote()
        first.follow(second)
        commit = put(actor_id(), None, {"k": b"1"})
        # Also what it would refuse, and what it could still read.
        for ask in (
            lambda: store.commit([commit]),
            lambda: store.load(actor_id()),
            lambda: store.keys(actor_id()),
            lambda: store.take(ALL[:1], FENCE),
            lambda: store.release(ALL[:1], FENCE._replace(term=1)),
            store.lease("name").acquire,
        ):
            with pytest.raises(StoreUnavailable):
                await ask()
        assert reasons == []
        first.promote()
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        # It had everything when it came back.
        assert reasons == []


async def test_a_demotion_that_nobody_used(opened: Opened) -> None:
    """That a server was a replica for a while, and lost something by it, is found out even if nothing was asked of it
    meanwhile, and although its connections stayed."""
    with redis_replicated(1) as (first, second):
        store = opened(first.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        second.catch_up(first)
        second.promote()
        await write(store, put(actor_id(), None, {"k": b"lost"}))
        first.follow(second)
        first.promote()
        await eventually(lambda: reasons, "the store notices")
        assert await store.load(actor_id()) is None
        assert len(reasons) == 1


async def test_what_a_lagging_replica_never_had(opened: Opened) -> None:
    """Acknowledged writes are gone: that is told before anything that shows it, and leases notice it themselves."""
    with redis_replicated(1) as (first, second):
        store = opened(first.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        lease, early = store.lease("name"), store.lease("early")
        assert await early.acquire() is not None
        await early.write(b"early")
        await write(store, kept := put(actor_id(), None, {"k": b"1"}))
        second.catch_up(first)
        # From here on the replica has nothing more, and the primary does not know yet.
        second.promote()
        await write(store, put(actor_id(), kept.version, {"k": b"lost"}))
        term = await lease.acquire()
        assert term is not None
        await lease.write(b"lost")
        await early.write(b"late")
        first.kill()
        # The replica takes over the address as well.
        second.stop()
        second.port = first.port
        second.start()
        assert (await again(lambda: store.load(actor_id()))).values == {"k": b"1"}  # type: ignore[union-attr]
        assert len(reasons) == 1
        for one in (lease, early):
            with pytest.raises(StoreError) as caught:
                await again(one.renew)
            assert not isinstance(caught.value, StoreUnavailable)
        later = await lease.acquire()
        assert later is not None
        assert later > term


async def test_durability_replicated(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is acknowledged is on the replica too; what is not there in time is unknown."""
    monkeypatch.setattr(durability, "SECONDS", 20.0)
    with redis_replicated(1) as (first, second):
        store = opened(first.url(durability="replicated", timeout=30))
        await store.take(ALL, FENCE)
        lease = store.lease("name")
        assert await lease.acquire() is not None
        await write(store, one := put(actor_id(), None, {"k": b"1"}))
        name = f"perdure:{{default/{partition_of(actor_id())}}}:{TYPE}||1"
        assert second.command("HGET", name, "k") == b"1"
        commit = put(actor_id(), one.version, {"k": b"2"})
        second.pause()
        with monkeypatch.context() as hurried:
            hurried.setattr(durability, "SECONDS", 0.3)
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await store.commit([commit])
            with pytest.raises(StoreUnavailable):
                await lease.write(b"value")
        second.resume()
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        assert second.command("HGET", name, "k") == b"2"
        first.command("SCRIPT", "FLUSH")
        await write(store, put(actor_id(), commit.version, {"k": b"3"}))
        assert second.command("HGET", name, "k") == b"3"


async def test_durability_synced(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk, on the replica's as well; a server that cannot say so is refused."""
    monkeypatch.setattr(durability, "SECONDS", 1.0)
    with redis_replicated(1) as (first, second):
        store = opened(first.url(durability="synced", replicas=1))
        version = first.info("server")["redis_version"].split(".")
        if (int(version[0]), int(version[1])) < (7, 2):
            with pytest.raises(ConfigurationError, match=r"needs Redis 7\.2"):
                await store.settings()
            return
        # A replica says at first that nothing is on its disk.
        await again(store.health)
        await again(lambda: store.take(ALL, FENCE))
        commit = put(actor_id(), None, {"k": b"2"})
        second.pause()
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas had the write on disk"):
            await store.commit([commit])
        second.resume()
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
    with redis_server(appendonly="no") as server, pytest.raises(ConfigurationError, match="appendonly yes"):
        await opened(server.url(durability="synced")).settings()
