"""Whole nodes over each store that there is: servers run once for all tests here, and each test's names are its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Node, RuntimeStatus, WorkflowClient, WorkflowState
from perdure.statestore import open_store
from tests.cli.conftest import perdure
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_server
from tests.servers.socket import ServedStore

__all__ = ["perdure"]

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0


@pytest.fixture(scope="session")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'state.db'}"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url()


@pytest.fixture(scope="session")
def socket_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the nodes of `perdure run --nodes` work on: a SQLite file behind a Unix socket."""
    folder: Path = tmp_path_factory.mktemp("socket")
    served = ServedStore(lambda: open_store(f"sqlite:///{folder / 'state.db'}"), folder / "s")
    yield served.url
    served.stop()


class Place:
    """A store, over any number of nodes, one after another."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def serve(self, app: App, **options: Any) -> AsyncIterator[Node]:
        """A node of its own; replay is checked after every turn."""
        async with app.serve(store=self.url, **{"replay_check": "always", **options}) as node:
            yield node


@pytest.fixture(scope="session", params=["sqlite", "redis", "postgres", "socket"])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.getfixturevalue(f"{request.param}_url"))


async def _eventually(condition: Callable[[], Any], what: str = "the condition") -> Any:
    end = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        await asyncio.sleep(0.01)


@pytest.fixture
def eventually() -> Any:
    """`await eventually(lambda: …)`: returns the condition's value when it is true."""
    return _eventually


@pytest.fixture
def until_status() -> Any:
    """`await until_status(client, id, status)`: the state once it has that status."""

    async def wait(client: WorkflowClient, instance_id: str, status: RuntimeStatus) -> WorkflowState:
        async def look() -> WorkflowState | None:
            state = await client.get_workflow_state(instance_id)
            return state if state is not None and state.runtime_status is status else None

        state: WorkflowState = await _eventually(look, f"{instance_id} being {status}")
        return state

    return wait


@pytest.fixture
def run() -> Any:
    """`await run(client, workflow, input)`: the state in which it ended."""

    async def go(client: WorkflowClient, workflow: Any, input: Any = None, **options: Any) -> WorkflowState:
        id = await client.schedule_new_workflow(workflow, input=input, **options)
        return await client.wait_for_workflow_completion(id, timeout=PATIENCE)

    return go
