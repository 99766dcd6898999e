"""What workflow code waits for: tasks, and their combinations."""

from __future__ import annotations

import sys
from asyncio import events
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from perdure.errors import InvalidInput, PerdureError
from perdure.workflow.events import FailureDetails
from perdure.workflow.misuse import WorkflowLoop, WorkflowMisuse

if TYPE_CHECKING:
    from perdure.workflow.run import InProcessRun

T = TypeVar("T")
#: Makes the error of a task that is cancelled.
MakeError: TypeAlias = "Callable[[Task[Any]], BaseException]"


class TaskFailedError(PerdureError):
    """An activity failed. `details` is what it reported."""

    code = "ERR_TASK_FAILED"
    details: FailureDetails

    def __init__(self, message: str, details: FailureDetails) -> None:
        super().__init__(message, details=details)


class ChildFailedError(TaskFailedError):
    """A child workflow failed, was terminated or could not start."""

    code = "ERR_CHILD_FAILED"


class ActivityTimeout(TaskFailedError, TimeoutError):
    """An activity did not end within its time limit."""

    code = "ERR_ACTIVITY_TIMEOUT"


class HeartbeatTimeout(ActivityTimeout):
    """An activity gave no heartbeat within its time limit."""

    code = "ERR_HEARTBEAT_TIMEOUT"


class TaskCancelledError(TaskFailedError):
    """The task was cancelled by the code of its own workflow."""

    code = "ERR_TASK_CANCELLED"


class WorkflowCancelled(PerdureError):
    """Somebody has cancelled the workflow. Raised where its code waits: undo what is to be undone, and raise it again.

    An Exception, not like asyncio's a BaseException: code that undoes in `except Exception` what it has done must not
    leave it undone because it was cancelled. Code that catches it and goes on shows as running still; terminate it.
    """

    code = "ERR_WORKFLOW_CANCELLED"
    non_retriable = True
    reason: str = ""


class EventTimeout(PerdureError, TimeoutError):
    """The event did not come within the time limit."""

    code = "ERR_EVENT_TIMEOUT"


