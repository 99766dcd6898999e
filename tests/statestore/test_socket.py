"""The store over a Unix socket: what the contract does not say, because no other store has it."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import ConfigurationError, CorruptState, PerdureError, StoreError, StoreUnavailable
from perdure.statestore import COMMITTED, MemoryStore, open_store
from perdure.statestore.contract import ActorId, Commit, CommitResult, Fence, Snapshot, TypePartition
from perdure.statestore.socket import SocketStore, StoreServer, messages
from perdure.statestore.socket.frames import LONGEST, Frames
from perdure.statestore.sqlite.store import SqliteStore
from perdure.testing.store_contract import ALL, FENCE, PARTITIONS, actor_id, put, version
from tests.waiting import eventually

#: Seconds that anything may take on a busy machine.
PATIENCE = 30.0


@asynccontextmanager
async def served(store: MemoryStore | SqliteStore, folder: Path) -> AsyncIterator[StoreServer]:
    server = StoreServer(store, folder / "store.sock")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        await store.close()


async def sent(client: SocketStore, *batch: Commit) -> asyncio.Task[Sequence[CommitResult]]:
    """A commit that has reached the server: what was asked after it is answered."""
    task = asyncio.create_task(client.commit(batch))
    await asyncio.sleep(0)
    await client.health()
    return task


class GatedStore(MemoryStore):
    """Each commit waits until it is let through, and notes its batch; `refuse` names the actors of poison commits."""

    def __init__(self) -> None:
        super().__init__(partitions=PARTITIONS)
        self.gate = asyncio.Event()
        self.batches: list[list[str]] = []
        self.refuse: dict[str, Exception] = {}

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        self.batches.append([commit.actor.id for commit in batch])
        await self.gate.wait()
        for commit in batch:
            if commit.actor.id in self.refuse:
                raise self.refuse[commit.actor.id]
        return await super().commit(batch)


# --- group commit over all clients -----------------------------------------------------------------------------------


@asynccontextmanager
async def three_clients(folder: Path) -> AsyncIterator[tuple[GatedStore, list[SocketStore]]]:
    store = GatedStore()
    async with served(store, folder) as server:
        clients = [SocketStore(str(server.path)) for _ in range(3)]
        await clients[0].take(ALL, FENCE)
        for client in clients:
            await client.health()
        yield store, clients
        store.gate.set()
        for client in clients:
            await client.close()


async def test_the_commits_of_all_clients_form_one_batch(tmp_path: Path) -> None:
    """What clients ask while a batch is being written is the next batch, and each gets its own results."""
    async with three_clients(tmp_path) as (store, clients):
        first = await sent(clients[0], put(actor_id("0")))
        others = [
            await sent(client, put(actor_id(f"{n}a")), put(actor_id(f"{n}b"), wrong))
            for n, (client, wrong) in enumerate(zip(clients, (None, version(), None), strict=True))
        ]
        store.gate.set()
        assert list(await first) == [COMMITTED]
        results = [list(await other) for other in others]
        assert store.batches == [["0"], ["0a", "0b", "1a", "1b", "2a", "2b"]]
        assert results[0] == results[2] == [COMMITTED, COMMITTED]
        assert results[1][0] == COMMITTED
        assert results[1][1] != COMMITTED


async def test_no_actor_is_in_a_batch_twice(tmp_path: Path) -> None:
    """Two clients, the old owner and the new one, send commits of one actor at the same time: in order of arrival,
    in different batches, and others need not wait for that."""
    async with three_clients(tmp_path) as (store, clients):
        gate = await sent(clients[0], put(actor_id("gate")))
        one = put(actor_id("x"), None, {"k": b"one"})
        two = put(actor_id("x"), one.version, {"k": b"two"})
        three = put(actor_id("x"), two.version, {"k": b"three"})
        asked = [
            await sent(clients[0], one),
            await sent(clients[1], two, put(actor_id("y"))),
            await sent(clients[2], put(actor_id("z"))),
            await sent(clients[0], three),
        ]
        store.gate.set()
        await gate
        assert [list(await one) for one in asked] == [
            [COMMITTED],
            [COMMITTED, COMMITTED],
            [COMMITTED],
            [COMMITTED],
        ]
        assert store.batches == [["gate"], ["x", "z"], ["x", "y"], ["x"]]


async def test_a_refused_batch_is_its_senders_alone(tmp_path: Path) -> None:
    """The store refuses a whole batch: only the client whose commits are at fault hears of it."""
    for error in (StoreError("too strange"), CorruptState("unreadable")):
        async with three_clients(tmp_path) as (store, clients):
            gate = await sent(clients[0], put(actor_id("gate")))
            store.refuse["poison"] = error
            asked = [
                await sent(client, put(actor_id(f"good {n}")), put(actor_id(id)))
                for n, (client, id) in enumerate(zip(clients, ("a", "poison", "c"), strict=True))
            ]
            store.gate.set()
            await gate
            assert list(await asked[0]) == list(await asked[2]) == [COMMITTED, COMMITTED]
            with pytest.raises(type(error), match=str(error)):
                await asked[1]
            # What is sent together is judged together: the sender knows how to divide it.
            assert await clients[0].load(actor_id("good 1")) is None


@pytest.mark.parametrize("error", [StoreUnavailable("no disk"), ZeroDivisionError("a fault")])
async def test_an_unknown_outcome_is_everybodys(tmp_path: Path, error: Exception) -> None:
    """Nothing is tried again here: each client knows whether it wants to."""
    async with three_clients(tmp_path) as (store, clients):
        gate = await sent(clients[0], put(actor_id("gate")))
        store.refuse["poison"] = error
        asked = [
            await sent(client, put(actor_id(id)))
            for client, id in zip(clients, ("a", "poison", "c"), strict=True)
        ]
        store.gate.set()
        await gate
        for one in asked:
            with pytest.raises(StoreUnavailable, match=str(error)):
                await one
        assert store.batches == [["gate"], ["a", "poison", "c"]]


async def test_an_actor_twice_from_one_client(tmp_path: Path) -> None:
    """It breaks the contract, and is refused before it is among the commits of others."""
    async with three_clients(tmp_path) as (store, clients):
        store.gate.set()
        with pytest.raises(StoreError, match="twice"):
            await clients[0].commit([put(actor_id("x")), put(actor_id("x"))])
        assert store.batches == []


async def test_a_large_batch_does_not_carry_others(tmp_path: Path) -> None:
    """Half a megabyte goes alone, in its turn."""
    async with three_clients(tmp_path) as (store, clients):
        gate = await sent(clients[0], put(actor_id("gate")))
        asked = []
        for n, size in enumerate((10, 600_000, 10)):
            asked.append(await sent(clients[n], put(actor_id(str(n)), None, {"k": bytes(size)})))
        store.gate.set()
        await gate
        for one in asked:
            assert list(await one) == [COMMITTED]
        assert store.batches == [["gate"], ["0"], ["1"], ["2"]]


# --- errors ----------------------------------------------------------------------------------------------------------


class BrokenStore(MemoryStore):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def load(self, actor: ActorId) -> Snapshot | None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (StoreError("refused \ud800"), StoreError),
        (StoreUnavailable("away"), StoreUnavailable),
        (CorruptState("damaged"), CorruptState),
        # Faults of the store: nobody knows what it did.
        (KeyError("fault"), StoreUnavailable),
        (PerdureError("fault"), StoreUnavailable),
    ],
)
async def test_errors_are_of_their_class(tmp_path: Path, error: Exception, seen: type[Exception]) -> None:
    async with served(BrokenStore(error), tmp_path) as server:
        client = SocketStore(str(server.path))
        with pytest.raises(seen) as raised:
            await client.load(actor_id())
        assert type(raised.value) is seen
        assert str(raised.value).startswith(str(error).strip("'\ud800") if seen is type(error) else "")
        await client.health()
        await client.close()


async def test_what_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    """It is no reason to give up the connection."""
    async with served(MemoryStore(partitions=PARTITIONS), tmp_path) as server:
        client = SocketStore(str(server.path))
        await client.take(ALL, FENCE)
        no_bytes: Any = 5
        for bad in (
            put(actor_id(), None, {"\ud800": b""}),
            put(actor_id(), None, {"k": no_bytes}),
            put(actor_id(), partition=1 << 70),
        ):
            with pytest.raises(StoreError, match=r"cannot be sent|cannot read this"):
                await client.commit([bad])
        assert list(await client.commit([put(actor_id())])) == [COMMITTED]
        await client.close()


async def test_what_cannot_be_answered_is_said(tmp_path: Path) -> None:
    """A memory store keeps keys that have no bytes."""
    store = MemoryStore(partitions=PARTITIONS)
    async with served(store, tmp_path) as server:
        client = SocketStore(str(server.path))
        await store.take(ALL, FENCE)
        await store.commit([put(actor_id(), None, {"\ud800": b""})])
        with pytest.raises(StoreError, match="cannot be sent"):
            await client.load(actor_id())
        await client.close()


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">I", LONGEST + 1),
        struct.pack(">I", 3) + b"abc",
        struct.pack(">I", 0),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["too long", "nonsense", "empty", "http"],
)
async def test_strangers_are_cut_off(tmp_path: Path, sent: bytes) -> None:
    """Who speaks another language loses its connection; nobody else notices."""
    async with served(MemoryStore(), tmp_path) as server:
        client = SocketStore(str(server.path))
        await client.health()
        reader, writer = await asyncio.open_unix_connection(server.path)
        writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            assert b"perdure-store" in await reader.read()
        writer.close()
        await client.health()
        assert server.clients == 1
        await client.close()


# --- a server that is gone -------------------------------------------------------------------------------------------


async def test_a_lost_server(tmp_path: Path) -> None:
    """Everything outstanding and everything after it is `StoreUnavailable`; who wants to know is told, once."""
    store = GatedStore()
    server = StoreServer(store, tmp_path / "store.sock")
    await server.start()
    client = SocketStore(str(server.path))
    told: list[str] = []
    client.on_lost(told.append)
    await client.take(ALL, FENCE)
    asked = [asyncio.create_task(client.commit([put(actor_id(str(n)))])) for n in range(3)]
    await eventually(lambda: store.batches)
    for connection in list(server._clients):
        connection.abort()
    for one in asked:
        with pytest.raises(StoreUnavailable, match="gone"):
            await one
    with pytest.raises(StoreUnavailable):
        await client.load(actor_id())
    assert len(told) == 1
    late: list[str] = []
    client.on_lost(late.append)
    await eventually(lambda: late)
    await client.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await client.health()
    # The commits of a client that is gone are written, as those of any that did not hear the answer.
    store.gate.set()
    await server.stop()
    assert sorted(actor.id for actor in store.actors) == ["0", "1", "2"]


async def test_a_server_that_stops(tmp_path: Path) -> None:
    """Commits in hand are answered first; its socket is gone; clients are told."""
    store = GatedStore()
    server = StoreServer(store, tmp_path / "store.sock")
    await server.start()
    client = SocketStore(str(server.path))
    told: list[str] = []
    client.on_lost(told.append)
    await client.take(ALL, FENCE)
    commit = asyncio.create_task(client.commit([put(actor_id())]))
    await eventually(lambda: store.batches)
    stopping = asyncio.create_task(server.stop())
    await eventually(lambda: not server.path.exists())
    with pytest.raises(StoreUnavailable, match="stopping"):
        await client.load(actor_id())
    store.gate.set()
    await stopping
    await server.stop()
    assert list(await commit) == [COMMITTED]
    await eventually(lambda: told)
    with pytest.raises(ConfigurationError, match="nobody serves"):
        SocketStore(str(server.path))
    await client.close()


async def test_a_client_that_does_not_read(tmp_path: Path) -> None:
    """It is not read from either, and does not keep the server from stopping."""
    store = MemoryStore(partitions=PARTITIONS)
    server = StoreServer(store, tmp_path / "store.sock")
    await server.start()
    await store.take(ALL, FENCE)
    await store.commit([put(actor_id(), None, {"k": bytes(1 << 20)})])
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(server.path))
        lazy.setblocking(False)
        frame = messages.encode((1, messages.Load(actor_id())))
        request = struct.pack(">I", len(frame)) + frame
        loop = asyncio.get_running_loop()
        for _ in range(1000):
            try:
                await asyncio.wait_for(loop.sock_sendall(lazy, request * 1000), 0.5)
            except TimeoutError:
                break
        else:
            raise AssertionError("the server reads whatever comes")
        other = SocketStore(str(server.path))
        assert await other.load(actor_id()) is not None
        await other.close()
        async with asyncio.timeout(PATIENCE):
            await server.stop()


async def test_leases_go_with_their_connection(tmp_path: Path) -> None:
    """Whoever comes next has the lease, even when the holder's last request was to take it."""
    async with served(MemoryStore(), tmp_path) as server:
        one, two = SocketStore(str(server.path)), SocketStore(str(server.path))
        lease, other = one.lease("x"), two.lease("x")
        term = await lease.acquire()
        assert term is not None
        assert await other.acquire() is None
        await lease.write(b"value")
        await one.close()
        await eventually(lambda: server.clients == 1)
        later = await other.acquire()
        assert later is not None
        assert later > term
        assert await other.read() == b"value"
        await other.renew()
        await two.close()


