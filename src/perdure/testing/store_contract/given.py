"""What each part of the contract is given: a store, and commits to make of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import Any, Protocol

import pytest
import pytest_asyncio

from perdure.statestore import partitions
from perdure.statestore.contract import (
    COMMITTED,
    ActorId,
    Commit,
    Fence,
    InstanceRow,
    Reminder,
    StateStore,
    TypePartition,
)

TYPE = "contract.Type"


FENCE = Fence(5, 7)


PARTITIONS = 64


ALL = [TypePartition(TYPE, partition) for partition in range(PARTITIONS)]


_versions = count(1)


class StoreHarness(Protocol):
    """How the suite gets at a store. Each harness is used by one test, and begins with an empty store."""

    #: Whether what was committed is still there after `reopen`.
    durable: bool

    async def open(self) -> StateStore:
        """The store, with 64 partitions. Called once."""

    async def reopen(self) -> StateStore:
        """The store closed and opened again on the same data. Called only where `durable`."""


def version() -> bytes:
    """A version that no other commit has."""
    return next(_versions).to_bytes(16, "big")


def actor_id(id: str = "1", type: str = TYPE) -> ActorId:
    return ActorId(type, id)


def partition_of(actor: ActorId) -> int:
    return partitions.partition_of(actor.id, PARTITIONS)


def put(
    actor: ActorId, expected: bytes | None = None, values: dict[str, bytes] | None = None, **rest: Any
) -> Commit:
    """A commit to an actor, under `FENCE` unless said otherwise."""
    rest.setdefault("partition", partition_of(actor))
    rest.setdefault("fence", FENCE)
    rest.setdefault("version", version())
    return Commit(actor, expected=expected, put={} if values is None else values, **rest)


async def write(store: StateStore, *batch: Commit) -> None:
    """Commits that must pass."""
    results = await store.commit(batch)
    assert list(results) == [COMMITTED] * len(batch), results


async def values_of(store: StateStore, actor: ActorId) -> dict[str, bytes]:
    snapshot = await store.load(actor)
    assert snapshot is not None
    return dict(snapshot.values)


async def all_keys(store: StateStore, actor: ActorId, prefix: str = "", limit: int = 1000) -> list[str]:
    found: list[str] = []
    start: str | None = None
    while True:
        page = await store.keys(actor, prefix, start, limit)
        found += [key for key, _ in page.items]
        if page.cursor is None:
            return found
        start = page.cursor


def reminder(actor: ActorId, name: str, due: int, data: bytes = b"") -> Reminder:
    return Reminder(actor, name, due, data)


def row(actor: ActorId, created: int, status: str = "running", name: str = "order") -> InstanceRow:
    return InstanceRow(actor, name, status, created, created + 1, b"details of " + actor.id.encode())


class Given:
    """The fixtures of all parts."""

    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def store(self, harness: StoreHarness) -> AsyncIterator[StateStore]:
        store = await harness.open()
        await store.take(ALL, FENCE)
        yield store