class Task(Generic[T]):
    """Something that will have a result or an error. Wait for it with `await task`, in a generator `yield task`.

    It goes on whether or not anybody waits; waiting again gives the same result or raises the same error.
    """

    __slots__ = ("__weakref__", "_error", "_run", "_settled", "_value", "_waiters")

    def __init__(self, run: InProcessRun) -> None:
        self._run = run
        self._settled = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Waiter[Any]] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is a result or an error."""
        return self._settled

    @property
    def is_failed(self) -> bool:
        return self._error is not None

    def get_result(self) -> T:
        """The result, or raises the error; `WorkflowMisuse` while there is neither."""
        if not self._settled:
            raise WorkflowMisuse(f"{self!r} has no result yet: await it, or look at is_complete first")
        if self._error is not None:
            raise self._error.with_traceback(self._origin())
        return cast(T, self._value)

    def get_exception(self) -> BaseException | None:
        """The error; None when there is a result. `WorkflowMisuse` while there is neither."""
        if not self._settled:
            raise WorkflowMisuse(f"{self!r} has no result yet: await it, or look at is_complete first")
        return self._error

    def cancel(self, reason: str = "") -> bool:
        """It is needed no more: whoever awaits it gets `TaskCancelledError`. False: it had a result or an error already.

        A running activity is told so (see `ActivityContext.cancelled`), a child workflow is cancelled, a timer deleted.
        Of a combination or a branch, what it waits for is cancelled.
        """
        run = self._run
        if self._settled or run.closed or run.outcome is not None:
            # Also in the `finally` of code that is ended where it waits: nothing of that has any effect.
            return False
        if run.thread != get_ident():
            if isinstance(sys.exc_info()[1], GeneratorExit):
                # The same, where the run was dropped rather than closed.
                return False
            raise WorkflowMisuse(f"{self!r} can be cancelled only by the code of its own workflow")
        cancel(self, lambda task: _cancelled(task, reason))
        return True

    def _cancel(self, make: MakeError) -> Sequence[Task[Any]]:
        """Settles it with an error; or returns what it waits for, to be cancelled in its place."""
        self._settle(None, make(self))
        return ()

    def __await__(self) -> Generator[Any, Any, T]:
        return (yield self)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        state = "waiting" if not self._settled else "failed" if self._error is not None else "complete"
        return f"<{type(self).__name__} {self._describe()}: {state}>"

    def _describe(self) -> str:
        return "task"

    def _origin(self) -> TracebackType | None:
        """The traceback to raise the error with: not what former raises of the same error have added."""
        return None

    def _settle(self, value: Any, error: BaseException | None = None) -> None:
        self._settled = True
        self._value = value
        self._error = error
        waiters = self._waiters
        if waiters is not None:
            self._waiters = None
            for waiter in waiters:
                waiter._wake(self)

    def _add_waiter(self, waiter: Waiter[Any]) -> None:
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)


class Waiter(Task[T]):
    """A task that goes on when others are settled. It does so from the run's queue, first woken, first on: so the
    order is that of the arrivals, and long chains of tasks need no deep stack."""

    __slots__ = ()

    def _wake(self, task: Task[Any]) -> None:
        raise NotImplementedError

    def _step(self) -> None:
        raise NotImplementedError


#: What `when_all` and `when_any` take: tasks, and code that uses the same context.
Item: TypeAlias = Task[T] | Coroutine[Any, Any, T] | Generator[Any, Any, T]


class WhenAll(Waiter[list[T]]):
    __slots__ = ("_interrupt", "_items", "_left")

    def __init__(self, run: InProcessRun, items: list[Task[T]]) -> None:
        super().__init__(run)
        self._items = items
        self._interrupt: BaseException | None = None
        pending = [item for item in items if not item._settled]
        self._left = len(pending)
        for item in pending:
            item._add_waiter(self)
        if not pending:
            self._step()

    def _wake(self, task: Task[Any]) -> None:
        self._left -= 1
        if not self._left:
            self._run.ready.append(self)

    def _cancel(self, make: MakeError) -> Sequence[Task[Any]]:
        if not self._left:
            return ()
        # Not before all have come to their end; and then with this, whatever they have ended with.
        self._interrupt = make(self)
        return [item for item in self._items if not item._settled]

    def _step(self) -> None:
        if self._interrupt is not None:
            self._settle(None, self._interrupt)
            return
        failed = next((item for item in self._items if item._error is not None), None)
        if failed is None:
            self._settle([item._value for item in self._items])
        else:
            self._settle(None, failed._error)

    def _origin(self) -> TracebackType | None:
        if self._interrupt is not None:
            return None
        return next((item._origin() for item in self._items if item._error is not None), None)

    def _describe(self) -> str:
        return f"of {len(self._items)} tasks"


class WhenAny(Waiter[Task[T]]):
    __slots__ = ("_interrupt", "_items")

    def __init__(self, run: InProcessRun, items: list[Task[T]]) -> None:
        super().__init__(run)
        self._items = items
        self._interrupt: BaseException | None = None
        winner = next((item for item in items if item._settled), None)
        if winner is not None:
            self._settle(winner)
            return
        for item in items:
            item._add_waiter(self)

    def _wake(self, task: Task[Any]) -> None:
        if self._interrupt is not None:
            if self._value is None and all(item._settled for item in self._items):
                self._value = task
                self._run.ready.append(self)
        elif self._value is None:
            self._value = task
            self._run.ready.append(self)

    def _cancel(self, make: MakeError) -> Sequence[Task[Any]]:
        if self._value is not None:
            return ()
        # As with `WhenAll`. A branch among the items has something to undo, perhaps.
        self._interrupt = make(self)
        return self._items

    def _step(self) -> None:
        if self._interrupt is not None:
            self._settle(None, self._interrupt)
            return
        # The losers may live long and be waited for in every round of a loop: they must not collect dead waiters.
        for item in self._items:
            if item._waiters is not None:
                item._waiters = [waiter for waiter in item._waiters if waiter is not self] or None
        self._settle(self._value)

    def _describe(self) -> str:
        return f"of {len(self._items)} tasks"


class Broken(Task[Any]):
    """A task that has this error: what a branch is given to wait for that is to be interrupted."""

    __slots__ = ()

    def __init__(self, run: InProcessRun, error: BaseException) -> None:
        super().__init__(run)
        self._settle(None, error)


def cancel(task: Task[Any], make: MakeError) -> None:
    """Cancels a task that is not settled, with whatever it waits for. `make`: the error of each."""
    seen: set[int] = set()
    left = [task]
    while left:
        one = left.pop()
        if not one._settled and id(one) not in seen:
            seen.add(id(one))
            left += reversed(one._cancel(make))


def _cancelled(task: Task[Any], reason: str) -> TaskCancelledError:
    text = f"{task._describe()} was cancelled" + (f": {reason}" if reason else "")
    return TaskCancelledError(text, FailureDetails("TaskCancelledError", text, bases=("TaskFailedError",)))


def when_all(items: Iterable[Item[T]]) -> Task[list[T]]:
    """All results, in the order of the items, when all are settled; then raises the first failure in that order.

    Coroutines and generators run as parallel branches. No items: complete at once, with an empty list.
    """
    run = _current_run("when_all")
    return WhenAll(run, _tasks(run, items, "when_all"))


def when_any(items: Iterable[Item[T]]) -> Task[Task[T]]:
    """The task that is settled first, failed or not; the others go on. At once the first one that is settled already.

    Coroutines and generators run as parallel branches.
    """
    run = _current_run("when_any")
    tasks = _tasks(run, items, "when_any")
    if not tasks:
        raise InvalidInput("when_any needs at least one task: with none it would wait for ever")
    return WhenAny(run, tasks)


def _current_run(what: str) -> InProcessRun:
    loop: Any = events._get_running_loop()
    run = loop.run() if isinstance(loop, WorkflowLoop) else None
    if run is None:
        raise WorkflowMisuse(
            f"{what} can be used only in workflow code; elsewhere use asyncio.gather or asyncio.wait"
        )
    return run


def _tasks(run: InProcessRun, items: Iterable[Item[T]], what: str) -> list[Task[T]]:
    if isinstance(items, Task) or not isinstance(items, Iterable):
        raise InvalidInput(f"{what} takes one list of tasks: {what}([a, b]), not {type(items).__name__}")
    return [_task(run, item, what) for item in items]


def _task(run: InProcessRun, item: Item[T], what: str) -> Task[T]:
    if isinstance(item, Task):
        if item._run is not run:
            raise WorkflowMisuse(f"{item!r} belongs to another workflow: {what} takes tasks of this one")
        return item
    if isinstance(item, Coroutine | Generator):
        return run.branch(item)
    raise InvalidInput(f"{what} takes tasks, coroutines and generators, not {type(item).__name__}: {item!r}")
