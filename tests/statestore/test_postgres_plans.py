"""How PostgreSQL finds what is asked for, and what it is set to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure.statestore import (
    ActorId,
)
from perdure.statestore.contract import InstanceFilter
from perdure.statestore.postgres import PostgresStore
from perdure.statestore.postgres.diagnosis import findings
from perdure.testing.store_contract import (
    ALL,
    actor_id,
    put,
    reminder,
    row,
    write,
)
from tests.servers.postgres import PostgresServer
from tests.statestore.postgres_use import opened, opened_at, schema, server, store
from tests.waiting import eventually

__all__ = ["opened", "opened_at", "schema", "server", "store"]


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
