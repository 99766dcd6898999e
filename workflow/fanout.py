"""Many tasks, not all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from perdure.workflow.tasks import Task, TaskCancelledError, WorkflowCancelled, when_all

T = TypeVar("T")


async def bounded(start: Callable[[Any], Task[T]], items: Sequence[Any], limit: int) -> list[T]:
    """Starts a task per item, in order, the next one when one of the last `limit` is settled. Results and errors as
    those of `when_all`: a failure stops none of the others."""
    tasks: list[Task[T]] = []
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            task = start(item)
            tasks.append(task)
            try:
                await task
            except (TaskCancelledError, WorkflowCancelled):
                raise
            except Exception:  # noqa: S110, BLE001 - told once, by when_all below
                pass

    await when_all([worker() for _ in range(min(limit, len(items)))])
    return await when_all(tasks)
