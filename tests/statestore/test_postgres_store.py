"""What is PostgreSQL's own: the schema, what it can hold, several processes at a time, plans, housekeeping."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings

from perdure.clock import LoopClock
from perdure.errors import ConfigurationError, StoreError, StoreFormat, StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    Commit,
    CommitResult,
    Committed,
    Committer,
    Conflict,
    Fence,
    Fenced,
    MemoryStore,
    Refused,
    Rejected,
    StateStore,
    Taken,
    TypePartition,
    open_store,
)
from perdure.statestore.contract import InstanceFilter
from perdure.statestore.postgres import PostgresStore, sweeper
from perdure.statestore.postgres.diagnosis import findings
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    actor_id,
    all_keys,
    put,
    reminder,
    row,
    values_of,
    write,
)
from tests.servers.postgres import PostgresServer, postgres_server
from tests.statestore import test_equivalence as equivalence
from tests.waiting import eventually

_schemas = count(1)
TIMEOUT = 30.0
#: Hand-overs in the middle of commits.
ROUNDS = 25


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def schema() -> str:
    return f"t{next(_schemas)}"


@pytest.fixture
async def opened(server: PostgresServer, schema: str) -> AsyncIterator[Callable[..., PostgresStore]]:
    """Opens stores on this test's schema."""
    stores: list[PostgresStore] = []

    def opener(**options: object) -> PostgresStore:
        store = open_store(server.url(schema=schema, **options), partitions=PARTITIONS)
        assert isinstance(store, PostgresStore)
        stores.append(store)
        return store

    yield opener
    for store in stores:
        await store.close()


@pytest.fixture
async def store(opened: Callable[..., PostgresStore]) -> PostgresStore:
    store = opened()
    await store.take(ALL, FENCE)
    return store


# --- the schema ----------------------------------------------------------------------------------------------------


async def test_many_processes_open_a_new_store_at_once(opened: Callable[..., PostgresStore]) -> None:
    stores = [opened() for _ in range(5)]
    found = await asyncio.gather(*(store.settings() for store in stores))
    assert {one.partitions for one in found} == {PARTITIONS}
    await asyncio.gather(*(store.take([TypePartition("T", 1)], Fence(1, 1)) for store in stores))


async def test_two_schemas_are_two_stores(server: PostgresServer, store: PostgresStore) -> None:
    """With the same actors, partitions and leases, and nothing in common."""
    other = open_store(server.url(schema=f"t{next(_schemas)}"), partitions=8)
    try:
        actor = actor_id()
        await write(store, put(actor, None, {"k": b"1"}, row=row(actor, 1)))
        assert await store.lease("one").acquire() is not None
        assert (await other.settings()).partitions == 8
        assert await other.load(actor) is None
        assert list(await other.types()) == []
        assert list(await other.take(ALL[:1], Fence(1, 1))) == [Taken(True)]
        assert list((await other.query(InstanceFilter(type=actor.type))).items) == []
        assert await other.lease("one").acquire() is not None
    finally:
        await other.close()


async def test_the_partition_count_is_fixed_at_first_use(
    server: PostgresServer, schema: str, store: PostgresStore
) -> None:
    other = open_store(server.url(schema=schema), partitions=PARTITIONS + 1)
    with pytest.raises(ConfigurationError, match="has 64 partitions, not 65"):
        await other.settings()
    await other.close()
    unasked = open_store(server.url(schema=schema))
    assert (await unasked.settings()).partitions == PARTITIONS
    await unasked.close()


@pytest.mark.parametrize(("name", "what"), [("schema", "has schema 999"), ("format", "has state format 999")])
async def test_a_newer_release_was_there(
    server: PostgresServer, schema: str, store: PostgresStore, name: str, what: str
) -> None:
    server.sql(f"UPDATE {schema}.settings SET value = 999 WHERE name = '{name}'")
    other = open_store(server.url(schema=schema))
    with pytest.raises(StoreFormat, match=f"{what}; this release knows 1"):
        await other.settings()
    await other.close()