async def test_of_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent and child that do not understand each other say so."""
    async with served(MemoryStore(partitions=PARTITIONS), tmp_path) as server:
        monkeypatch.setattr(messages, "PROTOCOL", messages.PROTOCOL + 1)
        client = SocketStore(str(server.path))
        told: list[str] = []
        client.on_lost(told.append)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="another release"):
                await client.settings()
        await client.close()
        assert told == []
        monkeypatch.undo()
        wrong = SocketStore(str(server.path), partitions=PARTITIONS + 1)
        with pytest.raises(ConfigurationError, match=f"{PARTITIONS} partitions"):
            await wrong.health()
        await wrong.close()


# --- the socket itself -----------------------------------------------------------------------------------------------


async def test_only_in_a_private_folder(tmp_path: Path) -> None:
    """Whoever can connect can change the store."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    with pytest.raises(ConfigurationError, match="open to others"):
        await StoreServer(MemoryStore(), shared / "store.sock").start()
    with pytest.raises(ConfigurationError, match="folder"):
        await StoreServer(MemoryStore(), tmp_path / "none" / "store.sock").start()
    async with served(MemoryStore(), tmp_path) as server:
        assert server.path.stat().st_mode & 0o777 == 0o600


async def test_a_path_that_is_in_use(tmp_path: Path) -> None:
    """A living server keeps its socket; that of a dead one is taken."""
    async with served(MemoryStore(), tmp_path) as server:
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await StoreServer(MemoryStore(), server.path).start()
        client = SocketStore(str(server.path))
        await client.health()
        await client.close()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "store.sock"))
    async with served(MemoryStore(), tmp_path):
        pass
    (tmp_path / "store.sock").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot listen"):
        await StoreServer(MemoryStore(), tmp_path / "store.sock").start()
    assert (tmp_path / "store.sock").read_text() == "a file"


