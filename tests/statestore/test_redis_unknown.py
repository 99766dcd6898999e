"""What is lost on its way: answers, requests, halves of them, and what arrives too late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from perdure.errors import StoreError, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    Commit,
    Conflict,
    Fence,
    Fenced,
    Refused,
    StateStore,
    Taken,
    open_store,
)
from perdure.statestore.redis import scripts
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    actor_id,
    put,
    reminder,
    row,
    values_of,
    write,
)
from tests.servers.redis import RedisServer, redis_server
from tests.servers.redis_proxy import Proxy, redis_proxy

COMMIT = scripts.COMMIT.sha
#: May not end other connections, as on servers that somebody else runs.
LIMITED = ("limited", "secret", "on", ">secret", "~perdure:*", "+@all", "-client", "+client|id")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(appendfsync="everysec") as server:
        server.command("ACL", "SETUSER", LIMITED[0], *LIMITED[2:])
        yield server


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    server.command("FLUSHALL")
    async with redis_proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[StateStore]:
    """Through the proxy, with little patience."""
    store = open_store(f"redis://127.0.0.1:{proxy.port}?timeout=1", partitions=PARTITIONS)
    await store.take(ALL, FENCE)
    yield store
    await store.close()


@pytest.fixture
async def powerless(proxy: Proxy) -> AsyncIterator[StateStore]:
    """As `store`, by a user who may not end the store's former connections."""
    store = open_store(
        f"redis://{LIMITED[0]}:{LIMITED[1]}@127.0.0.1:{proxy.port}?timeout=1", partitions=PARTITIONS
    )
    await store.take(ALL, FENCE)
    yield store
    await store.close()


@pytest.fixture
async def direct(server: RedisServer) -> AsyncIterator[StateStore]:
    """Another node's store, which the proxy does not disturb."""
    store = open_store(server.url(), partitions=PARTITIONS)
    yield store
    await store.close()


def some(number: int, values: dict[str, bytes] | None = None, expected: bytes | None = None) -> list[Commit]:
    """Commits that change everything that a commit can change."""
    return [
        put(
            actor,
            expected,
            values or {"metadata": b"m" * 200, "history-000000": b"h" * 200},
            recover=True,
            reminders=[reminder(actor, "r", 5)],
            row=row(actor, n),
        )
        for n, actor in enumerate(actor_id(f"a{n}") for n in range(number))
    ]


async def check(store: StateStore, batch: list[Commit]) -> None:
    """Each of the batch was applied, once and whole."""
    for commit in batch:
        snapshot = await store.load(commit.actor)
        assert snapshot is not None
        assert (snapshot.version, snapshot.values, snapshot.recover) == (commit.version, commit.put, True)
        assert list(await store.reminders(commit.actor)) == list(commit.reminders)
        assert await store.row(commit.actor) == commit.row
    assert sorted((await store.owing(ALL)).items) == sorted(commit.actor for commit in batch)


async def test_an_answer_is_lost(store: StateStore, proxy: Proxy) -> None:
    """Unknown; and the same batch again finds all of it done."""
    batch = some(5)
    proxy.lose_answer(COMMIT)
    with pytest.raises(StoreUnavailable):
        await store.commit(batch)
    assert not proxy.armed
    await check(store, batch)
    assert list(await store.commit(batch)) == [COMMITTED] * 5
    await check(store, batch)


async def test_a_request_is_lost(store: StateStore, proxy: Proxy) -> None:
    """Unknown; and the same batch again does all of it."""
    batch = some(5)
    proxy.lose_request(COMMIT)
    with pytest.raises(StoreUnavailable):
        await store.commit(batch)
    assert (await store.load(batch[0].actor)) is None
    assert list(await store.commit(batch)) == [COMMITTED] * 5
    await check(store, batch)


@pytest.mark.parametrize("part", [100, 8_000, 30_000, 60_000])
async def test_a_part_of_a_request_is_lost(store: StateStore, proxy: Proxy, part: int) -> None:
    """Some of the batch were applied, wherever the cut is; the batch again does the rest."""
    batch = some(60)
    proxy.lose_request(COMMIT, after=part)
    with pytest.raises(StoreUnavailable):
        await store.commit(batch)
    assert list(await store.commit(batch)) == [COMMITTED] * 60
    await check(store, batch)


async def test_what_was_given_up_is_never_done(store: StateStore, proxy: Proxy) -> None:
    """A commit still on its way when its store connects anew does nothing when it arrives: also where nothing else
    would stop it, as the actor is gone again."""
    made = some(1)
    proxy.keep_back(COMMIT)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await store.commit(made)
    assert list(await store.commit(made)) == [COMMITTED]
    gone = put(made[0].actor, made[0].version, {}, reset=True)
    assert list(await store.commit([gone])) == [COMMITTED]
    await proxy.deliver()
    assert await store.load(made[0].actor) is None
    assert await store.row(made[0].actor) is None


