"""Waiting for a state, not for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from perdure import RuntimeStatus, WorkflowClient, WorkflowState

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0
#: Between two looks.
PAUSE = 0.005


async def eventually(
    condition: Callable[[], Any], what: str = "the condition", seconds: float = PATIENCE
) -> Any:
    """What `condition` returns, or gives when it is awaited, once that is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(PAUSE)


def until(condition: Callable[[], Any], what: str = "the condition", *, said: Callable[[], str] = str) -> Any:
    """As `eventually`, where no loop runs. `said`: what a failure shows as well."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}\n{said()}"
        time.sleep(PAUSE)
    return value


async def until_status(client: WorkflowClient, instance_id: str, status: RuntimeStatus) -> WorkflowState:
    """The state of an instance once it has that status."""

    async def look() -> WorkflowState | None:
        state = await client.get_workflow_state(instance_id)
        return state if state is not None and state.runtime_status is status else None

    state: WorkflowState = await eventually(look, f"{instance_id} being {status}")
    return state


async def run(client: WorkflowClient, workflow: Any, input: Any = None, **options: Any) -> WorkflowState:
    """The state in which a new instance ended."""
    id = await client.schedule_new_workflow(workflow, input=input, **options)
    return await client.wait_for_workflow_completion(id, timeout=PATIENCE)