async def test_another_programs_schema(server: PostgresServer, schema: str) -> None:
    """Is not touched."""
    server.sql(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.theirs (a int)")
    store = open_store(server.url(schema=schema))
    with pytest.raises(ConfigurationError, match="another program's; choose one with schema="):
        await store.settings()
    await store.close()
    assert server.sql(f"SELECT count(*) FROM pg_class WHERE relnamespace = '{schema}'::regnamespace") == "1"


async def test_an_ordinary_role_with_an_empty_schema_of_its_own(server: PostgresServer, schema: str) -> None:
    """Needs no other right."""
    server.sql(f"CREATE ROLE {schema} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {schema}")
    store = open_store(server.url(user=schema, schema=schema), partitions=PARTITIONS)
    await store.take(ALL, FENCE)
    await write(store, put(actor_id(), None, {"k": b"1"}))
    lease = store.lease("one")
    assert await lease.acquire() is not None
    await lease.renew()
    await store.health()
    await store.close()
    stranger = open_store(server.url(user=schema, schema=f"{schema}_not"))
    with pytest.raises(StoreUnavailable, match="permission denied"):
        await stranger.settings()
    await stranger.close()


@pytest.mark.parametrize(
    ("user", "database", "message"),
    [("nobody_here", "perdure", "nobody_here"), ("perdure", "nothing_here", "nothing_here")],
)
async def test_a_wrong_url(server: PostgresServer, user: str, database: str, message: str) -> None:
    store = open_store(server.url(user=user, database=database))
    with pytest.raises(ConfigurationError, match=message):
        await store.settings()
    await store.close()


async def test_the_encoding_must_hold_any_text(server: PostgresServer, schema: str) -> None:
    server.sql(f"CREATE DATABASE {schema} ENCODING 'SQL_ASCII' TEMPLATE template0")
    store = open_store(server.url(database=schema))
    with pytest.raises(ConfigurationError, match="must be UTF8, not SQL_ASCII"):
        await store.settings()
    await store.close()


async def test_nobody_is_there(server: PostgresServer) -> None:
    store = open_store("postgresql://perdure:secret@127.0.0.1:1/perdure")
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as error:
            await store.settings()
        assert "secret" not in str(error.value)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.load(actor_id())


async def test_the_view_for_people(server: PostgresServer, schema: str, store: PostgresStore) -> None:
    values = {
        "metadata": b"m", "customStatus": b"c", "é": b"e", "history-000001": b"1", "history-1000000": b"2", "n\0": b"0",
    }  # fmt: skip
    await write(store, put(actor_id("view"), None, values))
    shown = server.sql(
        f"SELECT key, convert_from(value, 'UTF8') FROM {schema}.state"
        f" WHERE actor_type = '{ALL[0].type}' AND actor_id = 'view' ORDER BY key COLLATE \"C\""
    )
    assert shown.splitlines() == [
        "customStatus|c", "history-000001|1", "history-1000000|2", "metadata|m", "n\\000|0", "é|e",
    ]  # fmt: skip


# --- what it can hold ----------------------------------------------------------------------------------------------


async def test_any_key(store: PostgresStore) -> None:
    """Also with a NUL, which PostgreSQL's text cannot hold."""
    actor = actor_id()
    values = {
        key: key.encode() for key in ("\0", "a\0b", "\x01", "a-\0-000001", "a-000001", "\U0010ffff", "")
    }
    await write(store, first := put(actor, None, values))
    assert await values_of(store, actor) == values
    assert [key for key, _ in (await store.keys(actor, "a")).items] == ["a\0b", "a-000001", "a-\0-000001"]
    await write(store, put(actor, first.version, {"left": b""}, delete=list(values)))
    assert await values_of(store, actor) == {"left": b""}


async def test_what_cannot_be_stored_is_rejected_alone(store: PostgresStore) -> None:
    """One id with a NUL, one key that is no text, one number too large: the others of the batch pass."""
    bad = [
        put(actor_id("nul\0"), None, {"k": b""}),
        put(actor_id("surrogate"), None, {"\ud800": b""}),
        put(actor_id("due"), None, {}, reminders=[reminder(actor_id("due"), "r", 2**63)]),
        put(actor_id("partition"), None, {}, partition=-1),
    ]
    good = [put(actor_id(f"good {number}"), None, {"k": b"1"}) for number in range(3)]
    batch = [good[0], bad[0], bad[1], good[1], bad[2], bad[3], good[2]]
    results = list(await store.commit(batch))
    assert [isinstance(result, Rejected) for result in results] == [c in bad for c in batch]
    assert results[0] == results[3] == results[6] == COMMITTED
    for commit in good:
        assert await values_of(store, commit.actor) == {"k": b"1"}
    assert await store.load(bad[0].actor) is None
    assert list((await store.keys(bad[0].actor)).items) == []
    assert await store.row(bad[0].actor) is None
    assert list(await store.reminders(bad[0].actor)) == []


async def test_what_only_the_server_refuses_is_found_by_halving(store: PostgresStore) -> None:
    """A key longer than an index takes, random so that it cannot be made smaller: alone `Rejected`, by name."""
    long = "".join(random.Random(1).choices([chr(n) for n in range(33, 0x2000)], k=6000))
    committer = Committer(store, LoopClock())
    results: dict[str, CommitResult] = {}
    for number in range(40):
        commit = put(actor_id(f"a{number}"), None, {long if number == 17 else "k": b"1"})
        committer.submit(commit, lambda result, id=commit.actor.id: results.update({id: result}))
    await committer.drain()
    refused = results.pop("a17")
    assert isinstance(refused, Rejected)
    assert "index row" in refused.reason
    assert set(results.values()) == {COMMITTED}


async def test_a_numbered_key_can_be_put_again(store: PostgresStore) -> None:
    """Among others that are new, in a batch with others."""
    one, two = actor_id("1"), actor_id("2")
    await write(store, first := put(one, None, {"x-000001": b"1", "history-000000": b"h"}))
    second = put(one, first.version, {"x-000001": b"2", "history-000001": b"h"})
    await write(store, second, put(two, None, {"history-000000": b"h", "x-000001": b"3"}))
    assert await values_of(store, one) == {"history-000000": b"h", "history-000001": b"h", "x-000001": b"2"}
    assert await values_of(store, two) == {"history-000000": b"h", "x-000001": b"3"}
    third = put(one, second.version, {"x-000001": b"4", "history-000001": b"again"})
    await write(store, third)
    assert (await values_of(store, one))["history-000001"] == b"again"


MINE = [actor if "\0" not in actor.id else actor_id("d") for actor in equivalence.ACTORS]


class Again:
    """One store, emptied for each example: a new schema for each would take most of the time."""

    def __init__(self, server: PostgresServer) -> None:
        self._runner = asyncio.Runner()
        self._url = server.url(schema="again")

    async def _emptied(self) -> StateStore:
        store = open_store(self._url, partitions=PARTITIONS)
        await store.settings()
        connection = await asyncpg.connect(self._url.partition("?")[0])
        await connection.execute(
            "TRUNCATE again.actors, again.keys, again.owing, again.reminders, again.instances"
        )
        await connection.execute("TRUNCATE again.fences, again.types, again.garbage")
        await connection.close()
        return store

    async def _run(self, steps: list[Any]) -> None:
        store = await self._emptied()
        try:
            await equivalence.run(steps, MemoryStore(partitions=PARTITIONS), store)
        finally:
            await store.close()

    def run(self, steps: list[Any]) -> None:
        self._runner.run(self._run(steps))

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="module")
def again() -> Iterator[Again]:
    # Nothing has to be on disk.
    with postgres_server(fsync="off") as server:
        one = Again(server)
        yield one
        one.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(equivalence.STEPS)