async def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="cannot listen"):
        await StoreServer(MemoryStore(), folder / "store.sock").start()
    with pytest.raises(ConfigurationError, match="nobody serves"):
        SocketStore(str(folder / "store.sock"))


@pytest.mark.parametrize("url", ["unix://host/x.sock", "unix://", "unix:///x?a=b", "unix:///no/such/x.sock"])
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_frames_however_they_are_cut() -> None:
    """Any division of the stream gives the same frames."""
    wanted = [b"", b"a", bytes(range(256)) * 300, b"xyz", b""]
    stream = b"".join(struct.pack(">I", len(one)) + one for one in wanted)
    for step in (1, 2, 3, 5, 7, 1000, 65536, len(stream)):
        frames = Frames()
        found = [
            bytes(frame)
            for at in range(0, len(stream), step)
            for frame in frames.feed(stream[at : at + step])
        ]
        assert found == wanted


# --- other processes -------------------------------------------------------------------------------------------------

CLIENT = """
import asyncio, sys
import uvloop
from perdure.statestore import ActorId, Commit, Fence, open_store

async def main(url, name):
    store = open_store(url)
    (await store.settings())
    last = None
    for number in range(300):
        commit = Commit(ActorId("contract.Type", name), sum(name.encode()) % 64, Fence(5, 7), last,
            number.to_bytes(8, "big") + name.encode()[:8].ljust(8), {f"history-{number:06d}": b"x" * 100})
        (result,) = await store.commit([commit])
        assert type(result).__name__ == "Committed", result
        last = commit.version
        print(number, flush=True)
    await store.close()

uvloop.run(main(*sys.argv[1:]))
"""


