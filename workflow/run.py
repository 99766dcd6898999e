"""Runs workflow code in this process.

A run is a plain state machine: arrivals go in, commands and an outcome come out. Time is that of the last arrival
that was applied; nothing here looks at a clock, an event loop or a store.
"""

from __future__ import annotations

import contextvars
import sys
from asyncio import events as asyncio_events
from collections import deque
from collections.abc import Callable, Sequence
from inspect import isawaitable, iscoroutine, isgenerator
from operator import itemgetter
from threading import get_ident
from typing import Any, TypeVar

from perdure.errors import InvalidInput, LoopBlocked
from perdure.payload import Payload
from perdure.workflow.branch import Branch, Code, Root
from perdure.workflow.calls import Call, EventWait, Timer
from perdure.workflow.commands import AnyCommand, Cancelled, Completed, ContinuedAsNew, Failed, Outcome
from perdure.workflow.context import WorkflowContext
from perdure.workflow.events import (
    Arrival,
    CancelRequested,
    ChildCompleted,
    ChildFailed,
    EventRaised,
    ExecutionStarted,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from perdure.workflow.executor import Instance
from perdure.workflow.failure import describe
from perdure.workflow.misuse import WorkflowLoop, WorkflowMisuse, translate
from perdure.workflow.registry import Registry, WorkflowDefinition
from perdure.workflow.tasks import Waiter, WorkflowCancelled, cancel

T = TypeVar("T")

_get_loop = asyncio_events._get_running_loop
_set_loop = asyncio_events._set_running_loop


class InProcessExecutor:
    """Runs the workflows of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def knows(self, name: str) -> bool:
        return name in self._registry.workflows

    def run(self, instance: Instance, started: ExecutionStarted) -> InProcessRun:
        return InProcessRun(self._registry, self._registry.get_workflow(started.name), instance, started)


class InProcessRun:
    """One execution. Methods without a leading word in `Run` are for the context, tasks and branches only."""

    def __init__(
        self,
        registry: Registry,
        definition: WorkflowDefinition,
        instance: Instance,
        started: ExecutionStarted,
    ) -> None:
        self.registry = registry
        self.instance = instance
        self.name = started.name
        self.execution_id = started.execution_id
        self.seed = started.seed or started.execution_id
        self.generation = started.generation
        self.outcome: Outcome | None = None
        self.custom_status: Payload = None
        self.replaying = False
        #: Microseconds; the time of the last arrival.
        self.now = started.at
        self.next_id = 0
        self.commands: list[AnyCommand] = []
        self.calls: dict[int, Call[Any]] = {}
        self.children: dict[int, Call[Any]] = {}
        self.timers: dict[int, Timer] = {}
        #: What goes on in this turn, first woken first.
        self.ready: deque[Waiter[Any]] = deque()
        #: Set by continue_as_new; becomes the outcome when the code ends.
        self.continuation: ContinuedAsNew | None = None
        #: The thread that runs the code now; 0 while none does. The context works only there.
        self.thread = 0
        #: The code's context variables: of this execution alone, empty at its start, so that replay finds the same.
        self.context = contextvars.Context()
        self._definition = definition
        self._branches: dict[Any, Branch[Any]] = {}
        self._waits: dict[str, deque[EventWait[Any]]] = {}
        self._unread: dict[str, deque[tuple[int, EventRaised]]] = {}
        self._raised = 0
        #: The workflow function, if it is one that waits.
        self._root: Root | None = None
        #: Why somebody wants it to come to an end; None: nobody does.
        self.cancelled: str | None = None
        self._loop: Any = WorkflowLoop(self)
        self.closed = False

    # --- what the engine calls --------------------------------------------------------------------------------------

    def apply(self, event: Arrival) -> None:
        handler = _HANDLERS.get(event.__class__)
        if handler is None or self.outcome is not None or self.closed:
            return
        self.now = event.at
        handler(self, event)
        if self.ready:
            self._advance()

    def take_commands(self) -> Sequence[AnyCommand]:
        commands, self.commands = self.commands, []
        return commands

    def unread_events(self) -> Sequence[EventRaised]:
        unread = [numbered for queue in self._unread.values() for numbered in queue]
        return [event for _, event in sorted(unread, key=itemgetter(0))]

    def waiting_for(self) -> Sequence[str]:
        if self.outcome is not None:
            return ()
        waits = [call.waiting() for call in (*self.calls.values(), *self.children.values())]
        waits += [timer.waiting() for timer in self.timers.values()]
        waits += [wait.waiting() for queue in self._waits.values() for wait in queue]
        # The time limit of a wait is told with the wait.
        return [wait for wait in waits if wait]

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._close_branches()
            for table in (self.calls, self.children, self.timers, self._waits):
                table.clear()

    # --- arrivals ---------------------------------------------------------------------------------------------------

    def _started(self, event: ExecutionStarted) -> None:
        if self._branches or self.next_id:
            return
        definition = self._definition
        try:
            if not definition.takes_input and event.input is not None:
                raise InvalidInput(
                    f"workflow {self.name!r} takes no input, but was given one: add a second parameter"
                )
            input = definition.decode(event.input)
        except InvalidInput as error:
            self.outcome = Failed(describe(error))
            return
        self._within(self._call, input)

    def _call(self, input: Any) -> None:
        definition = self._definition
        context = WorkflowContext(self)
        try:
            result = definition.fn(context, input) if definition.takes_input else definition.fn(context)
        except LoopBlocked:
            raise
        except BaseException as error:  # noqa: BLE001 - the code's, whatever it is: SystemExit too
            self.fail(translate(error))
            return
        if iscoroutine(result) or isgenerator(result):
            self._branches[result] = self._root = Root(self, result)
            self.ready.append(self._root)
        elif isawaitable(result):
            self.fail(
                WorkflowMisuse(
                    f"workflow {self.name!r} returned {result!r}: make it `async def`, and await inside"
                )
            )
        else:
            self.finish(result)

    def _task_completed(self, event: TaskCompleted) -> None:
        call = self.calls.pop(event.id, None)
        if call is not None:
            call.completed(event.result)

    def _task_failed(self, event: TaskFailed) -> None:
        call = self.calls.pop(event.id, None)
        if call is not None:
            call.failed(event.failure, event.details)

    def _child_completed(self, event: ChildCompleted) -> None:
        call = self.children.pop(event.id, None)
        if call is not None:
            call.completed(event.result)

    def _child_failed(self, event: ChildFailed) -> None:
        call = self.children.pop(event.id, None)
        if call is not None:
            call.failed(event.failure)

    def _timer_fired(self, event: TimerFired) -> None:
        timer = self.timers.pop(event.id, None)
        if timer is not None:
            timer.fired()

    def _cancel_requested(self, event: CancelRequested) -> None:
        if self.cancelled is not None:
            return
        self.cancelled = reason = event.reason
        text = "the workflow was cancelled" + (f": {reason}" if reason else "")
        if self._root is not None:
            cancel(self._root, lambda _: WorkflowCancelled(text, reason=reason))

    def _event_raised(self, event: EventRaised) -> None:
        key = event.name.casefold()
        queue = self._waits.get(key)
        if queue is None:
            self._raised += 1
            self._unread.setdefault(key, deque()).append((self._raised, event))
            return
        wait = queue.popleft()
        if not queue:
            del self._waits[key]
        wait.receive(event.data)

    # --- the code ---------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        self._within(self._drain)

    def _drain(self) -> None:
        ready = self.ready
        while ready and self.outcome is None:
            ready.popleft()._step()

    def _within(self, function: Callable[..., None], *args: Any) -> None:
        """Calls a function as workflow code is called: in its context, and the context works."""
        self.thread = get_ident()
        try:
            self._apart(function, *args)
        finally:
            self.thread = 0
        if self.outcome is not None:
            self._close_branches()

    def _apart(self, function: Callable[..., None], *args: Any) -> None:
        """Calls a function with no event loop to be found but the one that refuses."""
        outer = _get_loop()
        hooks = sys.get_asyncgen_hooks()
        try:
            try:
                _set_loop(self._loop)
                # An async generator that the code leaves must not be finished by the node's loop, outside of the run.
                sys.set_asyncgen_hooks(None, None)
                self.context.run(function, *args)
            finally:
                _set_loop(outer)
        finally:
            # Again: the watchdog's exception comes at any line, also at that of the restoring above, and without
            # its loop the node is lost.
            _set_loop(outer)
            sys.set_asyncgen_hooks(*hooks)

    def judge(self, function: Callable[..., T], *args: Any) -> T:
        """What a function of the user's gives that may not use the context."""
        found: list[T] = []
        self._apart(lambda: found.append(function(*args)))
        return found[0]

    def branch(self, code: Code[Any]) -> Branch[Any]:
        """The branch that runs this code; a new one begins when those that are ready now have gone on."""
        branch = self._branches.get(code)
        if branch is None:
            self._branches[code] = branch = Branch(self, code)
            self.ready.append(branch)
        return branch

    def ended(self, code: Code[Any]) -> None:
        self._branches.pop(code, None)

    def finish(self, result: Any) -> None:
        """The workflow function returned."""
        if self.continuation is not None:
            self.outcome = self.continuation
            return
        try:
            self.outcome = Completed(self._definition.encode(result))
        except InvalidInput as error:
            self.outcome = Failed(describe(error))

    def fail(self, error: BaseException) -> None:
        """The workflow function raised."""
        cancelled = self.cancelled is not None and isinstance(error, WorkflowCancelled)
        self.outcome = Cancelled(describe(error)) if cancelled else Failed(describe(error))

    def _close_branches(self) -> None:
        branches, self._branches = self._branches, {}
        self._root = None
        self.ready.clear()
        if branches:
            self._apart(_close_all, tuple(branches.values()))

    # --- external events, ids ---------------------------------------------------------------------------------------

    def take_unread(self, name: str) -> EventRaised | None:
        """The oldest event of this name that nobody waited for, taken."""
        key = name.casefold()
        queue = self._unread.get(key)
        if queue is None:
            return None
        _, event = queue.popleft()
        if not queue:
            del self._unread[key]
        return event

    def add_wait(self, wait: EventWait[Any]) -> None:
        self._waits.setdefault(wait.name.casefold(), deque()).append(wait)

    def forget_wait(self, wait: EventWait[Any]) -> None:
        key = wait.name.casefold()
        queue = self._waits[key]
        queue.remove(wait)
        if not queue:
            del self._waits[key]

    def default_id(self, task_id: int) -> str:
        """The instance id of a child that is given none."""
        return f"{self.instance.id}:{self.generation}:{task_id:04x}"


def _close_all(branches: Sequence[Branch[Any]]) -> None:
    for branch in branches:
        branch._close()


_HANDLERS: dict[type, Callable[[InProcessRun, Any], None]] = {
    ExecutionStarted: InProcessRun._started,
    TaskCompleted: InProcessRun._task_completed,
    TaskFailed: InProcessRun._task_failed,
    ChildCompleted: InProcessRun._child_completed,
    ChildFailed: InProcessRun._child_failed,
    TimerFired: InProcessRun._timer_fired,
    EventRaised: InProcessRun._event_raised,
    CancelRequested: InProcessRun._cancel_requested,
}
