"""The server ends, and comes again: nothing acknowledged is lost, nothing happens twice.

`PERDURE_ROUNDS=100 pytest tests/statestore/test_postgres_crashes.py -k killed` kills the server that often.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from perdure.clock import LoopClock
from perdure.errors import StoreUnavailable
from perdure.statestore import (
    COMMITTED,
    ActorId,
    CommitResult,
    Committer,
    Fence,
)
from perdure.statestore.postgres import PostgresStore
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    actor_id,
    all_keys,
    put,
    reminder,
    values_of,
    write,
)
from tests.servers.postgres import PostgresServer, postgres_server
from tests.statestore.asking import again
from tests.statestore.postgres_use import TIMEOUT, opened_at, schema, server
from tests.waiting import eventually

__all__ = ["opened_at", "schema", "server"]


ROUNDS = int(os.environ.get("PERDURE_ROUNDS", "4"))


async def test_the_server_is_killed_under_load(
    opened_at: Callable[..., PostgresStore],
) -> None:
    """SIGKILL to all its processes, again and again, at any moment: every acknowledged commit is there, each once, and
    everybody goes on by the same store object. No rollback is reported, since nothing was lost."""
    with postgres_server() as server:
        store = opened_at(server)
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


async def test_a_restart(opened_at: Callable[..., PostgresStore]) -> None:
    """Every kind of request is answered `StoreUnavailable` while the server is away, and by the server afterwards."""
    with postgres_server() as server:
        store = opened_at(server)
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
    server: PostgresServer, schema: str, opened_at: Callable[..., PostgresStore]
) -> None:
    store = opened_at(server)
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
