"""A server that is killed again and again under load loses nothing that it acknowledged.

Three times here; `PERDURE_REDIS_KILLS=500 pytest tests/statestore/test_redis_kills.py --timeout=0` takes its time.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence

from perdure.errors import StoreUnavailable
from perdure.statestore import COMMITTED, ActorId, Commit, CommitResult, InstanceFilter
from perdure.testing.store_contract import ALL, FENCE, TYPE, actor_id, all_keys, put, reminder, row
from tests.servers.redis import redis_server
from tests.statestore.asking import again
from tests.statestore.redis_use import Opened, opened, watched

__all__ = ["opened"]

ROUNDS = int(os.environ.get("PERDURE_REDIS_KILLS", "3"))
ACTORS = 60


async def test_kills_under_load(opened: Opened) -> None:
    """What was answered is there, once; what was not is there once after it was tried again. And as nothing is lost,
    nobody is told that something may be."""
    with redis_server() as server:
        store = opened(server.url(timeout=5))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        actors = [actor_id(f"a{number}") for number in range(ACTORS)]
        # What each actor's history must be: an entry is added when its commit is acknowledged.
        kept: dict[ActorId, list[bytes]] = {actor: [] for actor in actors}
        unanswered = 0
        stop = False

        def next_commit(actor: ActorId) -> Commit:
            history = kept[actor]
            number = len(history)
            return put(
                actor,
                history[-1] if history else None,
                {f"history-{number:06d}": b"%d" % number, "metadata": b"m" * 100},
                recover=number % 2 == 0,
                reminders=[reminder(actor, "r", number)],
                row=row(actor, number),
            )

        async def work(mine: Sequence[ActorId]) -> None:
            nonlocal unanswered
            while not stop:
                batch = [next_commit(actor) for actor in mine]
                results: Sequence[CommitResult] | None = None
                while results is None:
                    try:
                        results = await store.commit(batch)
                    except StoreUnavailable:
                        unanswered += 1
                        await asyncio.sleep(0.01)
                assert list(results) == [COMMITTED] * len(batch)
                for commit in batch:
                    kept[commit.actor].append(commit.version)

        # Batches of 30, and others at the same time.
        shares = [actors[:30], *([actor] for actor in actors[30:40]), actors[40:]]
        workers = [asyncio.create_task(work(share)) for share in shares]
        for _ in range(ROUNDS):
            await asyncio.sleep(random.uniform(0.05, 0.4))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await again(store.health)
        stop = True
        await asyncio.gather(*workers)
        assert unanswered > 0
        assert reasons == []
        owing = set((await store.owing(ALL)).items)
        due = {one.actor: one.due for one in (await store.due(ALL, 10**9)).items}
        rows = {
            one.actor: one.created for one in (await store.query(InstanceFilter(type=TYPE), None, 1000)).items
        }
        for actor, history in kept.items():
            last = len(history) - 1
            assert await all_keys(store, actor, "history-") == [
                f"history-{n:06d}" for n in range(len(history))
            ]
            snapshot = await store.load(actor)
            assert snapshot is not None
            assert snapshot.version == history[-1]
            assert (actor in owing, due[actor], rows[actor]) == (last % 2 == 0, last, last)
