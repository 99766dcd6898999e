"""Servers that are restarted, killed, paused, full, replicas, or not set up for a store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import pytest

from perdure.errors import ConfigurationError, CorruptState, StoreError, StoreFormat, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    Committed,
    InstanceFilter,
    Rejected,
    Settings,
    TypePartition,
)
from perdure.statestore.contract import Diagnosable
from perdure.statestore.redis import durability, scripts
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    TYPE,
    actor_id,
    partition_of,
    put,
    reminder,
    row,
    values_of,
    write,
)
from tests.servers.redis import RedisServer, redis_replicated, redis_server
from tests.servers.redis_proxy import redis_proxy
from tests.statestore.redis_use import Opened, eventually, opened, until, watched

__all__ = ["opened"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One for all tests that do not end it."""
    with redis_server(appendfsync="everysec", repl_diskless_sync_delay="0") as server:
        yield server


@pytest.fixture
def clean(server: RedisServer) -> RedisServer:
    server.command("FLUSHALL")
    return server


# --- servers that go and come -----------------------------------------------------------------------------------------


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
        assert list(await eventually(lambda: store.commit([commit]))) == [COMMITTED]
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

        assert len(await eventually(told)) == 1
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
        await eventually(store.health)
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
            assert list(await eventually(lambda: store.commit([second]))) == [COMMITTED]
            assert reasons == []


async def test_a_connection_that_breaks_is_no_restart(clean: RedisServer, opened: Opened) -> None:
    store = opened(clean.url())
    reasons = watched(store)
    await store.health()
    clean.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await eventually(store.health)
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
    assert list(await eventually(lambda: store.commit([commit]))) == [COMMITTED]


async def test_no_server(opened: Opened) -> None:
    """Also at the start: it may come later."""
    with redis_server() as server:
        url = server.url(timeout=1)
        server.kill()
        store = opened(url)
        with pytest.raises(StoreUnavailable, match=str(server.port)):
            await store.settings()
        server.start()
        assert await eventually(store.settings) == Settings(PARTITIONS)


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


# --- replicas ---------------------------------------------------------------------------------------------------------


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
        assert list(await eventually(lambda: store.commit([commit]))) == [COMMITTED]
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
        await until(lambda: reasons, "the store notices")
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
        assert (await eventually(lambda: store.load(actor_id()))).values == {"k": b"1"}  # type: ignore[union-attr]
        assert len(reasons) == 1
        for one in (lease, early):
            with pytest.raises(StoreError) as caught:
                await eventually(one.renew)
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
        assert list(await eventually(lambda: store.commit([commit]))) == [COMMITTED]
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
        await eventually(store.health)
        await eventually(lambda: store.take(ALL, FENCE))
        commit = put(actor_id(), None, {"k": b"2"})
        second.pause()
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas had the write on disk"):
            await store.commit([commit])
        second.resume()
        assert list(await eventually(lambda: store.commit([commit]))) == [COMMITTED]
    with redis_server(appendonly="no") as server, pytest.raises(ConfigurationError, match="appendonly yes"):
        await opened(server.url(durability="synced")).settings()


# --- servers that refuse ------------------------------------------------------------------------------------------------


