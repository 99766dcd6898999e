"""What workflow code must not do, and what to use instead.

While workflow code runs, `WorkflowLoop` stands where asyncio looks for the running event loop. So whatever needs a
loop fails at the very line that asked, with the remedy, and nothing reaches the node's own loop. What asyncio
refuses by itself, or yields past the loop, is told apart afterwards by `translate` and `refuse_awaitable`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import weakref
from collections.abc import Iterable
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from perdure.errors import PerdureError

if TYPE_CHECKING:
    from perdure.workflow.run import InProcessRun

_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep

_TIMER = "use `await ctx.create_timer(timedelta(…))`"
_PARALLEL = "use `await when_all([…])` or `await when_any([…])` from perdure; both take coroutines too"
_DEADLINE = "use `await when_any([task, ctx.create_timer(…)])`, or `timeout=` of wait_for_external_event"
_EVENT = "use `await ctx.wait_for_external_event(name)`"
_ACTIVITY = "do it in an activity: `await ctx.call_activity(…)`"
_REMEDIES = {
    "sleep": _TIMER,
    "call_later": _TIMER,
    "call_at": _TIMER,
    "gather": _PARALLEL,
    "wait": _PARALLEL,
    "create_task": _PARALLEL,
    "ensure_future": _PARALLEL,
    "as_completed": _PARALLEL,
    "shield": _PARALLEL,
    "TaskGroup.__aenter__": _PARALLEL,
    "TaskGroup.create_task": _PARALLEL,
    "wait_for": _DEADLINE,
    "timeout": _DEADLINE,
    "timeout_at": _DEADLINE,
    "create_future": _EVENT,
    "Event.wait": _EVENT,
    "Condition.wait": _EVENT,
    "Queue.get": _EVENT,
}


class WorkflowMisuse(PerdureError, RuntimeError):
    """Workflow code did something that cannot be replayed."""

    code = "ERR_WORKFLOW_MISUSE"


class WorkflowLoop:
    """The "running event loop" of workflow code: every use of it is refused, with what to use instead."""

    __slots__ = ("run",)

    def __init__(self, run: InProcessRun) -> None:
        #: Weak, so that a run that has ended is freed at once and not by the garbage collector.
        self.run = weakref.ref(run)

    def log_fields(self) -> dict[str, Any]:
        """Whose code logs: see `perdure.logs`."""
        run = self.run()
        if run is None:
            return {}
        found = {"instance": run.instance.id, "workflow": run.name, "execution": run.execution_id}
        return {**found, "replaying": True} if run.replaying else found

    def create_task(self, coroutine: Any, **_: Any) -> Any:
        _close_unstarted((coroutine,))
        raise _refusal("create_task", sys._getframe(1))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refusal(name, sys._getframe(1))


def _refusal(used: str, frame: FrameType | None) -> WorkflowMisuse:
    """`used` is what was asked of the loop; the outermost function of asyncio on the way there says it better."""
    while frame is not None and frame.f_code.co_filename.startswith(_ASYNCIO):
        used = frame.f_code.co_qualname
        _close_unstarted(frame.f_locals.values())
        frame = frame.f_back
    return _misuse(used)


def _misuse(used: str) -> WorkflowMisuse:
    remedy = _REMEDIES.get(used, _ACTIVITY)
    return WorkflowMisuse(
        f"asyncio's {used.removesuffix('.__aenter__')} cannot be used in workflow code: {remedy}"
    )


def translate(error: BaseException) -> BaseException:
    """The error itself, or, for a RuntimeError that asyncio raised in workflow code, one that names the remedy."""
    if not isinstance(error, RuntimeError) or isinstance(error, WorkflowMisuse):
        return error
    used = ""
    trace = error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_code.co_filename.startswith(_ASYNCIO):
            used = used or frame.f_code.co_qualname
            _close_unstarted(frame.f_locals.values())
        else:
            used = ""
    if not used:
        return error
    better = _misuse(used).with_traceback(error.__traceback__)
    better.__cause__ = error
    return better


def refuse_awaitable(yielded: Any, *, generator: bool) -> WorkflowMisuse:
    """The error for something that code waits for and that is not a task of its own context."""
    _discard(yielded)
    verb = "yield" if generator else "await"
    if isinstance(yielded, list | tuple):
        return WorkflowMisuse(
            f"a list of tasks is no task: use `{verb} when_all([…])` or `{verb} when_any([…])`"
        )
    if yielded is None:
        what = "`yield` with nothing" if generator else "asyncio.sleep(0) or a bare yield"
        return WorkflowMisuse(f"workflow code waits only for tasks of its context, not for {what}: {_TIMER}")
    if hasattr(yielded, "send") or hasattr(yielded, "__await__"):
        name = getattr(yielded, "__qualname__", type(yielded).__name__)
        return WorkflowMisuse(
            f"workflow code waits only for tasks of its context, not for {name}: {_ACTIVITY}; "
            f"for code that uses the context, `{verb} when_all([…])`"
        )
    return WorkflowMisuse(
        f"workflow code waits only for tasks of its context, not for {yielded!r}: {_ACTIVITY}"
    )


def _discard(yielded: Any) -> None:
    """Leaves nothing behind of a future or coroutine that nobody will await."""
    if getattr(yielded, "_asyncio_future_blocking", None) is not None:
        yielded._asyncio_future_blocking = False
        yielded.cancel()
    _close_unstarted((yielded,))


def _close_unstarted(values: Iterable[Any]) -> None:
    """Closes coroutines that were made only to be handed to what is now refused: they would warn for ever."""
    for value in list(values):
        if isinstance(value, CoroutineType):
            if inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
                value.close()
        elif isinstance(value, list | tuple | set | frozenset):
            _close_unstarted(value)
