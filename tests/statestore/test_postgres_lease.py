"""The lease of a PostgreSQL store: a lock that is free again soon after its holder is gone, however that went."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import pytest

from perdure.errors import ConfigurationError, StoreError, StoreUnavailable
from perdure.statestore import open_store
from perdure.statestore.contract import Lease
from perdure.statestore.postgres import PostgresStore, lease
from tests.servers.postgres import PostgresServer, pooler, postgres_server
from tests.servers.proxy import CuttingProxy, Way

_schemas = count(1)
TIMEOUT = 30.0

HOLD = """
import asyncio, sys
from perdure.statestore import open_store
from perdure.statestore.postgres import lease as module

module.LAPSE, module.RENEW = int(sys.argv[2]), int(sys.argv[2])

async def main():
    store = open_store(sys.argv[1])
    lease = store.lease("one")
    print(await lease.acquire(), flush=True)
    await lease.write(b"first")
    while True:
        await asyncio.sleep(0.3)
        await lease.renew()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def schema() -> str:
    return f"l{next(_schemas)}"


@pytest.fixture
async def opened(server: PostgresServer, schema: str) -> AsyncIterator[Callable[..., PostgresStore]]:
    """Opens stores on this test's schema."""
    stores: list[PostgresStore] = []

    def opener(**options: object) -> PostgresStore:
        store = open_store(server.url(**{"schema": schema, **options}))
        assert isinstance(store, PostgresStore)
        stores.append(store)
        return store

    yield opener
    for store in stores:
        await store.close()


Hold = Callable[[int], tuple["subprocess.Popen[str]", int]]


@pytest.fixture
def hold(server: PostgresServer, schema: str) -> Iterator[Hold]:
    """Starts a process that holds the lease, which lapses after so many seconds; gives the process and its term."""
    started: list[subprocess.Popen[str]] = []

    def start(lapse: int) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, server.url(schema=schema), str(lapse)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def acquired(contender: Lease) -> int:
    """The term, as soon as the lease can be had."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            with contextlib.suppress(StoreUnavailable):
                term = await contender.acquire()
                if term is not None:
                    return term
            await asyncio.sleep(0.05)


async def read(watcher: Lease, value: bytes) -> None:
    """Returns when the lease has this value."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            if await watcher.read() == value:
                return
            await asyncio.sleep(0.01)


async def test_the_holders_process_is_killed(opened: Callable[..., PostgresStore], hold: Hold) -> None:
    """The system closes its connections, so that the server knows at once."""
    process, first = await asyncio.to_thread(hold, 600)
    contender = opened().lease("one")
    assert await contender.acquire() is None
    process.kill()
    process.wait()
    assert await acquired(contender) > first
    await read(contender, b"first")
    await contender.write(b"second")
    await read(contender, b"second")


async def test_the_holders_process_stands_still(opened: Callable[..., PostgresStore], hold: Hold) -> None:
    """The server ends its session; when it goes on it finds that out, and writes nothing."""
    process, first = await asyncio.to_thread(hold, lease.LAPSE)
    contender = opened().lease("one")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert await acquired(contender) > first
        await contender.write(b"second")
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert process.wait(TIMEOUT) == 1  # `renew` raised.
    await read(contender, b"second")


async def test_the_holder_is_cut_off(
    server: PostgresServer, schema: str, opened: Callable[..., PostgresStore]
) -> None:
    """A network that swallows everything: the lock is free although nobody has told the server, and the holder knows
    by its next renewal, within a time that is shorter."""
    async with CuttingProxy(server.address) as proxy:
        store = open_store(server.url(address=proxy.address, schema=schema, timeout=2))
        held, contender = store.lease("one"), opened().lease("one")
        first = await acquired(held)
        proxy.swallowing = {Way.THERE, Way.BACK}
        with pytest.raises(StoreError, match="not held"):
            await held.renew()
        assert await acquired(contender) > first
        proxy.cut()
        proxy.swallowing = set()
        with pytest.raises(StoreError, match="not held"):
            await held.write(b"late")
        assert await held.acquire() is None
        await contender.renew()
        await store.close()


