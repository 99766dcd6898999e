from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

from perdure import Node
from tests.waiting import eventually


def _load(name: str) -> ModuleType:
    # Tests are no package, so that the installed perdure is what is tested: helpers are loaded by their path.
    spec = importlib.util.spec_from_file_location(
        f"perdure_console_{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shops = _load("shop")


class Served:
    """A node that serves the shop, and what its console says."""

    def __init__(self, node: Node, shop: Any, session: aiohttp.ClientSession) -> None:
        self.node = node
        self.shop = shop
        self.session = session
        assert node.url is not None
        self.url = node.url

    async def get(self, path: str, answer: int = 200, **query: Any) -> Any:
        async with self.session.get(self.url + path, params=query) as response:
            assert response.status == answer, await response.text()
            return await response.json()

    async def view(self, view: str, **query: Any) -> Any:
        return (await self.get("/console/view", view=view, **query))["value"]

    async def start(self, workflow: str, id: str, input: Any = None) -> None:
        await self.node.client.schedule_new_workflow(workflow, instance_id=id, input=input)
        await self.node.client.wait_for_workflow_start(id)

    async def end(self, workflow: str, id: str, input: Any = None) -> None:
        await self.start(workflow, id, input)
        await self.node.client.wait_for_workflow_completion(id, timeout=30)

    async def until(self, condition: Callable[[Any], Any], what: str, **query: Any) -> Any:
        """A view, once this is true of it."""

        async def look() -> Any:
            value = await self.view(**query)
            return value if condition(value) else None

        return await eventually(look, what)

    def evict(self, id: str) -> bool:
        host = self.node.runtime.host
        activation = host.activations.get(self.node.runtime.engine.actor(id))
        return activation is None or host.evict(activation)


@asynccontextmanager
async def _serve(
    store: str, *, changed: bool = False, port: int = 0, **options: Any
) -> AsyncIterator[Served]:
    shop = shops.Shop(changed=changed)
    async with (
        shop.app.serve(store=store, http_port=port, **options) as node,
        aiohttp.ClientSession() as session,
    ):
        try:
            yield Served(node, shop, session)
        finally:
            shop.gate.set()


@pytest.fixture
def serve() -> Any:
    """`async with serve(store) as served`: a node with the shop."""
    return _serve


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with _serve(f"sqlite:///{tmp_path}/state.db") as served:
        yield served


@pytest.fixture
def evil() -> str:
    return str(shops.EVIL)
