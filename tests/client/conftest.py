"""A node, and its two clients: the one within its process, and one over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure import ActivityContext, App, Node, WorkflowClient, WorkflowContext


class OutOfStock(ValueError):
    """What a failed workflow is derived from crosses HTTP, too."""


@pytest.fixture
def app() -> App:
    app = App("shop", replay_check="always")

    @app.activity
    async def double(ctx: ActivityContext, number: int) -> int:
        return 2 * number

    @app.workflow
    async def twice(ctx: WorkflowContext, number: int) -> int:
        return await ctx.call_activity(double, input=number)

    @app.workflow(name="other name")
    async def renamed(ctx: WorkflowContext, what: object) -> object:
        return what

    @app.workflow
    async def listen(ctx: WorkflowContext) -> object:
        ctx.set_custom_status({"step": 1})
        return await ctx.wait_for_external_event("go")

    @app.workflow
    async def broken(ctx: WorkflowContext) -> None:
        try:
            raise KeyError("sku-1")
        except KeyError as error:
            raise OutOfStock("no such article") from error

    return app


@pytest.fixture
async def node(app: App, tmp_path: Any) -> AsyncIterator[Node]:
    async with app.serve(store=f"sqlite:///{tmp_path}/state.db", http_port=0) as node:
        yield node


@pytest.fixture
async def http(node: Node) -> AsyncIterator[WorkflowClient]:
    async with WorkflowClient(str(node.url)) as client:
        yield client


@pytest.fixture(params=["node", "http"])
def client(request: pytest.FixtureRequest, node: Node, http: WorkflowClient) -> WorkflowClient:
    return node.client if request.param == "node" else http
