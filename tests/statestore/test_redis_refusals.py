"""Servers that refuse, and values that are not what a store has written."""

from __future__ import annotations

import logging

import pytest

from perdure.errors import CorruptState, StoreError, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    InstanceFilter,
    Rejected,
    TypePartition,
)
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    TYPE,
    actor_id,
    partition_of,
    put,
    reminder,
    row,
    values_of,
    write,
)
from tests.servers.redis import RedisServer, redis_server
from tests.statestore.redis_use import Opened, clean, opened, server

__all__ = ["clean", "opened", "server"]


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
