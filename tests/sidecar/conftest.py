from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import aiohttp
import pytest

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
