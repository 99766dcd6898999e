"""What is SQLite's own: one owner per file, crashes, full disks, damage, housekeeping."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from perdure.clock import LoopClock
from perdure.errors import (
    ConfigurationError,
    CorruptState,
    StoreError,
    StoreFormat,
    StoreHeld,
    StoreUnavailable,
)
from perdure.statestore import (
    COMMITTED,
    ActorId,
    Commit,
    CommitResult,
    Committer,
    Conflict,
    Fence,
    Rejected,
    TypePartition,
)
from perdure.statestore.sqlite import SqliteStore, holder
from perdure.statestore.sqlite.database import Database
from perdure.testing.store_contract import ALL, FENCE, actor_id, all_keys, put, row, values_of, version, write

TIMEOUT = 30.0

#: What child processes begin with. Not the suite's helpers: a child needs no pytest.
PRELUDE = """
import asyncio, os, sys
from perdure.statestore import ActorId, Commit, Fence, TypePartition
from perdure.statestore.sqlite import SqliteStore

def say(text):
    print(text, flush=True)

async def taken(path):
    store = SqliteStore(path)
    await store.take([TypePartition("contract.Type", p) for p in range(64)], Fence(5, 7))
    return store
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


@pytest.fixture
async def store(path: str) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.take(ALL, FENCE)
    yield store
    await store.close()


@pytest.fixture
def child() -> Iterator[Callable[[str, str], subprocess.Popen[str]]]:
    """Starts processes that run a piece of code; ends those that are left."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, path: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, path],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def on_writer(store: SqliteStore, sql: str) -> Any:
    return await store._writes.ask(lambda connection: connection.execute(sql).fetchone())


# --- one owner -----------------------------------------------------------------------------------------------------

HOLD = """
async def main():
    store = SqliteStore(sys.argv[1])
    store.announce("http://127.0.0.1:3500")
    say("open")
    sys.stdin.read()
asyncio.run(main())
"""


async def test_a_second_process_is_refused(path: str, child: Any) -> None:
    """It is told who has the file; when that process dies the file is free, whatever the lock file says."""
    assert holder(path) is None
    process = child(HOLD, path)
    assert await said(process) == "open"
    for _ in range(2):
        with pytest.raises(StoreHeld, match=rf"process {process.pid} \(http://127.0.0.1:3500\), since 2"):
            SqliteStore(path)
        who = holder(path)
        assert who is not None
        assert (who.pid, who.address) == (process.pid, "http://127.0.0.1:3500")
    process.kill()
    process.wait()
    assert holder(path) is None
    await SqliteStore(path).close()


async def test_the_same_process_is_refused(path: str, store: SqliteStore, tmp_path: Path) -> None:
    """Twice in one process is refused too, by any path to the file, and asking who has it does not lose the lock."""
    (tmp_path / "other").mkdir()
    for same in (path, str(tmp_path / "other" / ".." / "store.db")):
        with pytest.raises(StoreHeld, match="this process"):
            SqliteStore(same)
    store.announce("http://here")
    who = holder(path)
    assert who is not None
    assert (who.pid, who.address) == (os.getpid(), "http://here")
    code = "try:\n    SqliteStore(sys.argv[1])\nexcept Exception as error:\n    say(type(error).__name__)"
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PRELUDE + code, path, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await other.communicate()
    assert output.strip() == b"StoreHeld"


async def test_closed(path: str) -> None:
    """A closed store says so, and lets go of the file."""
    store = SqliteStore(path)
    await asyncio.gather(store.close(), store.close())
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.load(actor_id())
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.commit([])
    await SqliteStore(path).close()


# --- what is in the file -------------------------------------------------------------------------------------------


async def test_a_newer_format_is_refused(path: str) -> None:
    """Of the schema, and of what is in it; the file is left as it is."""
    await SqliteStore(path, partitions=8).close()
    for sql, match in (
        ("UPDATE settings SET value = 2 WHERE name = 'format'", "state format 2"),
        ("PRAGMA user_version = 999", "schema 999"),
    ):
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(sql)
        connection.close()
        with pytest.raises(StoreFormat, match=match):
            SqliteStore(path)


async def test_partitions_are_fixed(path: str) -> None:
    """A store keeps the number that it was made with."""
    await SqliteStore(path, partitions=8).close()
    with pytest.raises(ConfigurationError, match="8 partitions, not 9"):
        SqliteStore(path, partitions=9)
    store = SqliteStore(path)
    assert (await store.settings()).partitions == 8
    await store.close()


def test_another_programs_file(path: str) -> None:
    """Neither a text nor another program's database is touched."""
    Path(path).write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(ConfigurationError, match="not a usable SQLite database"):
        SqliteStore(path)
    Path(path).unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(ConfigurationError, match="another program's"):
        SqliteStore(path)
    assert Path(path).read_bytes() == before


