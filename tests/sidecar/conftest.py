from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import aiohttp
import pytest

from perdure import Actor, App
from perdure.sidecar import HttpServer


def _load_fake() -> ModuleType:
    # Tests are no package, so that the installed perdure is what is tested: helpers are loaded by their path.
    spec = importlib.util.spec_from_file_location("perdure_fake_node", Path(__file__).with_name("fake.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = _load_fake()


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"].startswith("application/json")
        return json.loads(self.body)

    @property
    def code(self) -> str:
        found = self.json
        assert set(found) == {"errorCode", "message"}
        assert found["message"]
        return found["errorCode"]


class Caller:
    """Sends requests to one server; the path goes out exactly as it is written."""

    def __init__(self, session: aiohttp.ClientSession, server: HttpServer) -> None:
        self._session = session
        self.server = server

    async def __call__(self, method: str, path: str, body: bytes | str | None = None, **more: Any) -> Answer:
        from yarl import URL

        url = URL(self.server.url + path, encoded=True)
        raw = body.encode() if isinstance(body, str) else body
        data = None if raw is None else io.BytesIO(raw)
        async with self._session.request(method, url, data=data, **more) as response:
            return Answer(response.status, response.headers, await response.read())


@pytest.fixture
async def node() -> Any:
    return fake.FakeNode()


@pytest.fixture
async def server(node: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(node, port=0, drain_seconds=5)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def call(server: HttpServer) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(session, server)


@pytest.fixture(scope="session")
def served_node() -> Iterator[Any]:
    with fake.ServedNode() as served:
        yield served


@asynccontextmanager
async def _serve_real(store: str) -> AsyncIterator[tuple[Any, str]]:
    app = App("shop", replay_check="always")

    @app.activity
    async def double(ctx: Any, number: int) -> int:
        return 2 * number

    @app.workflow
    async def twice(ctx: Any, number: int) -> int:
        return await ctx.call_activity(double, input=number)

    @app.workflow
    async def waiter(ctx: Any) -> object:
        ctx.set_custom_status({"step": 1})
        return await ctx.wait_for_external_event("go")

    @app.actor
    class Counter(Actor):
        async def add(self, number: int = 1) -> int:
            value = await self.state.get("count", int, default=0) + number
            self.state.set("count", value)
            return value

        async def nothing(self) -> None: ...

        async def fail(self) -> None:
            raise ValueError("no")

        async def remind(self) -> None:
            await self.set_reminder("later", timedelta(days=1))

        async def on_reminder(self, name: str, data: object) -> None: ...

    async with app.serve(store=store, http_port=0) as node:
        yield node, node.url


@pytest.fixture(scope="session")
def real_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real node on a SQLite file: workflows `twice` and `waiter`, actor type `Counter`."""
    store = f"sqlite:///{tmp_path_factory.mktemp('node')}/state.db"
    with fake.ServedNode(lambda: _serve_real(store)) as served:
        yield served


@pytest.fixture
def caller() -> type[Caller]:
    return Caller