async def test_what_was_written_without_an_answer(
    server: PostgresServer, schema: str, opened: Callable[..., PostgresStore]
) -> None:
    """Arrived or not: the lease is lost, and after it is acquired anew the old write changes nothing any more."""
    async with CuttingProxy(server.address) as proxy:
        store = open_store(server.url(address=proxy.address, schema=schema))
        held, watcher = store.lease("one"), opened().lease("one")
        first = await acquired(held)
        await held.write(b"one")
        proxy.swallowing = {Way.BACK}
        writing = asyncio.create_task(held.write(b"two"))
        await read(watcher, b"two")
        proxy.cut()
        with pytest.raises(StoreError, match="session is lost"):
            await writing
        proxy.swallowing = set()
        assert await acquired(held) > first
        await held.write(b"three")
        assert await watcher.read() == b"three"
        await store.close()


async def test_the_server_is_restarted(opened: Callable[..., PostgresStore], schema: str) -> None:
    """The lock went with the session. What was written is there."""
    with postgres_server() as other:
        store = open_store(other.url(schema=schema))
        held = store.lease("one")
        first = await acquired(held)
        await held.write(b"value")
        other.kill()
        with pytest.raises(StoreError, match="not held"):
            await held.renew()
        with pytest.raises(StoreUnavailable):
            await held.acquire()
        other.start()
        assert await acquired(held) > first
        assert await held.read() == b"value"
        await held.renew()
        await store.close()


async def test_the_store_lost_what_was_written(
    server: PostgresServer, schema: str, opened: Callable[..., PostgresStore]
) -> None:
    """As after a fail-over that kept the session: `renew` finds it."""
    for damage in ("writes = 0, value = NULL", "term = term + 1"):
        held = opened().lease("one")
        await acquired(held)
        await held.write(b"value")
        await held.renew()
        server.sql(f"UPDATE {schema}.leases SET {damage}")
        with pytest.raises(StoreError, match="not held"):
            await held.renew()
        with pytest.raises(StoreError, match="not held"):
            await held.write(b"another")


async def test_the_holder_again(opened: Callable[..., PostgresStore]) -> None:
    """To the one that has it, `acquire` gives a new term; one `release` gives it back all the same."""
    store, other = opened(), opened()
    held, contender = store.lease("one"), other.lease("one")
    terms = [await held.acquire() for _ in range(3)]
    assert terms == sorted(set(terms), key=lambda term: term or 0)
    await held.write(b"value")
    await held.release()
    assert await contender.acquire() is not None
    assert await held.acquire() is None


async def test_a_released_lease_is_no_dead_session(
    server: PostgresServer, opened: Callable[..., PostgresStore]
) -> None:
    """A contender that waits is not ended by the server, however long it takes."""
    held = opened().lease("one")
    await acquired(held)
    await held.release()
    connection = held._connection
    assert connection is not None
    assert await connection.fetchval("SHOW idle_session_timeout") == "0"
    assert await held.acquire() is not None
    assert await connection.fetchval("SHOW idle_session_timeout") == f"{lease.LAPSE}s"


async def test_closing_the_store_frees_its_leases(opened: Callable[..., PostgresStore]) -> None:
    store = opened()
    await acquired(store.lease("one"))
    await store.close()
    assert await acquired(opened().lease("one"))


async def test_a_pooler_needs_a_direct_address(server: PostgresServer, schema: str) -> None:
    """Else the lock would be some session's, which the pooler gives to others."""
    with pooler(server) as address:
        without = open_store(server.url(address=address, schema=schema))
        await without.settings()
        with pytest.raises(ConfigurationError, match="name the server itself with direct="):
            await without.lease("one").acquire()
        await without.close()
        store = open_store(server.url(address=address, schema=schema, direct=server.url()))
        held = store.lease("one")
        await acquired(held)
        await held.write(b"value")
        assert await store.lease("one").read() == b"value"
        assert await store.lease("one").acquire() is None
        await store.close()