async def test_the_view_for_people(path: str, store: SqliteStore) -> None:
    """`SELECT … FROM state` shows the keys by their names."""
    values = {
        "metadata": b"m",
        "customStatus": b"c",
        "k": b"1",
        "history-000007": b"h",
        "history-1000000": b"i",
    }
    await write(store, put(actor_id("42"), None, values))
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT key, value FROM state WHERE actor_id = '42'").fetchall())
    connection.close()
    assert found == values


async def test_tricky_bytes(store: SqliteStore) -> None:
    """Values come back byte by byte, also where many are read as one."""
    actor = actor_id()
    values = {f"k{number}": bytes([number, 0, 255 - number]) * (number % 5) for number in range(256)}
    values["history-000000"] = b"\xff\xfe\x00"
    await write(store, put(actor, None, {**values, "metadata": b"\0", "customStatus": b""}))
    assert await values_of(store, actor) == {**values, "metadata": b"\0", "customStatus": b""}


# --- crashes -------------------------------------------------------------------------------------------------------

COMMIT_FOREVER = """
async def main():
    store = await taken(sys.argv[1])
    last = {}
    for number in range(1, 1_000_000):
        batch = []
        for n in range(50):
            actor, value = ActorId("contract.Type", str(n)), b"%d" % number
            values = {"metadata": value, f"history-{number:06d}": value * 100, "a": value, "b": value}
            new = os.urandom(16)
            batch.append(Commit(actor, 1, Fence(5, 7), last.get(n), new, values, reset=number % 7 == 0))
            last[n] = new
        await store.commit(batch)
        say(number)
asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 20, 33])
async def test_killed_between_and_in_batches(path: str, child: Any, after: int) -> None:
    """Every acknowledged commit is there, and none in part."""
    process = child(COMMIT_FOREVER, path)
    acknowledged = 0
    while acknowledged < after:
        acknowledged = int(await said(process))
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    if rest.split():
        acknowledged = int(rest.split()[-1])
    store = SqliteStore(path)
    for number in range(50):
        values = await values_of(store, actor_id(str(number)))
        last = int(values["metadata"])
        assert acknowledged <= last <= acknowledged + 1
        assert values["a"] == values["b"] == values["metadata"]
        histories = [key for key in values if key.startswith("history-")]
        assert histories == [f"history-{n:06d}" for n in range(max(1, last - last % 7), last + 1)]
    await store.close()


RESET_AND_DIE = """
async def main():
    store = await taken(sys.argv[1])
    actor, first, second = ActorId("contract.Type", "1"), os.urandom(16), os.urandom(16)
    values = {f"history-{n:06d}": b"x" * 50 for n in range(20_000)}
    await store.commit([Commit(actor, 1, Fence(5, 7), None, first, values)])
    await store.commit([Commit(actor, 1, Fence(5, 7), first, second, {"k": b"new"}, reset=True)])
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


