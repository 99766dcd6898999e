"""Fail-over by sentinels, and a cluster whose slots move and whose nodes die."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.statestore import COMMITTED, ActorId, Commit, InstanceFilter, Settings
from perdure.statestore.redis.layout import Layout
from perdure.statestore.redis.session import former
from perdure.statestore.redis.store import RedisStore
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
from tests.servers.redis import RedisCluster, redis_cluster, redis_watched
from tests.statestore.asking import again
from tests.statestore.redis_use import Opened, opened, watched
from tests.waiting import eventually

__all__ = ["opened"]

LAYOUT = Layout("default")


def slot_of(actor: ActorId) -> int:
    return LAYOUT.names(actor.type, partition_of(actor)).slot


class Chain:
    """An actor whose commits go on, each on top of the last one that was acknowledged."""

    def __init__(self, store: RedisStore, actor: ActorId) -> None:
        self.store = store
        self.actor = actor
        self.last: bytes | None = None
        self.length = 0

    def next(self) -> Commit:
        return put(
            self.actor,
            self.last,
            {f"history-{self.length:06d}": b"h"},
            recover=True,
            row=row(self.actor, self.length),
            reminders=[reminder(self.actor, "r", self.length)],
        )

    async def go_on(self) -> None:
        """One more commit, however often it has to be tried."""
        commit = self.next()
        assert list(await again(lambda: self.store.commit([commit]))) == [COMMITTED]
        self.last, self.length = commit.version, self.length + 1

    async def check(self) -> None:
        assert await values_of(self.store, self.actor) == {
            f"history-{number:06d}": b"h" for number in range(self.length)
        }
        assert await self.store.row(self.actor) == row(self.actor, self.length - 1)
        assert [one.due for one in await self.store.reminders(self.actor)] == [self.length - 1]


# --- sentinels ----------------------------------------------------------------------------------------------------------


async def test_sentinels_promote_a_replica(opened: Opened) -> None:
    """The store finds the new primary by itself. As that has everything, nobody is told that something may be lost."""
    with redis_watched() as service:
        with pytest.raises(ConfigurationError, match="no sentinel knows 'nobody'"):
            await opened(service.url().replace("/perdure", "/nobody")).settings()
        store = opened(service.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        chain = Chain(store, actor_id())
        await chain.go_on()
        old = service.primary()
        new = next(server for server in service.servers if server is not old)
        new.catch_up(old)
        # One sentinel is away as well: the others are asked.
        service.sentinels[0].kill()
        old.kill()
        await chain.go_on()
        await chain.check()
        assert new.info("replication")["role"] == "master"
        # It does not know yet that it is none any more.
        old.start()
        await chain.go_on()
        await store.health()
        await chain.check()
        assert reasons == []
        for sentinel in service.sentinels[1:]:
            sentinel.kill()
        with pytest.raises(StoreUnavailable):
            await opened(service.url(timeout=1)).settings()
        # Who is connected needs none.
        await chain.go_on()


# --- a cluster whose slots move -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster(appendfsync="everysec") as cluster:
        yield cluster


@pytest.fixture
def clean(cluster: RedisCluster) -> RedisCluster:
    cluster.clear()
    return cluster


async def test_a_slot_that_has_moved(clean: RedisCluster, opened: Opened) -> None:
    """Whoever does not know yet is told by the server, and goes on in the same call. Nothing may be lost by it."""
    store = opened(clean.url())
    reasons = watched(store)
    await store.take(ALL, FENCE)
    chain, other = Chain(store, actor_id()), Chain(store, actor_id("other"))
    await chain.go_on()
    slot = slot_of(chain.actor)
    source = clean.owner(slot)
    target = next(server for server in clean.primaries if server is not source)
    clean.begin_move(slot, source, target)
    assert clean.move_keys(slot, source, target) > 0
    clean.end_move(slot, source, target)
    batch = [chain.next(), other.next()]
    assert list(await store.commit(batch)) == [COMMITTED] * 2
    chain.last, chain.length = batch[0].version, 2
    await chain.check()
    assert len((await store.owing(ALL)).items) == len((await store.due(ALL, 9)).items) == 2
    assert len((await store.query(InstanceFilter(type=TYPE))).items) == 2
    assert reasons == []


@pytest.mark.parametrize("moved", ["none", "some", "all"])
async def test_a_slot_that_moves(clean: RedisCluster, opened: Opened, moved: str) -> None:
    """While its keys are on two servers, a commit is done where all of them are, or not at all; and when the move is
    over, it is done."""
    store = opened(clean.url(timeout=5))
    await store.take(ALL, FENCE)
    chain, fresh = Chain(store, actor_id()), Chain(store, ActorId(TYPE, _neighbour(actor_id())))
    await chain.go_on()
    slot = slot_of(chain.actor)
    source = clean.owner(slot)
    target = next(server for server in clean.primaries if server is not source)
    clean.begin_move(slot, source, target)
    clean.move_keys(slot, source, target, {"none": 0, "some": 3, "all": 1000}[moved])
    tries = asyncio.gather(chain.go_on(), fresh.go_on())
    await asyncio.sleep(0.1)
    clean.move_keys(slot, source, target)
    clean.end_move(slot, source, target)
    await tries
    await chain.check()
    await fresh.check()
    assert source.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    assert set((await store.owing(ALL)).items) == {chain.actor, fresh.actor}


def _neighbour(actor: ActorId) -> str:
    """An id in the same partition."""
    return next(
        f"n{number}"
        for number in range(10_000)
        if partition_of(actor_id(f"n{number}")) == partition_of(actor)
    )


async def test_moves_under_load(clean: RedisCluster, opened: Opened) -> None:
    """Slots go to and fro while actors commit: each commit is there once, and nothing is told to be lost."""
    store = opened(clean.url(timeout=5))
    reasons = watched(store)
    await store.take(ALL, FENCE)
    chains = [Chain(store, actor_id(f"a{number}")) for number in range(20)]
    stop = False

    async def work(chain: Chain) -> None:
        while not stop:
            await chain.go_on()

    async def move() -> None:
        for chain in chains[:8]:
            slot = slot_of(chain.actor)
            source = clean.owner(slot)
            target = clean.primaries[(clean.primaries.index(source) + 1) % 3]
            await asyncio.to_thread(clean.begin_move, slot, source, target)
            while await asyncio.to_thread(clean.move_keys, slot, source, target, 2):
                pass
            await asyncio.to_thread(clean.end_move, slot, source, target)

    tasks = [asyncio.create_task(work(chain)) for chain in chains]
    await move()
    stop = True
    await asyncio.gather(*tasks)
    for chain in chains:
        assert chain.length > 1
        await chain.check()
    assert set((await store.owing(ALL)).items) == {chain.actor for chain in chains}
    assert len((await store.query(InstanceFilter(type=TYPE))).items) == len(chains)
    assert reasons == []


async def test_one_node_is_enough_to_begin_with(clean: RedisCluster, opened: Opened) -> None:
    store = opened(f"redis+cluster://127.0.0.1:1,127.0.0.1:{clean.primaries[1].port}")
    assert await store.settings() == Settings(64)
    await store.health()


async def test_a_node_of_a_cluster_is_no_single_server(clean: RedisCluster, opened: Opened) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        await opened(f"redis://127.0.0.1:{clean.primaries[0].port}").settings()


# --- a cluster whose nodes die --------------------------------------------------------------------------------------------


async def test_a_node_is_away(opened: Opened) -> None:
    """A batch for it is unknown as a whole; the others go on; and when it is back, all goes on. It lost nothing."""
    with redis_cluster(cluster_require_full_coverage="no") as cluster:
        store = opened(cluster.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        actors = [actor_id(f"a{number}") for number in range(30)]
        gone = cluster.owner(slot_of(actors[0]))
        there = [actor for actor in actors if cluster.owner(slot_of(actor)) is not gone]
        gone.kill()
        batch = [put(actor, None, {"k": b"1"}) for actor in actors]
        with pytest.raises(StoreUnavailable):
            await store.commit(batch)
        with pytest.raises(StoreUnavailable):
            await store.health()
        rest = [commit for commit in batch if commit.actor in there]
        assert list(await again(lambda: store.commit(rest))) == [COMMITTED] * len(rest)
        assert reasons == []
        gone.start()
        assert list(await again(lambda: store.commit(batch))) == [COMMITTED] * len(batch)
        assert reasons == []
        await again(store.health)


@pytest.mark.parametrize("ends", ["", "0"])
def test_the_name_of_a_former_history(ends: str) -> None:
    """Zeros at its ends are part of it: without them the replica's primary is not recognised, and one of eight
    promotions counts as a loss."""
    name = ends + "1a" * ((40 - 2 * len(ends)) // 2) + ends
    assert former({"master_replid2": name}) == name
    assert former({"master_replid2": "0" * 40}) == former({}) == ""


@pytest.mark.parametrize("lags", [False, True])
async def test_a_replica_takes_over(opened: Opened, lags: bool) -> None:
    """What it has is there, and commits go on. If it lacks something, that is told before anything shows it."""
    with redis_cluster(3, 1, cluster_node_timeout="1000") as cluster:
        store = opened(cluster.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        chains = [Chain(store, actor_id(f"a{number}")) for number in range(10)]
        for chain in chains:
            await chain.go_on()
        first = chains[0]
        primary = cluster.owner(slot_of(first.actor))
        replica = cluster.servers[3 + cluster.primaries.index(primary)]
        replica.catch_up(primary)
        if lags:
            # Its connection is cut, and it is not let in again.
            primary.command("CONFIG", "SET", "requirepass", "secret")
            primary.user, primary.password = "default", "secret"
            primary.command("CLIENT", "KILL", "TYPE", "replica")
            commit = first.next()
            await write(store, commit)
        primary.kill()

        async def told() -> list[str]:
            await store.load(first.actor)
            return list(reasons)

        assert len(await again(told)) == lags
        for chain in chains:
            await chain.go_on()
            await chain.check()
        assert len(reasons) == lags
        if not lags:
            primary.start()
            await eventually(
                lambda: primary.info("replication")["role"] == "slave", "the old primary is a replica"
            )
            for chain in chains:
                await chain.go_on()
            assert reasons == []


async def test_a_slot_that_moved_and_was_lost(opened: Opened) -> None:
    """Its new server loses it at a restart: what the former one had acknowledged is gone, and that is told."""
    with redis_cluster(appendonly="no", cluster_require_full_coverage="no") as cluster:
        store = opened(cluster.url(timeout=1))
        reasons = watched(store)
        await store.take(ALL, FENCE)
        for server in cluster.servers:
            server.command("SAVE")
        chain = Chain(store, actor_id())
        slot = slot_of(chain.actor)
        source = cluster.owner(slot)
        target = next(server for server in cluster.primaries if server is not source)
        await chain.go_on()
        cluster.begin_move(slot, source, target)
        cluster.move_keys(slot, source, target)
        cluster.end_move(slot, source, target)
        # Read where it is now, but nothing written there since.
        await chain.check()
        target.kill()
        target.start()

        async def told() -> list[str]:
            await store.load(chain.actor)
            return list(reasons)

        assert len(await again(told)) == 1
        assert await store.load(chain.actor) is None