async def test_processes_that_die_while_they_write(tmp_path: Path) -> None:
    """Clients are killed in the middle: what was acknowledged to each is in the file, in order and without a gap, and
    the others go on."""
    path = tmp_path / "state.db"
    counts: dict[str, int] = {}
    store = SqliteStore(str(path), partitions=PARTITIONS)
    async with served(store, tmp_path) as server:
        await store.take(ALL, FENCE)

        def run(name: str, die_at: int | None) -> int:
            with subprocess.Popen(
                [sys.executable, "-c", CLIENT, server.url, name], stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    counts[name] = int(line) + 1
                    if counts[name] == die_at:
                        process.kill()
            return process.returncode

        jobs = [asyncio.to_thread(run, name, at) for name, at in (("a", None), ("b", 20), ("c", 90))]
        assert await asyncio.gather(*jobs) == [0, -9, -9]
        await eventually(lambda: server.clients == 0)
    store = SqliteStore(str(path))
    for name, acknowledged in counts.items():
        page = await store.keys(ActorId("contract.Type", name), "history-")
        assert [key for key, _ in page.items] == [f"history-{n:06d}" for n in range(len(page.items))]
        assert len(page.items) >= acknowledged
    assert counts["a"] == 300
    await store.close()


async def test_a_fence_between_two_clients(tmp_path: Path) -> None:
    """The old owner's commit is refused once the new owner has taken the partition, whoever's socket is quicker."""
    store = SqliteStore(str(tmp_path / "state.db"), partitions=PARTITIONS)
    async with served(store, tmp_path) as server:
        old, new = SocketStore(str(server.path)), SocketStore(str(server.path))
        await old.take(ALL, FENCE)
        last = put(actor_id())
        assert list(await old.commit([last])) == [COMMITTED]
        higher = Fence(6, 0)
        taken, late = await asyncio.gather(
            new.take([TypePartition(*one) for one in ALL], higher),
            old.commit([put(actor_id(), last.version, {"k": b"late"})]),
        )
        assert len(taken) == PARTITIONS
        snapshot = await new.load(actor_id())
        assert snapshot is not None
        assert (b"late" in snapshot.values.values()) == (list(late) == [COMMITTED])
        (refused,) = await old.commit([put(actor_id(), snapshot.version, {"k": b"later"})])
        assert refused != COMMITTED
        await old.close()
        await new.close()


def test_nothing_is_logged_for_a_client_that_leaves(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Leaving is no event for people."""

    async def main() -> None:
        async with served(MemoryStore(), tmp_path) as server:
            client = SocketStore(str(server.path))
            await client.health()
            await client.close()

    caplog.set_level(logging.INFO)
    asyncio.run(main())
    assert caplog.records == []