async def test_garbage_is_emptied_after_a_crash(path: str, child: Any) -> None:
    """What a reset left is deleted by whoever opens the file next, piece by piece."""
    process = child(RESET_AND_DIE, path)
    await asyncio.to_thread(process.wait)
    store = SqliteStore(path)
    assert (await on_writer(store, "SELECT count(*) FROM keys"))[0] > 15_000

    # Waiting on the loop is what lets the writer be idle.
    async with asyncio.timeout(TIMEOUT):
        while store._writer.garbage:  # noqa: ASYNC110 - the writer thread knows no event to set
            await asyncio.sleep(0.005)
    assert await on_writer(store, "SELECT count(*) FROM garbage") == (0,)
    assert await on_writer(store, "SELECT count(*) FROM keys") == (1,)
    assert await values_of(store, actor_id("1")) == {"k": b"new"}
    await store.close()


async def test_a_busy_writer_sweeps_too(store: SqliteStore) -> None:
    """Garbage goes although commits never pause."""
    actor, last = actor_id(), None
    for number in range(100):
        commit = put(actor, last, {f"k{n}": b"" for n in range(20)}, reset=True)
        await write(store, commit)
        last = commit.version
        assert number < 99 or (await on_writer(store, "SELECT count(*) FROM garbage"))[0] < 50


async def test_a_reset_does_not_depend_on_size(store: SqliteStore) -> None:
    """It changes as many rows for 5,000 keys as for five."""
    changes = []
    for size in (5, 5000):
        actor = actor_id(str(size))
        first = put(actor, None, {f"history-{n:06d}": b"" for n in range(size)})
        await write(store, first)
        before = await store._writes.ask(lambda connection: connection.total_changes)
        await write(store, put(actor, first.version, {"k": b""}, reset=True))
        changes.append(await store._writes.ask(lambda connection: connection.total_changes) - before)
    assert changes[0] == changes[1] < 10


# --- errors --------------------------------------------------------------------------------------------------------


async def test_disk_full(store: SqliteStore) -> None:
    """Unavailable, and the same batch passes when there is room; what else was there is untouched."""
    await write(store, small := put(actor_id("small"), None, {"k": b"1"}))
    (pages,) = await on_writer(store, "PRAGMA page_count")
    await on_writer(store, f"PRAGMA max_page_count = {pages + 10}")
    batch = [put(actor_id(str(n)), None, {"k": bytes(50_000)}, reminders=[]) for n in range(10)]
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="full") as caught:
            await store.commit(batch)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert await store.load(batch[0].actor) is None
    await write(store, put(small.actor, small.version, {"k": b"2"}))
    await on_writer(store, "PRAGMA max_page_count = 1000000")
    await write(store, *batch)
    assert await values_of(store, batch[9].actor) == {"k": bytes(50_000)}
    assert await values_of(store, small.actor) == {"k": b"2"}


