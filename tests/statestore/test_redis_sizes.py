"""Long histories and large values."""

from __future__ import annotations

import pytest

from perdure.statestore import (
    COMMITTED,
    ActorId,
    Committed,
    Rejected,
)
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    actor_id,
    partition_of,
    put,
    reminder,
    row,
    write,
)
from tests.servers.redis import RedisServer
from tests.statestore.redis_use import Opened, clean, opened, server

__all__ = ["clean", "opened", "server"]


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
