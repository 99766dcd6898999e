"""Dapr's `when_all`, which does not wait for the rest once one has failed. Perdure's own waits for all."""

from __future__ import annotations

from asyncio import events
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.errors import InvalidInput
from perdure.workflow.misuse import WorkflowLoop, WorkflowMisuse
from perdure.workflow.tasks import Task, Waiter

if TYPE_CHECKING:
    from perdure.workflow.run import InProcessRun

T = TypeVar("T")


class WhenAllTask(Waiter[list[T]]):
    """All results, in the order of the tasks, or the first failure."""

    __slots__ = ("_due", "_items", "_left")

    def __init__(self, run: InProcessRun, items: list[Task[T]]) -> None:
        super().__init__(run)
        self._items = items
        pending = [item for item in items if not item.is_complete]
        self._left = len(pending)
        #: It is in the run's queue, or settled.
        self._due = not pending or any(item.is_failed for item in items)
        for item in pending:
            item._add_waiter(self)
        if self._due:
            self._step()

    @classmethod
    def of(cls, tasks: Iterable[Task[T]]) -> WhenAllTask[T]:
        """One of the run whose code calls this. `InvalidInput` for what is not a list of its tasks."""
        loop: Any = events._get_running_loop()
        run = loop.run() if isinstance(loop, WorkflowLoop) else None
        if run is None:
            raise WorkflowMisuse("when_all can be used only in workflow code")
        if isinstance(tasks, Task) or not isinstance(tasks, Iterable):
            raise InvalidInput(
                f"when_all takes one list of tasks: when_all([a, b]), not {type(tasks).__name__}"
            )
        items = list(tasks)
        for item in items:
            if not isinstance(item, Task) or item._run is not run:
                raise InvalidInput(f"when_all takes tasks of this workflow, not {item!r}")
        return cls(run, items)

    def get_tasks(self) -> list[Task[T]]:
        return self._items

    def get_completed_tasks(self) -> int:
        return len(self._items) - self._left

    @property
    def pending_tasks(self) -> int:
        return self._left

    def _wake(self, task: Task[Any]) -> None:
        self._left -= 1
        if not self._due and (not self._left or task.is_failed):
            self._due = True
            self._run.ready.append(self)

    def _step(self) -> None:
        if self._settled:
            return
        failed = next((item for item in self._items if item.is_failed), None)
        if failed is None:
            self._settle([item.get_result() for item in self._items])
        else:
            self._settle(None, failed._error)

    def _cancel(self, make: Any) -> Sequence[Task[Any]]:
        """Its tasks are cancelled, and the first of them ends this."""
        return () if self._due else [item for item in self._items if not item.is_complete]

    def _describe(self) -> str:
        return f"of {len(self._items)} tasks"