async def test_a_full_server(clean: RedisServer, opened: Opened) -> None:
    """Nothing is written and nothing rejected: the same commits pass when there is room."""
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    await write(store, first := put(actor_id("there"), None, {"a": b"1", "b": b"1"}))
    used = int(clean.info("memory")["used_memory"])
    clean.command("CONFIG", "SET", "maxmemory", used // 2)
    batch = [
        put(actor_id("new"), None, {"k": b"1"}, recover=True, row=row(actor_id("new"), 1)),
        put(actor_id("there"), first.version, {"a": b"2"}, delete=["b"], recover=True),
    ]
    try:
        for ask in (
            lambda: store.commit(batch),
            store.health,
            lambda: store.take(ALL[:1], FENCE._replace(term=9)),
        ):
            with pytest.raises(StoreUnavailable, match="OOM"):
                await ask()
        assert await store.load(actor_id("new")) is None
        assert await values_of(store, actor_id("there")) == {"a": b"1", "b": b"1"}
        assert list((await store.owing(ALL)).items) == []
    finally:
        clean.command("CONFIG", "SET", "maxmemory", 0)
    assert list(await store.commit(batch)) == [COMMITTED] * 2
    assert await values_of(store, actor_id("there")) == {"a": b"2"}


async def test_a_server_that_cannot_save(opened: Opened) -> None:
    """Redis refuses writes after a snapshot failed: as a full disk does, that passes."""
    with redis_server(appendonly="no", save="3600 1", stop_writes_on_bgsave_error="yes") as server:
        store = opened(server.url())
        await store.take(ALL, FENCE)
        server.command("CONFIG", "SET", "rdbcompression", "no")
        (server.folder / "dump.rdb").unlink(missing_ok=True)
        (server.folder / "dump.rdb").mkdir()
        server.command("BGSAVE")
        server.until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        commit = put(actor_id(), None, {"k": b"1"})
        with pytest.raises(StoreUnavailable, match="MISCONF"):
            await store.commit([commit])
        (server.folder / "dump.rdb").rmdir()
        server.command("SAVE")
        assert list(await store.commit([commit])) == [COMMITTED]


async def test_too_few_replicas(clean: RedisServer, opened: Opened) -> None:
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    clean.command("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
            await store.commit([put(actor_id(), None, {"k": b"1"})])
    finally:
        clean.command("CONFIG", "SET", "min-replicas-to-write", 0)


@pytest.mark.parametrize("kind", ["", "#sorted", "#owing", "#rows", "#instances", "#due", "#reminders"])
async def test_a_key_of_a_wrong_kind(clean: RedisServer, opened: Opened, kind: str) -> None:
    """One commit is rejected, whole, as long as somebody else's key is in its place; those beside it pass."""
    actor = actor_id("bad")
    begin = f"perdure:{{default/{partition_of(actor)}}}"
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    name = {
        "": f"{begin}:{TYPE}||bad",
        "#sorted": f"{begin}#sorted:{TYPE}||bad",
        "#reminders": f"{begin}#reminders:{TYPE}||bad",
    }.get(kind, f"{begin}{kind}:{TYPE}")
    clean.command("SET", name, "mine")
    values = {f"k{n}": b"1" for n in range(1200)}
    bad = put(actor, None, values, recover=True, reminders=[reminder(actor, "r", 1)], row=row(actor, 1))
    good = put(actor_id("good"), None, {"k": b"1"})
    assert partition_of(good.actor) != partition_of(actor)
    before = sorted(clean.command("KEYS", "*"))
    rejected, passed = await store.commit([bad, good])
    assert isinstance(rejected, Rejected)
    assert "WRONGTYPE" in rejected.reason
    assert passed == COMMITTED
    assert sorted(set(clean.command("KEYS", "*")) - set(before)) == [
        f"perdure:{{default/{partition_of(good.actor)}}}:{TYPE}||good".encode()
    ]
    if not kind:
        with pytest.raises(CorruptState, match="WRONGTYPE"):
            await store.load(actor)
    clean.command("DEL", name)
    assert list(await store.commit([bad])) == [COMMITTED]


async def test_a_damaged_row_is_in_the_way(clean: RedisServer, opened: Opened) -> None:
    """The commit that would replace it is rejected, whole; those beside it pass."""
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    bad, good = actor_id("bad"), actor_id("good")
    await write(store, first := put(bad, None, {"k": b"1"}, row=row(bad, 1)))
    rows = f"perdure:{{default/{partition_of(bad)}}}#rows:{TYPE}"
    stored = clean.command("HGET", rows, "bad")
    clean.command("HSET", rows, "bad", stored[:9])
    second = put(bad, first.version, {"k": b"2"}, recover=True, row=row(bad, 2))
    rejected, passed = await store.commit([second, put(good, None, {"k": b"1"})])
    assert isinstance(rejected, Rejected)
    assert passed == COMMITTED
    assert await values_of(store, bad) == {"k": b"1"}
    assert list((await store.owing(ALL)).items) == []
    clean.command("HSET", rows, "bad", stored)
    await write(store, second)
    assert await store.row(bad) == row(bad, 2)


async def test_damaged_values(clean: RedisServer, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks for them is told; lists leave them out and log that, and show all others."""
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    bad, good = actor_id("bad"), actor_id("good")
    await write(
        store,
        *(
            put(a, None, {"k": b""}, recover=True, row=row(a, 1), reminders=[reminder(a, "r", 1)])
            for a in (bad, good)
        ),
    )
    begin = f"perdure:{{default/{partition_of(bad)}}}"
    clean.command(
        "HSET", f"{begin}#rows:{TYPE}", "bad", clean.command("HGET", f"{begin}#rows:{TYPE}", "bad")[:9]
    )
    clean.command("HDEL", f"{begin}:{TYPE}||bad", b"\xffversion")
    clean.command("HSET", f"{begin}#reminders:{TYPE}||bad", "r", "x")
    clean.command("ZADD", f"{begin}#owing:{TYPE}", 0, b"\xff")
    for ask in (lambda: store.row(bad), lambda: store.reminders(bad), lambda: store.load(bad)):
        with pytest.raises(CorruptState):
            await ask()
    clean.command("HSET", f"{begin}:{TYPE}||bad", b"\xffversion", "v", b"\x80", "no text")
    for ask in (lambda: store.load(bad), lambda: store.keys(bad)):
        with pytest.raises(CorruptState):
            await ask()
    assert await store.row(good) == row(good, 1)
    assert await values_of(store, good) == {"k": b""}
    with caplog.at_level(logging.ERROR):
        assert list((await store.query(InstanceFilter(type=TYPE))).items) == [row(good, 1)]
        assert list((await store.due(ALL, 10)).items) == [reminder(good, "r", 1)]
        assert {bad, good} == set((await store.owing(ALL)).items)
    assert len(caplog.records) == 2


async def test_what_is_no_text(clean: RedisServer, opened: Opened) -> None:
    """Whoever asks with it is told so."""
    store, bad = opened(clean.url()), "\ud800"
    for ask in (
        lambda: store.load(ActorId(TYPE, bad)),
        lambda: store.row(ActorId(bad, "1")),
        lambda: store.keys(actor_id(), bad),
        lambda: store.take([TypePartition(bad, 1)], FENCE),
        lambda: store.query(InstanceFilter(type=TYPE, id_prefix=bad)),
        lambda: store.query(InstanceFilter(type=TYPE, statuses=[bad])),
        lambda: store.due([TypePartition(bad, 1)], 1),
    ):
        with pytest.raises(StoreError, match="is no text"):
            await ask()


# --- what is wrong with a server ----------------------------------------------------------------------------------------


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
    assert await eventually(store.settings) == Settings(PARTITIONS)
    await eventually(running.health)


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


# --- sizes --------------------------------------------------------------------------------------------------------------


async def test_a_long_history_costs_no_more(clean: RedisServer, opened: Opened) -> None:
    """With 100,000 events: what a commit writes, and what a load and a page bring, does not grow with them."""
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    actor, last = actor_id(), None
    event = b"x" * 100

    async def grow(start: int, size: int) -> None:
        nonlocal last
        values = {f"history-{number:06d}": event for number in range(start, start + size)}
        commit = put(actor, last, {**values, "metadata": b"m"})
        await write(store, commit)
        last = commit.version

    def traffic() -> tuple[int, int]:
        stats = clean.info("stats")
        calls = clean.info("commandstats")
        writes = sum(
            int(calls.get(f"cmdstat_{name}", "calls=0,").split("calls=")[1].split(",")[0])
            for name in ("hset", "zadd", "hkeys", "hdel", "zrem")
        )
        return int(stats["total_net_output_bytes"]), writes

    async def costs() -> list[int]:
        found = []
        for ask in (
            lambda: grow(200_000 + size, 2),
            lambda: store.load(actor),
            lambda: store.keys(actor, "history-", limit=100),
            lambda: store.keys(actor, "", "history-000500", limit=100),
        ):
            before = traffic()
            await ask()
            after = traffic()
            found += [(after[0] - before[0]) // 10_000, after[1] - before[1]]
        return found

    size = 0
    await grow(0, size := 2000)
    short = await costs()
    for start in range(2000, 100_000, 20_000):
        await grow(start, 20_000)
    size = 100_000
    assert await costs() == short
    assert max(short) < 50


async def test_too_large_for_redis(
    clean: RedisServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Redis would cut the connection for is rejected before."""
    from perdure.statestore.redis import commits

    monkeypatch.setattr(commits, "MOST_BYTES", 1_000_000)
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    large, small = put(actor_id("l"), None, {"k": bytes(1_000_001)}), put(actor_id("s"), None, {"k": b""})
    rejected, passed = await store.commit([large, small])
    assert isinstance(rejected, Rejected)
    assert "at most 1000000" in rejected.reason
    assert passed == COMMITTED


@pytest.mark.parametrize(
    "commit",
    [
        put(actor_id(), None, {"k": b""}, partition=(partition_of(actor_id()) + 1) % PARTITIONS),
        put(actor_id(), None, {"\ud800": b""}),
        put(ActorId("\ud800", "1"), None, {"k": b""}),
        put(actor_id(), None, {"k": b""}, row=row(actor_id(), 2**70)),
        put(actor_id(), None, {"k": b""}, row=row(actor_id(), 1, status="")),
        put(actor_id(), None, {"k": b""}, reminders=[reminder(actor_id(), "r", 2**63)]),
        put(actor_id(), None, {"k": b""}, delete=["\ud800"]),
    ],
)
async def test_what_cannot_be_stored(clean: RedisServer, opened: Opened, commit: object) -> None:
    """It is rejected alone."""
    store = opened(clean.url())
    await store.take(ALL, FENCE)
    good = put(actor_id("good"), None, {"k": b""})
    rejected, passed = await store.commit([commit, good])  # type: ignore[list-item]
    assert isinstance(rejected, Rejected), rejected
    assert isinstance(passed, Committed)
    assert await store.load(actor_id()) is None