async def test_what_arrives_after_it_was_done_again(powerless: StateStore, proxy: Proxy) -> None:
    """The version stops it, though nobody could end the connection on which it was."""
    (first,) = some(1)
    await write(powerless, first)
    second = put(first.actor, first.version, {"metadata": b"2"})
    proxy.keep_back(COMMIT)
    with pytest.raises(StoreUnavailable):
        await powerless.commit([second])
    assert list(await powerless.commit([second])) == [COMMITTED]
    third = put(first.actor, second.version, {"metadata": b"3"})
    await write(powerless, third)
    await proxy.deliver()
    assert (await values_of(powerless, first.actor))["metadata"] == b"3"


async def test_what_arrives_after_another_took_over(
    powerless: StateStore, proxy: Proxy, direct: StateStore
) -> None:
    """The fence stops it."""
    batch = some(3)
    proxy.keep_back(COMMIT)
    with pytest.raises(StoreUnavailable):
        await powerless.commit(batch)
    higher = Fence(FENCE.term + 1, 0)
    assert list(await direct.take(ALL, higher)) == [Taken(False)] * len(ALL)
    await proxy.deliver()
    assert [await direct.load(commit.actor) for commit in batch] == [None] * 3
    assert list(await powerless.commit(batch)) == [Fenced(higher)] * 3


async def test_a_fence_without_an_answer(store: StateStore, proxy: Proxy) -> None:
    """Taking again tells that it was taken."""
    proxy.lose_answer(scripts.TAKE.sha)
    higher = Fence(FENCE.term + 1, 0)
    with pytest.raises(StoreUnavailable):
        await store.take(ALL, higher)
    assert list(await store.take(ALL, higher)) == [Refused(higher)] * len(ALL)


async def test_a_lease_write_that_arrives_late(store: StateStore, proxy: Proxy) -> None:
    """A write without an answer never takes effect after a later one of the same holder."""
    await _late_write(store, proxy)


async def test_a_lease_write_that_nobody_could_stop(powerless: StateStore, proxy: Proxy) -> None:
    """Neither if the connection on which it was could not be ended: it is older than what is stored."""
    await _late_write(powerless, proxy)


async def _late_write(store: StateStore, proxy: Proxy) -> None:
    lease = store.lease("placement")
    assert await lease.acquire() is not None
    await lease.write(b"first")
    proxy.keep_back(b"second")
    with pytest.raises(StoreUnavailable):
        await lease.write(b"second")
    await lease.write(b"third")
    await proxy.deliver()
    assert await lease.read() == b"third"
    await lease.renew()
    await lease.write(b"fourth")
    assert await lease.read() == b"fourth"


async def test_a_lease_that_is_acquired_late(powerless: StateStore, proxy: Proxy, direct: StateStore) -> None:
    """An acquisition that was given up does nothing after the lease was given back."""
    lease = powerless.lease("placement")
    proxy.keep_back(b"acquire")
    with pytest.raises(StoreUnavailable):
        await lease.acquire()
    term = await lease.acquire()
    assert term is not None
    await lease.release()
    await proxy.deliver()
    later = await direct.lease("placement").acquire()
    assert later is not None
    assert later > term


async def test_a_lease_whose_acquisition_was_not_answered(store: StateStore, proxy: Proxy) -> None:
    """It may be held; acquiring again gives a higher term at once."""
    lease = store.lease("placement")
    proxy.lose_answer(b"acquire")
    with pytest.raises(StoreUnavailable):
        await lease.acquire()
    with pytest.raises(StoreError):
        await lease.write(b"x")
    assert await lease.acquire() is not None
    await lease.write(b"y")


async def test_connections_that_break_all_the_time(store: StateStore, proxy: Proxy) -> None:
    """Each commit is done once, however often it has to be tried."""
    actor: ActorId = actor_id()
    last: bytes | None = None
    for number in range(20):
        commit = put(actor, last, {f"history-{number:06d}": b"%d" % number})
        (proxy.lose_answer if number % 2 else proxy.lose_request)(COMMIT)
        for _ in range(10):
            try:
                assert list(await store.commit([commit])) == [COMMITTED]
                break
            except StoreUnavailable:
                continue
        else:
            raise AssertionError("never committed")
        last = commit.version
    assert await values_of(store, actor) == {f"history-{n:06d}": b"%d" % n for n in range(20)}
    assert list(await store.commit([put(actor, None, {"k": b""})])) == [Conflict(last)]