def test_memory_and_postgres_are_the_same(
    again: Again, monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    monkeypatch.setattr(equivalence, "ACTORS", MINE)
    for step in steps:
        if isinstance(step, list):
            for plan in step:
                if "\0" in plan["actor"].id:
                    plan["actor"] = actor_id("d")
    again.run(steps)


# --- several processes ---------------------------------------------------------------------------------------------


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


# --- plans ---------------------------------------------------------------------------------------------------------


async def test_nothing_reads_a_whole_table(server: PostgresServer, schema: str, store: PostgresStore) -> None:
    """Of a store that grew from nothing under prepared statements, with and without statistics; and what a turn
    changes moves no index."""
    actors = [actor_id(f"i{number:05d}") for number in range(2000)]
    versions: dict[ActorId, bytes | None] = dict.fromkeys(actors)

    async def turn(number: int) -> None:
        for at in range(0, len(actors), 250):
            batch = []
            for actor in actors[at : at + 250]:
                commit = put(
                    actor,
                    versions[actor],
                    {"metadata": b"m" * 100, f"history-{number:06d}": b"h" * 50, "plain": b"p"},
                    recover=bool(number % 2),
                    reminders=[reminder(actor, f"r{number}", number)],
                    delete_reminders=[f"r{number - 1}"],
                    clear_reminders=number == 3,
                    delete=["gone"],
                    row=row(actor, number) if number in (0, 4) else None,
                )
                versions[actor] = commit.version
                batch.append(commit)
            await write(store, *batch)
        await asyncio.gather(*(store.load(actor) for actor in actors[::50]))
        await store.keys(actors[5], "history-", None, 2)
        await store.due(ALL[::2], 3, None, 50)
        await store.owing(ALL[::2], None, 50)
        await store.query(InstanceFilter(type=ALL[0].type, statuses=["running"]), None, 50)
        await store.query(InstanceFilter(type=ALL[0].type), None, 50)
        await store.reminders(actors[5])
        await store.row(actors[5])

    await turn(0)
    server.sql(f"ANALYZE {schema}.actors; ANALYZE {schema}.keys; ANALYZE {schema}.reminders")
    for number in range(1, 6):
        await turn(number)
    await write(store, put(actors[7], versions[actors[7]], {}, reset=True))
    await store.close()  # The sessions report what they did when they end, at the latest.
    found: dict[str, dict[str, int]] = {}

    def counted() -> bool:
        columns = "relname, seq_scan, n_tup_upd, n_tup_hot_upd, n_tup_ins"
        for line in server.sql(
            f"SELECT {columns} FROM pg_stat_user_tables WHERE schemaname = '{schema}'"
        ).splitlines():
            name, *numbers = line.split("|")
            found[name] = dict(zip(("scans", "updates", "hot", "inserts"), map(int, numbers), strict=True))
        return found["actors"]["updates"] >= 5 * len(actors)

    await eventually(counted, "statistics")
    # Type names are so few that nothing else than reading them all would make sense.
    assert {name for name, counts in found.items() if counts["scans"] > 3} <= {"types", "settings"}, found
    assert found["actors"]["hot"] > 0.9 * found["actors"]["updates"], found
    assert found["keys"]["inserts"] == 7 * len(actors)


# --- housekeeping --------------------------------------------------------------------------------------------------


async def test_what_a_reset_leaves_is_swept(
    server: PostgresServer, schema: str, store: PostgresStore, opened: Callable[..., PostgresStore]
) -> None:
    """In the end nothing is left but what is there, and the sweep of several processes does not disturb."""
    other = opened()
    await other.settings()
    actors = [actor_id(f"a{number}") for number in range(30)]
    versions: dict[ActorId, bytes | None] = dict.fromkeys(actors)
    for generation in range(3):
        for actor in actors:
            values = {f"history-{n:06d}": b"%d" % generation for n in range(100)}
            commit = put(actor, versions[actor], values, reset=True)
            await (store, other)[generation % 2].commit([commit])
            versions[actor] = commit.version
    await write(store, *(put(actor, versions[actor], {}, reset=True) for actor in actors[10:]))

    def left() -> bool:
        keys, garbage = server.sql(
            f"SELECT (SELECT count(*) FROM {schema}.keys), (SELECT count(*) FROM {schema}.garbage)"
        ).split("|")
        return (keys, garbage) == ("1000", "0")

    await eventually(left, "swept")
    for actor in actors[:10]:
        assert len(await all_keys(store, actor)) == 100
    assert await store.load(actors[10]) is None


async def test_garbage_of_a_process_that_died_is_swept(
    server: PostgresServer, schema: str, store: PostgresStore, opened: Callable[..., PostgresStore]
) -> None:
    """By the next one that opens the store."""
    actor = actor_id()
    await write(store, first := put(actor, None, {f"k{n}": b"" for n in range(2 * sweeper.ROWS + 1)}))
    await store.close()
    # As the reset of a process would have left it that died then.
    server.sql(f"UPDATE {schema}.actors SET former = keyset, keyset = nextval('{schema}.numbers')")
    server.sql(f"INSERT INTO {schema}.garbage SELECT former FROM {schema}.actors")
    again = opened()
    snapshot = await again.load(actor)
    assert snapshot is not None
    assert (snapshot.version, snapshot.values) == (first.version, {})
    await eventually(lambda: server.sql(f"SELECT count(*) FROM {schema}.keys") == "0", "swept")
    await eventually(lambda: server.sql(f"SELECT count(*) FROM {schema}.garbage") == "0", "forgotten")


async def test_many_loads_are_few_statements(server: PostgresServer, store: PostgresStore) -> None:
    """And one actor that cannot be read hurts nobody else; reads need no more connections than they may have."""
    actors = [actor_id(f"a{number}") for number in range(300)]
    await write(store, *(put(actor, None, {"k": actor.id.encode()}) for actor in actors))
    strange = [actor_id("nul\0"), actor_id("\ud800"), actor_id("nobody")]
    found = await asyncio.gather(*(store.load(actor) for actor in [*actors, *strange]))
    assert [dict(one.values) if one else None for one in found] == [
        *({"k": actor.id.encode()} for actor in actors),
        *[None] * 3,
    ]
    used = int(
        server.sql(
            f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure {store.options.schema}'"
        )
    )
    assert used <= store.options.connections


async def test_a_bounded_number_of_connections(
    server: PostgresServer, opened: Callable[..., PostgresStore]
) -> None:
    store = opened(connections=2)
    await store.take(ALL, FENCE)
    actors = [actor_id(f"a{number}") for number in range(50)]
    await asyncio.gather(
        *(write(store, put(actor, None, {"k": b"1"}, row=row(actor, 1))) for actor in actors)
    )
    await asyncio.gather(*(store.row(actor) for actor in actors), *(store.keys(actor) for actor in actors))
    sql = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure {store.options.schema}'"
    assert server.sql(sql) == "2"


async def test_a_commit_of_too_many_bytes(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused before the server would end the connection over it."""
    monkeypatch.setattr("perdure.statestore.postgres.store.MOST_BYTES", 1000)
    with pytest.raises(StoreError, match="more than 1000 bytes"):
        await store.commit([put(actor_id(), None, {"k": bytes(1001)})])
    await write(store, put(actor_id(), None, {"k": bytes(1000)}))


# --- what the server is set to ---------------------------------------------------------------------------------------


async def test_what_the_server_is_set_to(opened: Callable[..., PostgresStore]) -> None:
    found = await opened().diagnose()
    assert [(one.level, one.subject) for one in found] == [
        ("ok", "durability"),
        ("ok", "connections"),
        ("ok", "server"),
    ]
    assert "synchronous_commit=on, waits for no standby" in found[0].said
    (durability, *_) = await opened(synchronous_commit="off").diagnose()
    assert (durability.level, durability.subject) == ("warning", "durability")


@pytest.mark.parametrize(
    ("settings", "level", "said"),
    [
        ({"fsync": "off"}, "error", "fsync=off"),
        ({"full_page_writes": "off"}, "warning", "full_page_writes=off"),
        ({"used": 95}, "warning", "95 of 100 are in use"),
        ({"standbys": "one"}, "ok", "waits for one"),
    ],
)
def test_settings_that_matter(settings: dict[str, Any], level: str, said: str) -> None:
    row = {
        "version": "15.1", "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "standbys": "",
        "connections": 100, "used": 5, "bytes": 0,
    }  # fmt: skip
    assert all(one.level == "ok" for one in findings(row, None))
    assert [one.level for one in findings({**row, **settings}, None) if said in one.said] == [level]
