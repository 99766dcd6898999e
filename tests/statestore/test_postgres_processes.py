"""Several processes on one schema."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from perdure.statestore import (
    COMMITTED,
    ActorId,
    Commit,
    CommitResult,
    Committed,
    Conflict,
    Fence,
    Fenced,
    Refused,
    Taken,
    TypePartition,
)
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    actor_id,
    put,
    values_of,
)
from tests.statestore.postgres_use import TIMEOUT, opened, opened_at, schema, server, store

__all__ = ["opened", "opened_at", "schema", "server", "store"]


#: Hand-overs in the middle of commits.
ROUNDS = 25


async def test_take_waits_for_commits_under_way(opened: Callable[..., PostgresStore]) -> None:
    """When it has returned, nothing passes under the old fence any more, also not what was sent before: many
    hand-overs of partitions in the middle of commits, each followed by a load that must stay true."""
    owners = [opened(), opened()]
    actors = [actor_id(f"a{number}") for number in range(20)]
    versions: dict[ActorId, bytes | None] = dict.fromkeys(actors)
    epoch = 1
    await owners[0].take(ALL, Fence(1, epoch))
    for _ in range(ROUNDS):
        old, new = owners
        fence = Fence(1, epoch)

        async def work(actor: ActorId, old: PostgresStore = old, fence: Fence = fence) -> CommitResult:
            """Commits until it is refused."""
            while True:
                commit = put(actor, versions[actor], {"k": b"v"}, fence=fence)
                (result,) = await old.commit([commit])
                if result != COMMITTED:
                    return result
                versions[actor] = commit.version

        tasks = [asyncio.create_task(work(actor)) for actor in actors]
        await asyncio.sleep(random.uniform(0.001, 0.02))
        epoch += 1
        assert all(isinstance(one, Taken) for one in await new.take(ALL, Fence(1, epoch)))
        seen = {actor: await new.load(actor) for actor in actors}
        assert await asyncio.gather(*tasks) == [Fenced(Fence(1, epoch))] * len(actors)
        for actor, snapshot in seen.items():
            assert (snapshot.version if snapshot else None) == versions[actor]
        owners.reverse()


async def test_batches_of_several_nodes_do_not_wait_in_a_circle(opened: Callable[..., PostgresStore]) -> None:
    """The same actors in another order, at the same time, and taken meanwhile: every result is definite, and of the
    commits on one version one passes."""
    stores = [opened(timeout=TIMEOUT) for _ in range(4)]
    await stores[0].take(ALL, FENCE)
    actors = [actor_id(f"a{number}") for number in range(60)]
    last: dict[ActorId, bytes | None] = dict.fromkeys(actors)
    for turn in range(12):
        batches = []
        for _ in stores:
            mine = random.sample(actors, 40)
            batches.append([put(a, last[a], {"k": b"%d" % turn, f"history-{turn:06d}": b""}) for a in mine])
        removed = random.choice(actors)
        batches[0] = [c for c in batches[0] if c.actor != removed] + [
            put(removed, last[removed], {}, reset=True)
        ]
        answers = await asyncio.gather(
            *(store.commit(batch) for store, batch in zip(stores, batches, strict=True)),
            stores[0].take(ALL, FENCE),
            stores[1].release(ALL, Fence(9, 9)),
        )
        passed: dict[ActorId, list[Commit]] = {}
        for batch, results in zip(batches, answers[:4], strict=True):
            for commit, result in zip(batch, results or (), strict=True):
                assert isinstance(result, (Committed, Conflict)), result
                if isinstance(result, Committed):
                    passed.setdefault(commit.actor, []).append(commit)
        for actor, commits in passed.items():
            writers = [c for c in commits if not c.reset]
            snapshot = await stores[0].load(actor)
            last[actor] = snapshot.version if snapshot else None
            assert last[actor] in {None, *(c.version for c in writers)}
            # One on the expected version; a removal of nobody passes as well, and makes room for one more.
            assert len(writers) <= 1 + (actor == removed)


async def test_two_commits_of_one_new_actor(opened: Callable[..., PostgresStore]) -> None:
    """One makes it; the other one is told."""
    one, two = opened(), opened()
    await one.take(ALL, FENCE)
    for number in range(20):
        actor = actor_id(f"n{number}")
        commits = [put(actor, None, {"k": b"%d" % n}) for n in range(2)]
        results = await asyncio.gather(one.commit(commits[:1]), two.commit(commits[1:]))
        flat = [result for results_of_one in results for result in results_of_one]
        assert sorted(map(type, flat), key=str) == sorted([Committed, Conflict], key=str)
        winner = commits[flat.index(COMMITTED)]
        assert Conflict(winner.version) in flat
        assert await values_of(one, actor) == winner.put


async def test_a_partition_named_twice(store: PostgresStore) -> None:
    one = TypePartition("T", 1)
    assert list(await store.take([one, one], Fence(1, 1))) == [Taken(True), Refused(Fence(1, 1))]
    assert list(await store.take([], Fence(1, 1))) == []
