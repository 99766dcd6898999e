"""What a server is set to, and what a store fixes in it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from perdure.errors import ConfigurationError, StoreFormat, StoreUnavailable
from perdure.statestore import (
    ActorId,
    InstanceFilter,
    Settings,
    TypePartition,
)
from perdure.statestore.contract import Diagnosable
from perdure.testing.store_contract import (
    FENCE,
    PARTITIONS,
    TYPE,
    actor_id,
    put,
    row,
    values_of,
    write,
)
from tests.servers.redis import RedisServer, redis_server
from tests.statestore.asking import again
from tests.statestore.redis_use import Opened, clean, opened, server

__all__ = ["clean", "opened", "server"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_eviction(clean: RedisServer, opened: Opened, policy: str) -> None:
    """A store does not begin on a server that may throw away keys; one that became so later is as if it were away."""
    running = opened(clean.url())
    await running.settings()
    clean.command("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        store = opened(clean.url())
        for ask in (store.settings, lambda: store.commit([put(actor_id(), None, {"k": b""})])):
            with pytest.raises(ConfigurationError, match="maxmemory-policy noeviction"):
                await ask()
        clean.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(StoreUnavailable, match=r"noeviction|lost"):
            await running.commit([put(actor_id(), None, {"k": b""})])
        with pytest.raises(StoreUnavailable, match="noeviction"):
            await running.commit([put(actor_id(), None, {"k": b""})])
    finally:
        clean.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert await again(store.settings) == Settings(PARTITIONS)
    await again(running.health)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"appendonly": "no"}, "in memory only"),
        ({"appendonly": "no", "save": "3600 1"}, "since the last snapshot"),
        ({"appendfsync": "no"}, "appendfsync no"),
        ({"appendfsync": "everysec"}, ""),
        ({}, ""),
    ],
)
async def test_what_is_warned_of(
    opened: Opened, caplog: pytest.LogCaptureFixture, settings: dict[str, str], words: str
) -> None:
    with redis_server(**settings) as server, caplog.at_level(logging.WARNING):
        await opened(server.url()).health()
    reasons = [str(getattr(record, "fields", record.__dict__)) for record in caplog.records]
    assert [words in text for text in reasons] == [True] * bool(words)


async def test_diagnosis(opened: Opened, clean: RedisServer) -> None:
    """What `perdure doctor` shows of a server: nothing to do, and much to do."""
    store = opened(clean.url())
    assert isinstance(store, Diagnosable)
    found = {one.subject: one for one in await store.diagnose()}
    assert {one.level for one in found.values()} == {"ok"}
    assert clean.info("server")["redis_version"] in found["server"].said or "Valkey" in found["server"].said
    assert "everysec" in found["durability"].said
    used = int(clean.info("memory")["used_memory"])
    waiting = opened(clean.url(namespace="other"))
    await waiting.settings()
    clean.command("CONFIG", "SET", "maxmemory", used + used // 50)
    clean.command("CONFIG", "SET", "appendfsync", "no")
    try:
        levels = {one.subject: one.level for one in await waiting.diagnose()}
        assert (levels["memory"], levels["durability"]) == ("warning", "warning")
        clean.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert {one.subject: one.level for one in await store.diagnose()}["memory"] == "error"
    finally:
        for name, value in (
            ("maxmemory", 0),
            ("appendfsync", "everysec"),
            ("maxmemory-policy", "noeviction"),
        ):
            clean.command("CONFIG", "SET", name, value)


async def test_settings_are_fixed_at_first_use(clean: RedisServer, opened: Opened) -> None:
    """By whoever comes first; others take what is there, and who wants something else is refused."""
    stores = [opened(clean.url(), partitions=16) for _ in range(8)]
    found = await asyncio.gather(*(store.settings() for store in stores))
    assert found == [Settings(16)] * 8
    assert await opened(clean.url(), partitions=None).settings() == Settings(16)
    with pytest.raises(ConfigurationError, match="16 partitions, not 32"):
        await opened(clean.url(), partitions=32).settings()
    clean.command("HSET", "perdure:{default}#settings", "format", "99")
    with pytest.raises(StoreFormat, match="99"):
        await opened(clean.url(), partitions=None).settings()


async def test_of_two_first_users_one_wins(clean: RedisServer, opened: Opened) -> None:
    stores = [opened(clean.url(), partitions=count) for count in (16, 32)]
    found = await asyncio.gather(*(store.settings() for store in stores), return_exceptions=True)
    assert sorted(isinstance(one, ConfigurationError) for one in found) == [False, True]


async def test_namespaces_are_apart(clean: RedisServer, opened: Opened) -> None:
    """Two of them on one server are two stores, whatever they have in common; and so are two databases."""
    urls = [clean.url(), clean.url(namespace="other"), clean.url(database=1)]
    stores = [opened(url, partitions=PARTITIONS - n) for n, url in enumerate(urls)]
    for number, store in enumerate(stores):
        held = [TypePartition(TYPE, partition) for partition in range(PARTITIONS - number)]
        assert await store.types() == []
        await store.take(held, FENCE)
        actor, partition = actor_id(), _in(actor_id(), PARTITIONS - number)
        commit = put(
            actor, None, {"k": b"%d" % number}, partition=partition, recover=True, row=row(actor, number)
        )
        await write(store, commit)
        assert await store.lease("name").acquire() is not None
    for number, store in enumerate(stores):
        assert (await store.settings()).partitions == PARTITIONS - number
        assert await values_of(store, actor_id()) == {"k": b"%d" % number}
        assert [one.created for one in (await store.query(InstanceFilter(type=TYPE))).items] == [number]


def _in(actor: ActorId, partitions: int) -> int:
    from perdure.statestore import partitions as of

    return of.partition_of(actor.id, partitions)
