"""Fills a store with copies of one real instance, through the store's own contract and in large batches.

A million instances that were all run would take minutes; copied ones are byte for byte what a run leaves behind.
"""

from __future__ import annotations

import secrets
import time

from msgspec.structs import replace

from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, Commit, Committed, Fence, StateStore, TypePartition
from perdure.statestore.urls import open_store

#: Instances per call of the store.
BATCH = 1000


async def copy_instance(url: str, source: ActorId, begin: int, end: int) -> None:
    """Copies `source` to the ids copy-<begin> … copy-<end - 1>. No node may hold the store meanwhile."""
    store = open_store(url)
    try:
        fence, held = await _take_all(store, source.type)
        await _copy(store, source, begin, end, fence)
        await store.release(held, fence)
    finally:
        await store.close()


async def _take_all(store: StateStore, actor_type: str) -> tuple[Fence, list[TypePartition]]:
    """A fence above all that nodes took before, and below the one that the next node takes."""
    partitions = (await store.settings()).partitions
    fence = Fence(time.time_ns() // 1_000_000, 0)
    held = [TypePartition(actor_type, partition) for partition in range(partitions)]
    await store.take(held, fence)
    return fence, held


async def _copy(store: StateStore, source: ActorId, begin: int, end: int, fence: Fence) -> None:
    partitions = (await store.settings()).partitions
    snapshot, row = await store.load(source), await store.row(source)
    assert snapshot is not None
    assert row is not None
    assert snapshot.complete
    values = dict(snapshot.values)
    for first in range(begin, end, BATCH):
        batch: list[Commit] = []
        for number in range(first, min(first + BATCH, end)):
            actor = ActorId(source.type, f"copy-{number:07}")
            batch.append(
                Commit(
                    actor=actor,
                    partition=partition_of(actor.id, partitions),
                    fence=fence,
                    expected=None,
                    version=secrets.token_bytes(16),
                    put=values,
                    row=replace(row, actor=actor),
                )
            )
        results = await store.commit(batch)
        if refused := [answer for answer in results if not isinstance(answer, Committed)]:
            raise RuntimeError(f"the store refused a copy: {refused[0]}")
