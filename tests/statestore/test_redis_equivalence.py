"""RedisStore gives the answers that MemoryStore gives, and holds the same afterwards; with and without sorted keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from perdure.statestore import MemoryStore, open_store
from perdure.statestore.redis import commits, scripts
from perdure.statestore.redis.link import packed
from perdure.testing.store_contract import PARTITIONS
from tests.servers.redis import RedisServer, redis_server
from tests.statestore import test_equivalence as equivalence

_namespaces = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(appendonly="no") as server:
        yield server


@pytest.fixture
def sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor's keys are kept sorted from the third one on, not from the thousandth."""
    script = scripts.Script("commit")
    changed = script.text.replace(b"SORTED_FROM = 1000", b"SORTED_FROM = 2")
    assert changed != script.text
    script = scripts.Script("commit", changed)
    monkeypatch.setattr(commits, "SHA", script.sha)
    monkeypatch.setattr(scripts, "LOADING", [*scripts.LOADING, packed(b"SCRIPT", b"LOAD", script.text)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(equivalence.STEPS)
def test_memory_and_redis_are_the_same(server: RedisServer, steps: list[Any]) -> None:
    asyncio.run(_both(server, steps))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(equivalence.STEPS)
def test_sorted_keys_are_the_same(server: RedisServer, sorting: None, steps: list[Any]) -> None:
    asyncio.run(_both(server, steps))


def test_they_were_sorted(server: RedisServer) -> None:
    """The one above tests what it says."""
    assert server.command("KEYS", "*#sorted:*")


async def _both(server: RedisServer, steps: list[Any]) -> None:
    store = open_store(server.url(namespace=f"n{next(_namespaces)}"), partitions=PARTITIONS)
    try:
        await equivalence.run(steps, MemoryStore(partitions=PARTITIONS), store)
    finally:
        await store.close()
