"""Whole nodes in this process, on both embedded stores, each turn replayed and compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Node
from perdure.statestore.contract import ActorId, Commit, CommitResult
from perdure.statestore.memory import MemoryStore
from tests import waiting
from tests.engine.limits_use import Meter


class Recording:
    """A store that remembers what is committed to it. `before` may fail a batch."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.batches: list[list[Commit]] = []
        self.before: Callable[[Sequence[Commit]], None] = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        self.before(batch)
        self.batches.append(list(batch))
        result: Sequence[CommitResult] = await self._store.commit(batch)
        return result

    def of(self, instance_id: str) -> list[Commit]:
        return [commit for batch in self.batches for commit in batch if commit.actor.id == instance_id]


class RecordingQuick(Recording):
    """For a `QuickStore`."""

    def commit_now(self, batch: Sequence[Commit]) -> Sequence[CommitResult] | None:
        self.before(batch)
        results: Sequence[CommitResult] | None = self._store.commit_now(batch)
        if results is not None:
            self.batches.append(list(batch))
        return results


class Place:
    """Where one test's state is, over any number of nodes, one after another."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self._memory = MemoryStore()
        self._path = path / "state.db"
        self.last: Recording

    def open(self) -> Recording:
        if self.kind == "memory":
            self.last = Recording(self._memory)
        else:
            from perdure.statestore.sqlite.store import SqliteStore

            self.last = RecordingQuick(SqliteStore(str(self._path)))
        return self.last

    @asynccontextmanager
    async def serve(self, app: App, **options: Any) -> AsyncIterator[Node]:
        """A node, replaying after every turn."""
        store = self.open()
        try:
            async with app.serve(store=store, **{"replay_check": "always", **options}) as node:
                yield node
        finally:
            if self.kind != "memory":
                await store.close()


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


@pytest.fixture
def memory_place(tmp_path: Path) -> Place:
    return Place("memory", tmp_path)


class Gate:
    """An activity that waits until the test lets it go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.ran: list[str] = []


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def evict() -> Any:
    """`evict(node, id)`: takes the instance out of memory; False when it is busy or not there."""

    def go(node: Node, instance_id: str) -> bool:
        host = node.runtime.host
        activation = host.activations.get(node.runtime.engine.actor(instance_id))
        return activation is not None and host.evict(activation)

    return go


@pytest.fixture
def keys() -> Any:
    """`await keys(node, id)`: all keys of the instance as they are stored."""

    async def go(node: Node, instance_id: str) -> dict[str, bytes]:
        actor: ActorId = node.runtime.engine.actor(instance_id)
        found: dict[str, bytes] = {}
        cursor: str | None = None
        while True:
            page = await node.store.keys(actor, "", cursor, 1000)
            found.update(page.items)
            cursor = page.cursor
            if cursor is None:
                return found

    return go


@pytest.fixture
def until_status() -> Any:
    """`await until_status(client, id, status)`: the state once it has that status."""
    return waiting.until_status


@pytest.fixture
def run() -> Any:
    """`await run(client, workflow, input)`: the state in which it ended."""
    return waiting.run


@pytest.fixture
def meter() -> Meter:
    return Meter()
