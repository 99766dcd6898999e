"""A purge whose answer was lost comes again: it is answered as the first one was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import App, WorkflowContext
from perdure.actors.messages import Identity
from perdure.errors import InstanceNotFound
from perdure.workflow.requests import Purge


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_same_purge_again_is_no_error(place: Any, restarted: bool) -> None:
    app = App("p")

    @app.workflow
    async def short(ctx: WorkflowContext) -> int:
        return 1

    async def purge(node: Any, number: int) -> Any:
        engine = node.runtime.engine
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        identity = Identity("edge:test", number, 1)
        engine.router.send(engine.actor("i"), "purge", Purge(), answer.set_result, identity=identity)
        return await asyncio.wait_for(answer, 30)

    async with place.serve(app) as node:
        await node.client.schedule_new_workflow(short, instance_id="i")
        await node.client.wait_for_workflow_completion("i", timeout=30)
        assert not isinstance(await purge(node, 1), Exception)
        if not restarted:
            assert not isinstance(await purge(node, 1), Exception)
            assert isinstance(await purge(node, 2), InstanceNotFound)
    if restarted:
        async with place.serve(app) as node:
            assert not isinstance(await purge(node, 1), Exception)
            assert isinstance(await purge(node, 2), InstanceNotFound)
            # It came late: what is here now began after that purge.
            await node.client.schedule_new_workflow(short, instance_id="i")
            await purge(node, 1)
            assert await node.client.get_workflow_state("i") is not None