async def test_no_thread_begins_before_all_is_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has nothing to do looks for something, which needs the others: also where opening takes its time."""
    before, checkpointer = set(threading.enumerate()), Database.checkpointer

    def late(self: Database) -> sqlite3.Connection:
        assert set(threading.enumerate()) <= before
        return checkpointer(self)

    monkeypatch.setattr(Database, "checkpointer", late)
    store = SqliteStore(path)
    assert len(set(threading.enumerate()) - before) > 2
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"needs the right to mount a file system (root): {mounted.stderr}"
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def passes(store: SqliteStore, commit: Commit) -> bool:
    try:
        await write(store, commit)
    except StoreUnavailable:
        return False
    return True


async def test_a_real_disk_full(small_disk: Path) -> None:
    """As above, with the operating system saying so."""
    blocker = small_disk / "blocker"
    blocker.write_bytes(bytes(1_500_000))
    path = str(small_disk / "store.db")
    store = SqliteStore(path)
    await store.take(ALL, FENCE)
    acknowledged: list[Commit] = []
    commit = put(actor_id("first"), None, {"k": bytes(100_000)})
    while await passes(store, commit):
        acknowledged.append(commit)
        commit = put(actor_id(str(len(acknowledged))), None, {"k": bytes(100_000)})
    assert not await passes(store, commit)
    assert acknowledged
    blocker.unlink()
    await write(store, commit)
    await store.health()
    await store.close()
    store = SqliteStore(path)
    for one in [*acknowledged, commit]:
        assert await values_of(store, one.actor) == {"k": bytes(100_000)}
    await store.close()


@pytest.mark.parametrize(
    "bad",
    [
        put(actor_id("2"), None, {"\ud800": b""}),
        put(ActorId("\ud800", "2"), None, {"k": b""}, partition=0),
        put(actor_id("2"), None, {"k": b""}, row=row(actor_id("2"), 2**70)),
        put(actor_id("2"), None, {"k": 7}),
    ],
    ids=["key", "type", "time", "value"],
)
async def test_a_commit_that_cannot_be_stored(store: SqliteStore, bad: Commit) -> None:
    """Refused with StoreError, nothing of its batch written, and the store goes on."""
    if bad.actor.type != ALL[0].type:
        store._writer.memory.fences[(bad.actor.type, 0)] = (FENCE, False)
    good = put(actor_id("1"), None, {"k": b"1"})
    with pytest.raises(StoreError) as caught:
        await store.commit([good, bad])
    assert not isinstance(caught.value, StoreUnavailable)
    assert await store.load(good.actor) is None
    await write(store, good)


def damage(file: Path, mark: bytes, size: int = 4096) -> None:
    """Overwrites a page that holds this text."""
    content = bytearray(file.read_bytes())
    pages = [at for at in range(0, len(content), size) if mark in content[at : at + size]]
    page = pages[len(pages) // 2]
    content[page : page + size] = b"\xee" * size
    file.write_bytes(content)


async def test_a_corrupt_page(path: str) -> None:
    """Who is on it hears CorruptState; all others load, also when asked together."""
    store = SqliteStore(path)
    await store.take(ALL, FENCE)
    for number in range(3):
        values = {f"history-{n:06d}": b"value of %d" % number * 20 for n in range(300)}
        await write(store, put(actor_id(str(number)), None, values))
    await store.close()
    damage(Path(path), b"value of 1")
    store = SqliteStore(path)
    loads = await asyncio.gather(*(store.load(actor_id(str(n))) for n in range(4)), return_exceptions=True)
    assert isinstance(loads[1], CorruptState)
    assert [getattr(loads[n], "complete", None) for n in (0, 2, 3)] == [True, True, None]
    with pytest.raises(CorruptState):
        await all_keys(store, actor_id("1"))
    await store.take(ALL, Fence(6, 0))
    await write(store, put(actor_id("new"), None, {"k": b"1"}, fence=Fence(6, 0)))
    await store.close()


# --- the log -------------------------------------------------------------------------------------------------------


async def test_the_log_does_not_grow_without_bound(path: str, store: SqliteStore) -> None:
    """While commits go on without a pause it is begun anew again and again."""
    actor, last = actor_id(), None
    for _ in range(150):
        commit = put(actor, last, {"metadata": bytes(1_000_000)})
        await write(store, commit)
        last = commit.version
    assert os.stat(path + "-wal").st_size < 100_000_000


async def test_numbers_never_come_twice(path: str) -> None:
    """Not after opening again, nor after a transaction that failed."""
    last: dict[str, bytes] = {}
    for turn in range(4):
        store = SqliteStore(path)
        await store.take(ALL, Fence(7, turn))
        with pytest.raises(StoreError):
            await store.commit([put(actor_id("bad"), None, {"\ud800": b""}, fence=Fence(7, turn))])
        for name in "ab":
            expected = last.get(name)
            commit = Commit(
                actor_id(name),
                0,
                Fence(7, turn),
                expected,
                version(),
                {f"k{turn}": name.encode()},
                reset=True,
            )
            await write(store, commit)
            last[name] = commit.version
        for name in "ab":
            assert await values_of(store, actor_id(name)) == {f"k{turn}": name.encode()}
        await store.close()


async def test_partitions_by_the_thousand(store: SqliteStore) -> None:
    """Taking and asking of 16,384 partitions are a few statements each."""
    held = [TypePartition("Many", partition) for partition in range(16_384)]
    assert len(await store.take(held, Fence(1, 1))) == 16_384
    await store.release(held, Fence(1, 1))
    assert all(taken.released for taken in await store.take(held, Fence(1, 2)))  # type: ignore[union-attr]
    assert (await store.due(held, 10)).items == []
    assert (await store.owing(held[:5000])).items == []


# --- written at once -----------------------------------------------------------------------------------------------


async def test_written_on_the_callers_thread(store: SqliteStore) -> None:
    """A few small commits are, with the same results, and are there for whoever loads afterwards."""
    first = put(actor_id("1"), None, {"k": b"1"})
    late = put(actor_id("2"), version(), {"k": b""})
    assert await at_once(store, first, late) == [COMMITTED, Conflict(None)]
    assert await at_once(store, first) == [COMMITTED]
    assert await values_of(store, first.actor) == {"k": b"1"}
    await write(store, put(first.actor, first.version, {"k": b"2"}))
    assert await values_of(store, first.actor) == {"k": b"2"}


async def test_not_written_on_the_callers_thread(store: SqliteStore) -> None:
    """Many, large ones, and any while the writer is at work are left to its thread; then nothing was written."""
    many = [put(actor_id(str(number)), None, {"k": b""}) for number in range(10)]
    assert store.commit_now(many) is None
    assert store.commit_now([put(actor_id("large"), None, {"k": bytes(200_000)})]) is None
    entered, leave = threading.Event(), threading.Event()
    busy = store._writes.ask(lambda _: (entered.set(), leave.wait(TIMEOUT)))
    await asyncio.to_thread(entered.wait, TIMEOUT)
    assert store.commit_now(many[:1]) is None
    leave.set()
    await busy
    assert await store.load(many[0].actor) is None
    await write(store, *many)


async def at_once(store: SqliteStore, *batch: Commit) -> Sequence[CommitResult]:
    """`commit_now`, as soon as the writer has nothing of its own to do."""
    async with asyncio.timeout(TIMEOUT):
        while (results := store.commit_now(batch)) is None:  # noqa: ASYNC110 - the writer tells nobody
            await asyncio.sleep(0.005)
    return results


async def test_errors_on_the_callers_thread(store: SqliteStore) -> None:
    """They are the same, and the committer sees each commit through."""
    committer, results = Committer(store, LoopClock()), dict[str, CommitResult]()
    poison = put(actor_id("bad"), None, {"\ud800": b""})
    with pytest.raises(StoreError):
        await at_once(store, poison)
    (pages,) = await on_writer(store, "PRAGMA page_count")
    await on_writer(store, f"PRAGMA max_page_count = {pages + 2}")
    large = put(actor_id("1"), None, {"k": bytes(60_000)})
    with pytest.raises(StoreUnavailable, match="full"):
        await at_once(store, large)
    committer.submit(large, lambda result: results.__setitem__("large", result))
    committer.submit(poison, lambda result: results.__setitem__("poison", result))
    async with asyncio.timeout(TIMEOUT):
        while committer.trouble is None:  # noqa: ASYNC110 - trouble is a value to look at
            await asyncio.sleep(0.005)
    await on_writer(store, "PRAGMA max_page_count = 1000000")
    await committer.drain()
    assert results["large"] == COMMITTED
    assert isinstance(results["poison"], Rejected)
    assert await values_of(store, large.actor) == {"k": bytes(60_000)}
