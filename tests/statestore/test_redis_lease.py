"""Leases over Redis pass on by the contender's own clock, whatever that of the server does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perdure.errors import StoreError
from perdure.statestore.contract import ExpiringLease
from perdure.statestore.redis.lease import LIFE, LONG, RedisLease
from tests.servers.redis import RedisServer, redis_server
from tests.statestore.redis_use import Opened, opened

__all__ = ["opened"]

RECORD = "perdure:{default}#lease:name"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(appendfsync="everysec") as server:
        yield server


@pytest.fixture
def clean(server: RedisServer) -> RedisServer:
    server.command("FLUSHALL")
    return server


class Hand:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


async def test_a_holder_that_is_silent_loses_it(clean: RedisServer, opened: Opened) -> None:
    """After two seconds of the contender's own clock, not before; and then it can write no more."""
    store, clock = opened(clean.url()), Hand()
    holder, other = store.lease("name"), RedisLease(store, "name", clock)
    assert isinstance(holder, ExpiringLease)
    assert holder.life == LIFE
    first = await holder.acquire()
    assert await other.acquire() is None
    clock.seconds += LIFE - 0.01
    assert await other.acquire() is None
    clock.seconds += 0.01
    second = await other.acquire()
    assert first is not None
    assert second is not None
    assert second > first
    for call in (holder.renew(), holder.write(b"x")):
        with pytest.raises(StoreError):
            await call
    assert await holder.acquire() is None
    await other.write(b"y")
    assert await holder.read() == b"y"


@pytest.mark.parametrize("sign", ["renew", "write", "acquire"])
async def test_every_sign_of_the_holder_counts(clean: RedisServer, opened: Opened, sign: str) -> None:
    store, clock = opened(clean.url()), Hand()
    holder, other = store.lease("name"), RedisLease(store, "name", clock)
    assert await holder.acquire() is not None
    for _ in range(5):
        assert await other.acquire() is None
        clock.seconds += LIFE + 1
        await (holder.write(b"v") if sign == "write" else getattr(holder, sign)())
        assert await other.acquire() is None
    clock.seconds += LIFE + 1
    assert await other.acquire() is not None


async def test_two_who_wait(clean: RedisServer, opened: Opened) -> None:
    """One of them gets it; for the other everything begins anew."""
    store, clock = opened(clean.url()), Hand()
    holder, one, two = store.lease("name"), RedisLease(store, "name", clock), RedisLease(store, "name", clock)
    assert await holder.acquire() is not None
    assert [await one.acquire(), await two.acquire()] == [None, None]
    clock.seconds += LIFE
    assert await one.acquire() is not None
    assert await two.acquire() is None
    clock.seconds += LIFE - 0.01
    assert await two.acquire() is None
    await one.release()
    assert await two.acquire() is not None


async def test_the_servers_clock(clean: RedisServer, opened: Opened) -> None:
    """Set back or forward by seconds it changes nothing. A lease that by it is dead for a minute is free at once."""
    store = opened(clean.url())
    assert await store.lease("name").acquire() is not None
    written = int(clean.command("HGET", RECORD, "at"))
    for jump in (LONG, 3600.0 * 24 * 365, -LONG + 10):
        clean.command("HSET", RECORD, "at", str(int(written + jump * 1000)))
        assert await store.lease("name").acquire() is None
    clean.command("HSET", RECORD, "at", str(int(written - LONG * 1000)))
    assert await store.lease("name").acquire() is not None


async def test_a_lost_write_is_noticed(clean: RedisServer, opened: Opened) -> None:
    """The store has the right term, but not what was written under it last."""
    store = opened(clean.url())
    lease = store.lease("name")
    term = await lease.acquire()
    await lease.write(b"first")
    before = clean.command("HGETALL", RECORD)
    await lease.write(b"second")
    await lease.renew()
    clean.command("HSET", RECORD, *before)
    with pytest.raises(StoreError):
        await lease.renew()
    with pytest.raises(StoreError):
        await lease.write(b"third")
    later = await lease.acquire()
    assert term is not None
    assert later is not None
    assert later > term
    await lease.write(b"third")


async def test_a_record_that_is_gone(clean: RedisServer, opened: Opened) -> None:
    store = opened(clean.url())
    lease = store.lease("name")
    assert await lease.acquire() is not None
    clean.command("DEL", RECORD)
    with pytest.raises(StoreError):
        await lease.renew()
    assert await store.lease("name").acquire() is not None
    assert await lease.acquire() is None
