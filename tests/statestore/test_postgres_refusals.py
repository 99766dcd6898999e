"""What the server says no to, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from perdure.clock import LoopClock
from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    CommitResult,
    Committer,
    Fence,
)
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    actor_id,
    put,
    values_of,
    write,
)
from tests.servers.postgres import PostgresServer, postgres_server, replica
from tests.statestore.asking import again
from tests.statestore.postgres_use import TIMEOUT, opened_at, schema, server
from tests.waiting import eventually

__all__ = ["opened_at", "schema", "server"]


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


async def test_a_server_that_takes_no_writes(
    opened_at: Callable[..., PostgresStore],
) -> None:
    """Read-only by its settings, or a replica: not a refusal of the commit, which would be given up."""
    with postgres_server() as server, replica(server) as second:
        store = opened_at(server)
        await store.take(ALL, FENCE)
        await write(store, put(actor_id(), None, {"k": b"1"}))
        follower = opened_at(second)
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


async def test_too_many_connections(opened_at: Callable[..., PostgresStore]) -> None:
    with postgres_server(
        max_connections="6", superuser_reserved_connections="0", max_wal_senders="0"
    ) as server:
        store = opened_at(server, connections=2)
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


async def test_the_wait_for_a_replica_is_ended(opened_at: Callable[..., PostgresStore], schema: str) -> None:
    """PostgreSQL then says that it succeeded, and warns: that is no acknowledgement. It comes when the replica has it,
    although the commit is there already."""
    with postgres_server(synchronous_standby_names="'replica'") as server:
        # Nobody replicates yet.
        reading = opened_at(server, synchronous_commit="local")
        await reading.take(ALL, FENCE)
        store = opened_at(server, timeout=TIMEOUT)
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


async def test_a_full_disk(opened_at: Callable[..., PostgresStore], schema: str, small_disk: Path) -> None:
    """Not the fault of the commit: the committer asks again until there is room."""
    with postgres_server() as server:
        user = (server.folder / "PG_VERSION").stat()
        os.chown(small_disk, user.st_uid, user.st_gid)
        store = opened_at(server)
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


async def test_a_role_with_other_habits(
    server: PostgresServer, opened_at: Callable[..., PostgresStore]
) -> None:
    """What a database or role has as defaults changes no promise: isolation, plans, time zone, order of bytes."""
    server.sql("ALTER DATABASE perdure SET default_transaction_isolation = serializable")
    server.sql(
        "ALTER DATABASE perdure SET bytea_output = escape; ALTER DATABASE perdure SET search_path = nowhere"
    )
    try:
        stores = [opened_at(server) for _ in range(2)]
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


async def test_tls(opened_at: Callable[..., PostgresStore], tmp_path: Path) -> None:
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
        store = opened_at(server, sslmode="verify-full", sslrootcert=tmp_path / "right.crt")
        await store.health()
        used = server.sql(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'perdure%'"
        )
        assert used == "t"
        assert await store.lease("one").acquire() is not None
        careful = opened_at(server, sslmode="verify-full", sslrootcert=tmp_path / "wrong.crt")
        with pytest.raises(ConfigurationError, match="certificate verify failed"):
            await careful.settings()
