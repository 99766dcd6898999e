"""What PostgreSQL, the network and the administrator do to a store: nothing acknowledged is lost, nothing happens twice.

`PERDURE_ROUNDS=100 pytest tests/statestore/test_postgres_faults.py -k killed` kills the server that often.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.clock import LoopClock
from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    Commit,
    CommitResult,
    Committer,
    Conflict,
    Fence,
    Fenced,
    Taken,
    open_store,
)
from perdure.statestore.contract import RollbackAware
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    actor_id,
    all_keys,
    put,
    reminder,
    values_of,
    write,
)
from tests.servers.postgres import PostgresServer, pooler, postgres_server, replica
from tests.servers.proxy import CuttingProxy, Way
from tests.waiting import eventually

_schemas = count(1)
TIMEOUT = 40.0
ROUNDS = int(os.environ.get("PERDURE_ROUNDS", "4"))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def schema() -> str:
    return f"f{next(_schemas)}"


@pytest.fixture
async def opened(schema: str) -> AsyncIterator[Callable[..., PostgresStore]]:
    """Opens stores on this test's schema of a server."""
    stores: list[PostgresStore] = []

    def opener(server: PostgresServer, **options: object) -> PostgresStore:
        store = open_store(server.url(**{"schema": schema, **options}), partitions=PARTITIONS)
        assert isinstance(store, PostgresStore)
        stores.append(store)
        return store

    yield opener
    for store in stores:
        await store.close()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-small-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        folder.rmdir()
        pytest.skip("this user cannot mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def grow(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)


async def again(ask: Callable[[], Any]) -> Any:
    """The answer, as soon as there is one: as the layers above ask."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def own(store: PostgresStore, *commits: Commit) -> None:
    """Takes everything, and writes these, by a store that has little patience on a machine that may be busy."""
    await again(lambda: store.take(ALL, FENCE))
    if commits:
        assert list(await again(lambda: store.commit(commits))) == [COMMITTED] * len(commits)


# --- crashes -------------------------------------------------------------------------------------------------------


async def test_the_server_is_killed_under_load(
    opened: Callable[..., PostgresStore],
) -> None:
    """SIGKILL to all its processes, again and again, at any moment: every acknowledged commit is there, each once, and
    everybody goes on by the same store object. No rollback is reported, since nothing was lost."""
    with postgres_server() as server:
        store = opened(server)
        reasons: list[str] = []
        store.on_rollback(reasons.append)
        await store.take(ALL, FENCE)
        committer = Committer(store, LoopClock())
        acknowledged: dict[ActorId, int] = {}
        actors = [actor_id(f"a{number}") for number in range(30)]
        stop = False

        def go_on(actor: ActorId, expected: bytes | None, number: int) -> None:
            commit = put(
                actor,
                expected,
                {"metadata": b"%d" % number, f"history-{number:06d}": b"h"},
                recover=bool(number % 2),
                reminders=[reminder(actor, f"r{number}", number)],
                delete_reminders=[f"r{number - 1}"],
            )

            def done(result: CommitResult) -> None:
                assert result == COMMITTED, result
                acknowledged[actor] = number
                if not stop:
                    go_on(actor, commit.version, number + 1)

            committer.submit(commit, done)

        for actor in actors:
            go_on(actor, None, 0)
        for _ in range(ROUNDS):
            before = sum(acknowledged.values())
            await asyncio.sleep(random.uniform(0.02, 0.3))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await eventually(lambda before=before: sum(acknowledged.values()) > before + 100, "progress")
        stop = True
        await asyncio.wait_for(committer.drain(), TIMEOUT)
        for actor in actors:
            last = acknowledged[actor]
            snapshot = await again(lambda actor=actor: store.load(actor))
            assert snapshot.values["metadata"] == b"%d" % last
            assert await all_keys(store, actor, "history-") == [f"history-{n:06d}" for n in range(last + 1)]
            assert snapshot.recover is bool(last % 2)
            assert [r.name for r in await store.reminders(actor)] == [f"r{last}"]
        assert reasons == []


async def test_a_restart(opened: Callable[..., PostgresStore]) -> None:
    """Every kind of request is answered `StoreUnavailable` while the server is away, and by the server afterwards."""
    with postgres_server() as server:
        store = opened(server)
        await store.take(ALL, FENCE)
        actor = actor_id()
        await write(store, first := put(actor, None, {"k": b"1"}))
        await asyncio.to_thread(server.stop)
        asking: list[Callable[[], Any]] = [
            lambda: store.load(actor),
            lambda: store.keys(actor),
            lambda: store.row(actor),
            lambda: store.due(ALL, 1),
            lambda: store.owing(ALL),
            lambda: store.take(ALL, Fence(6, 0)),
            lambda: store.commit([put(actor, first.version, {"k": b"2"})]),
            lambda: store.health(),
            lambda: store.types(),
            lambda: store.lease("one").acquire(),
            lambda: store.lease("one").read(),
        ]
        for ask in asking:
            with pytest.raises(StoreUnavailable):
                await ask()
        await asyncio.to_thread(server.start)
        for ask in asking:
            await again(ask)
        assert await values_of(store, actor) == {"k": b"1"}  # The take came first.


async def test_sessions_are_ended_by_the_administrator(
    server: PostgresServer, schema: str, opened: Callable[..., PostgresStore]
) -> None:
    store = opened(server)
    await store.take(ALL, FENCE)
    last = None
    for number in range(5):
        commit = put(actor_id(), last, {"k": b"%d" % number})
        await again(lambda commit=commit: store.commit([commit]))
        last = commit.version
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE application_name = 'perdure {schema}'"
        )
        snapshot = await again(lambda: store.load(actor_id()))
        assert snapshot.version == last


# --- lost answers --------------------------------------------------------------------------------------------------


async def test_an_answer_is_lost(server: PostgresServer, opened: Callable[..., PostgresStore]) -> None:
    """The commit is there; the same one again is `Committed`, and applies nothing twice, also when another one has
    come in between."""
    async with CuttingProxy(server.address) as proxy:
        store, other = opened(server, address=proxy.address), opened(server)
        await store.take(ALL, FENCE)
        await write(store, first := put(actor_id(), None, {"k": b"1"}))
        lost = put(actor_id(), first.version, {"k": b"2", "history-000000": b"h"}, recover=True)
        proxy.swallowing = {Way.BACK}
        asked = asyncio.create_task(store.commit([lost]))

        async def arrived() -> bool:
            snapshot = await other.load(actor_id())
            return snapshot is not None and snapshot.version == lost.version

        await eventually(arrived, "the commit is there")
        proxy.cut()
        with pytest.raises(StoreUnavailable):
            await asked
        proxy.swallowing = set()
        await write(store, lost)
        await write(other, third := put(actor_id(), lost.version, {"k": b"3"}))
        assert list(await store.commit([lost])) == [Conflict(third.version)]
        assert await values_of(store, actor_id()) == {"k": b"3", "history-000000": b"h"}


async def test_a_request_is_lost(server: PostgresServer, opened: Callable[..., PostgresStore]) -> None:
    """Nothing of it happens, and nobody waits for ever."""
    async with CuttingProxy(server.address) as proxy:
        store = opened(server, address=proxy.address, timeout=0.5)
        await own(store)
        commit = put(actor_id(), None, {"k": b"1"})
        proxy.swallowing = {Way.THERE, Way.BACK}
        with pytest.raises(StoreUnavailable):
            await store.commit([commit])
        with pytest.raises(StoreUnavailable):
            await store.load(actor_id())
        proxy.cut()
        proxy.swallowing = set()
        assert await again(lambda: store.load(actor_id())) is None
        await own(store, commit)


async def test_connections_are_cut_at_any_moment(
    server: PostgresServer, opened: Callable[..., PostgresStore]
) -> None:
    """Through a network that loses connections all the time, a chain of commits becomes exactly that chain."""
    async with CuttingProxy(server.address) as proxy:
        store = opened(server, address=proxy.address)
        await again(lambda: store.take(ALL, FENCE))
        committer = Committer(store, LoopClock())
        stop = False

        async def cut() -> None:
            """After some bytes: more than it takes to connect, less than all."""
            limit = 0
            while not stop:
                passed = sum(proxy.passed.values())
                if passed >= limit:
                    proxy.cut()
                    limit = passed + random.randrange(10_000, 50_000)
                await asyncio.sleep(0.001)

        cutting = asyncio.create_task(cut())
        chains = [actor_id(f"a{number}") for number in range(5)]

        async def run(actor: ActorId) -> None:
            last = None
            for number in range(40):
                commit = put(actor, last, {f"history-{number:06d}": b"h", "k": b"%d" % number})
                done: asyncio.Future[CommitResult] = asyncio.get_running_loop().create_future()
                committer.submit(commit, done.set_result)
                assert await done == COMMITTED
                last = commit.version

        await asyncio.wait_for(asyncio.gather(*map(run, chains)), TIMEOUT)
        stop = True
        await cutting
        assert proxy.connections > 3
        for actor in chains:
            assert await again(lambda actor=actor: all_keys(store, actor)) == [
                "k",
                *(f"history-{number:06d}" for number in range(40)),
            ]


async def test_a_commit_of_a_client_that_is_gone(
    server: PostgresServer, schema: str, opened: Callable[..., PostgresStore]
) -> None:
    """It waits for a lock when its client gives up: the server is told to end it, and it is not there later on; had it
    come through it would have met the fence."""
    store = opened(server, timeout=0.5)
    other = opened(server)
    await own(store, first := put(actor_id(), None, {"k": b"1"}))
    blocker = await asyncpg.connect(server.url())
    try:
        async with blocker.transaction():
            await blocker.execute(f"SELECT 1 FROM {schema}.actors FOR UPDATE")
            late = put(actor_id(), first.version, {"k": b"late"})
            with pytest.raises(StoreUnavailable):
                await store.commit([late])

            def waiting() -> str:
                return server.sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    f" AND application_name = 'perdure {schema}'"
                )

            await eventually(lambda: waiting() == "0", "the server ended it")
    finally:
        await blocker.close()
    assert list(await other.take(ALL[:1], Fence(5, 8))) == [Taken(False)]
    await other.take(ALL, Fence(6, 0))
    assert list(await again(lambda: store.commit([late]))) == [Fenced(Fence(6, 0))]
    assert await values_of(other, actor_id()) == {"k": b"1"}


async def test_the_server_stands_still(opened: Callable[..., PostgresStore]) -> None:
    """A commit that it took with it when it stopped may be done when it goes on: once."""
    with postgres_server() as server:
        store = opened(server, timeout=0.5)
        await own(store)
        server.pause()
        commit = put(actor_id(), None, {"history-000000": b"1"})
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.commit([commit])
        server.resume()
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        await own(store, put(actor_id(), commit.version, {"history-000001": b"2"}))
        keys = await again(lambda: all_keys(store, actor_id()))
        assert keys == ["history-000000", "history-000001"]


async def test_a_cancelled_request_leaves_a_usable_store(
    server: PostgresServer, opened: Callable[..., PostgresStore]
) -> None:
    store = opened(server, connections=2)
    await store.take(ALL, FENCE)
    await write(store, put(actor_id(), None, {"k": b"1"}))
    for number in range(10):
        task = asyncio.create_task(store.keys(actor_id()))
        await asyncio.sleep(0.001 * number)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len((await store.keys(actor_id())).items) == 1


# --- what the server says ------------------------------------------------------------------------------------------


async def test_a_server_that_takes_no_writes(
    opened: Callable[..., PostgresStore],
) -> None:
    """Read-only by its settings, or a replica: not a refusal of the commit, which would be given up."""
    with postgres_server() as server, replica(server) as second:
        store = opened(server)
        await store.take(ALL, FENCE)
        await write(store, put(actor_id(), None, {"k": b"1"}))
        follower = opened(second)
        with pytest.raises(StoreUnavailable, match="is a replica"):
            await follower.settings()
        server.sql("ALTER DATABASE perdure SET default_transaction_read_only = on")
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'perdure%'"
        )
        with pytest.raises(StoreUnavailable):
            await store.commit([put(actor_id("2"), None, {"k": b"1"})])
        with pytest.raises(StoreUnavailable, match="takes no writes"):
            await store.commit([put(actor_id("2"), None, {"k": b"1"})])
        # Not through the store's database, where nobody may write now.
        server.sql("ALTER DATABASE perdure RESET default_transaction_read_only", database="postgres")
        await again(lambda: store.commit([put(actor_id("2"), None, {"k": b"1"})]))


async def test_too_many_connections(opened: Callable[..., PostgresStore]) -> None:
    with postgres_server(
        max_connections="6", superuser_reserved_connections="0", max_wal_senders="0"
    ) as server:
        store = opened(server, connections=2)
        await store.settings()
        others = []
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while len(others) < 10:
                others.append(await asyncpg.connect(server.url()))
        for ask in (
            lambda: store.take(ALL, FENCE),
            lambda: store.commit([put(actor_id(), None, {"k": b"1"})]),
        ):
            with contextlib.suppress(StoreUnavailable):
                await ask()  # By the connection that is left.
        with pytest.raises(StoreUnavailable, match="too many clients"):
            await asyncio.gather(store.types(), store.commit([put(actor_id(), None, {"k": b"1"})]))
        for other in others:
            await other.close()
        await again(lambda: store.take(ALL, Fence(6, 0)))
        await again(lambda: store.commit([put(actor_id(), None, {"k": b"1"}, fence=Fence(6, 0))]))


async def test_the_wait_for_a_replica_is_ended(opened: Callable[..., PostgresStore], schema: str) -> None:
    """PostgreSQL then says that it succeeded, and warns: that is no acknowledgement. It comes when the replica has it,
    although the commit is there already."""
    with postgres_server(synchronous_standby_names="'replica'") as server:
        # Nobody replicates yet.
        reading = opened(server, synchronous_commit="local")
        await reading.take(ALL, FENCE)
        store = opened(server, timeout=TIMEOUT)
        commit = put(actor_id(), None, {"history-000000": b"h"})
        tries = [asyncio.create_task(store.commit([commit]))]

        def waiting() -> str:
            return server.sql(
                "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'", database="postgres"
            )

        for _ in range(2):
            pid = await eventually(waiting, "the commit waits for a replica")
            server.sql(f"SELECT pg_cancel_backend({pid})", database="postgres")
            with pytest.raises(StoreUnavailable, match="synchronous replication"):
                await tries[-1]
            snapshot = await reading.load(actor_id())
            assert snapshot is not None
            tries.append(asyncio.create_task(store.commit([commit])))
            await eventually(waiting, "it waits again")
        with replica(server):
            async with asyncio.timeout(TIMEOUT):
                assert list(await tries[-1]) == [COMMITTED]


async def test_a_full_disk(opened: Callable[..., PostgresStore], schema: str, small_disk: Path) -> None:
    """Not the fault of the commit: the committer asks again until there is room."""
    with postgres_server() as server:
        user = (server.folder / "PG_VERSION").stat()
        os.chown(small_disk, user.st_uid, user.st_gid)
        store = opened(server)
        await store.take(ALL, FENCE)
        server.sql(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
        server.sql(f"ALTER TABLE {schema}.keys SET TABLESPACE small")
        committer = Committer(store, LoopClock())
        results: list[CommitResult] = []
        commits = [put(actor_id(f"a{number}"), None, {"k": random.randbytes(7000)}) for number in range(500)]
        for commit in commits:
            committer.submit(commit, results.append)
        await eventually(lambda: committer.trouble, "the disk is full")
        assert "No space left" in str(committer.trouble)
        grow(small_disk)
        await asyncio.wait_for(committer.drain(), TIMEOUT)
        assert results == [COMMITTED] * len(commits)
        for commit in commits[::100]:
            assert await values_of(store, commit.actor) == commit.put
        await store.close()
        server.kill()  # Before the disk goes.


async def test_a_role_with_other_habits(server: PostgresServer, opened: Callable[..., PostgresStore]) -> None:
    """What a database or role has as defaults changes no promise: isolation, plans, time zone, order of bytes."""
    server.sql("ALTER DATABASE perdure SET default_transaction_isolation = serializable")
    server.sql(
        "ALTER DATABASE perdure SET bytea_output = escape; ALTER DATABASE perdure SET search_path = nowhere"
    )
    try:
        stores = [opened(server) for _ in range(2)]
        await stores[0].take(ALL, FENCE)
        actors = [actor_id(f"a{number}") for number in range(20)]
        for store in stores:
            await asyncio.gather(
                *(write(store, put(actor, None, {"k": b"1"})) for actor in actors if store is stores[0])
            )
        versions = [await stores[1].load(actor) for actor in actors]
        batches = [
            [put(actor, one.version, {"k": b"2"}) for actor, one in zip(actors, versions, strict=True) if one]
            for _ in stores
        ]
        answers = await asyncio.gather(
            *(store.commit(batch) for store, batch in zip(stores, batches, strict=True))
        )
        for one, two in zip(*answers, strict=True):
            assert sorted(type(result).__name__ for result in (one, two)) == ["Committed", "Conflict"]
    finally:
        for name in ("default_transaction_isolation", "bytea_output", "search_path"):
            server.sql(f"ALTER DATABASE perdure RESET {name}")


def certify(folder: Path, *names: str) -> None:
    """Certificates of 127.0.0.1 that nobody else has signed."""
    for name in names:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.crt"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip


async def test_tls(opened: Callable[..., PostgresStore], tmp_path: Path) -> None:
    """By the driver's options; a server that cannot show who it is gets nothing."""
    with postgres_server() as server:
        certify(tmp_path, "right", "wrong")
        for name in ("right.crt", "right.key"):
            (server.folder / name).write_bytes((tmp_path / name).read_bytes())
            (server.folder / name).chmod(0o600)
            owner = (server.folder / "PG_VERSION").stat()
            os.chown(server.folder / name, owner.st_uid, owner.st_gid)
        server.configure(ssl="on", ssl_cert_file="'right.crt'", ssl_key_file="'right.key'")
        server.restart()
        store = opened(server, sslmode="verify-full", sslrootcert=tmp_path / "right.crt")
        await store.health()
        used = server.sql(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'perdure%'"
        )
        assert used == "t"
        assert await store.lease("one").acquire() is not None
        careful = opened(server, sslmode="verify-full", sslrootcert=tmp_path / "wrong.crt")
        with pytest.raises(ConfigurationError, match="certificate verify failed"):
            await careful.settings()


# --- rollback ------------------------------------------------------------------------------------------------------


async def test_a_replica_is_promoted(opened: Callable[..., PostgresStore]) -> None:
    """Several servers are named; the second takes over, without what the first one had not sent. That is said before
    anything else is."""
    with postgres_server() as first, replica(first) as second:
        store = opened(first, address=f"{first.address},{second.address}", timeout=TIMEOUT / 4)
        said: list[str] = []
        assert isinstance(store, RollbackAware)
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        await write(store, kept := put(actor_id(), None, {"k": b"kept"}))
        position = first.sql("SELECT pg_current_wal_lsn()")
        await eventually(
            lambda: second.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == "t",
            "the replica has it",
        )
        second.pause()
        await write(store, put(actor_id(), kept.version, {"k": b"lost"}))
        first.kill()
        second.resume()
        # What it had been sent but not taken is gone with the sender's buffers, or not: both may happen.
        second.promote()
        asked = asyncio.gather(*(again(lambda: store.load(actor_id())) for _ in range(5)))
        snapshots = await asked
        assert len(said) == 1
        assert "replica was promoted" in said[0]
        assert len({one.version for one in snapshots}) == 1
        commit = put(actor_id(), snapshots[0].version, {"k": b"on"})
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        assert len(said) == 1


async def test_a_replica_is_promoted_behind_a_pooler(opened: Callable[..., PostgresStore]) -> None:
    """No connection of ours ends; still no answer of the new server comes before the word."""
    with postgres_server() as first, replica(first) as second, pooler(first) as address:
        store = opened(first, address=address, timeout=TIMEOUT / 4)
        said: list[str] = []
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        await write(store, put(actor_id(), None, {"k": b"1"}))
        position = first.sql("SELECT pg_current_wal_lsn()")
        await eventually(
            lambda: second.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == "t",
            "the replica has it",
        )
        first.kill()
        second.promote()
        # As the administrator would lead the pooler there: by the same address.
        second.stop()
        second.port, port = first.port, second.port
        second.configure(port=str(first.port))
        second.start()
        answers: list[tuple[int, Any]] = []

        async def ask() -> None:
            answers.append((len(said), await again(lambda: store.load(actor_id()))))

        await asyncio.gather(*(ask() for _ in range(10)))
        assert len(said) == 1
        assert {told for told, _ in answers} == {0}  # Asked before, all of them.
        commit = put(actor_id(), answers[0][1].version, {"k": b"2"})
        assert list(await again(lambda: store.commit([commit]))) == [COMMITTED]
        second.port = port


async def test_a_crash_of_a_server_that_acknowledges_early(
    opened: Callable[..., PostgresStore],
) -> None:
    """With synchronous_commit=off the last commits may be gone: that is said, once per crash, and never for a
    connection that ended for another reason than the server's."""
    with postgres_server(wal_writer_delay="10s") as server:
        store = opened(server, synchronous_commit="off")
        said: list[str] = []
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        last = None
        for number in range(50):
            commit = put(actor_id(), last, {"k": b"%d" % number})
            await write(store, commit)
            last = commit.version
        assert said == []
        server.kill()
        server.start()
        snapshot = await again(lambda: store.load(actor_id()))
        assert len(said) == 1
        assert "not on disk yet" in said[0]
        expected = snapshot.version if snapshot else None
        results = list(await again(lambda: store.commit([put(actor_id(), expected, {"k": b"on"})])))
        assert results in ([COMMITTED], [Fenced(None)])
        assert len(said) == 1


async def test_the_schema_itself_is_lost(opened: Callable[..., PostgresStore]) -> None:
    """The new server was cut off before the store was first used: it is made anew, with as many partitions."""
    with postgres_server() as first, postgres_server() as second:
        store = opened(first, address=f"{first.address},{second.address}", timeout=TIMEOUT / 4)
        said: list[str] = []
        store.on_rollback(said.append)
        await store.take(ALL, FENCE)
        first.kill()
        assert list(await again(lambda: store.take(ALL[:1], FENCE))) == [Taken(True)]
        assert len(said) == 1
        assert (await store.settings()).partitions == PARTITIONS
