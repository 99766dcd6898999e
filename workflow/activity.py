"""Runs activities: functions on the loop, plain functions in threads, and their answers until they are taken."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from perdure.actors.messages import Message
from perdure.actors.proxy import bind
from perdure.errors import LoopBlocked, NotRegistered, Unavailable
from perdure.logs import fields
from perdure.payload import Payload
from perdure.statestore.contract import ActorId
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.events import FailureDetails
from perdure.workflow.failure import describe
from perdure.workflow.registry import ActivityDefinition
from perdure.workflow.requests import ActivityDone, ActivityRequest
from perdure.workflow.threads import Threads

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

log = logging.getLogger("perdure.workflow")

#: How many activities of one app run at a time on one node: functions on the loop, and threads.
MAX_ASYNC = 1000
MAX_THREADS = 64


class ActivityHost:
    """Runs each request once while it runs; keeps no state. What it was given and has no acknowledged answer for, it
    *knows*: a second request for the same task joins the first."""

    def __init__(
        self, engine: WorkflowEngine, *, max_async: int = MAX_ASYNC, max_threads: int = MAX_THREADS
    ) -> None:
        self._engine = engine
        self._known: dict[tuple[str, int], ActivityRequest] = {}
        self._queues: tuple[deque[ActivityRequest], deque[ActivityRequest]] = (deque(), deque())
        self._limits = (max_async, max_threads)
        self._running = [0, 0]
        self._tasks: dict[tuple[str, int], asyncio.Task[Any]] = {}
        self._threads = Threads("perdure-activity")
        self._closing = False

    @property
    def running(self) -> int:
        return self._running[0] + self._running[1]

    @property
    def queued(self) -> int:
        return len(self._queues[0]) + len(self._queues[1])

    @property
    def known(self) -> int:
        """Running, queued, or answered and not acknowledged."""
        return len(self._known)

    def knows(self, execution_id: str, task_id: int) -> bool:
        return (execution_id, task_id) in self._known

    def state(self, execution_id: str, task_id: int) -> str:
        """ "running", "queued", or "answered" (not acknowledged yet); empty for what it does not know."""
        key = (execution_id, task_id)
        if key not in self._known:
            return ""
        if key in self._tasks:
            return "running"
        queued = any((one.execution_id, one.task_id) == key for queue in self._queues for one in queue)
        return "queued" if queued else "answered"

    def receive(self, message: Message) -> None:
        """Takes an `ActivityRequest`; acknowledges at once: the workflow actor keeps it durable."""
        request: ActivityRequest = message.body
        key = (request.execution_id, request.task_id)
        if self._closing:
            message.answer(Unavailable("the node is stopping"))
            return
        message.answer(True)
        if key in self._known:
            return
        self._known[key] = request
        try:
            definition = self._engine.registry.get_activity(request.name)
        except NotRegistered as error:
            self._answer(
                request, None, FailureDetails("ActivityNotRegistered", error.message, non_retriable=True)
            )
            return
        kind = 0 if definition.is_async else 1
        if self._running[kind] >= self._limits[kind]:
            self._queues[kind].append(request)
        else:
            self._start(kind, definition, request)

    def _start(self, kind: int, definition: ActivityDefinition, request: ActivityRequest) -> None:
        self._running[kind] += 1
        run = self._run_async if kind == 0 else self._run_thread
        self._tasks[request.execution_id, request.task_id] = self._engine.clock.spawn(
            run(definition, request)
        )

    async def _run_async(self, definition: ActivityDefinition, request: ActivityRequest) -> None:
        bind(self._engine.caller)
        context = ActivityContext(self._engine.app_id, request)
        try:
            if definition.takes_input:
                result = await definition.fn(context, definition.decode(request.input))
            else:
                result = await definition.fn(context)
            payload = definition.encode(result)
        except asyncio.CancelledError as error:
            self._cancelled(0, request, error)
        except (Exception, LoopBlocked, SystemExit) as error:  # noqa: BLE001 - the user's, whatever it is
            self._failed(0, request, error)
        else:
            self._ended(0, request)
            self._answer(request, payload, None)

    async def _run_thread(self, definition: ActivityDefinition, request: ActivityRequest) -> None:
        context = ActivityContext(self._engine.app_id, request)
        try:
            payload = await self._threads.call(partial(_call, definition, context))
        except asyncio.CancelledError as error:
            self._cancelled(1, request, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's, whatever it is
            self._failed(1, request, error)
        else:
            self._ended(1, request)
            self._answer(request, payload, None)

    def _failed(self, kind: int, request: ActivityRequest, error: BaseException) -> None:
        log.info(
            "activity.failed",
            extra=fields(
                instance=request.instance_id, activity=request.name, task=request.task_id, error=repr(error)
            ),
        )
        self._ended(kind, request)
        self._answer(request, None, describe(error))

    def _cancelled(self, kind: int, request: ActivityRequest, error: BaseException) -> None:
        if self._closing:
            # By the node, which is stopping: no answer, so that another run gives it.
            self._ended(kind, request)
        else:
            # By the user's own code: a failure as any other.
            self._failed(kind, request, error)

    def _ended(self, kind: int, request: ActivityRequest) -> None:
        self._running[kind] -= 1
        self._tasks.pop((request.execution_id, request.task_id), None)
        if self._queues[kind] and not self._closing:
            request = self._queues[kind].popleft()
            self._start(kind, self._engine.registry.get_activity(request.name), request)

    def _answer(self, request: ActivityRequest, result: Payload, failure: FailureDetails | None) -> None:
        done = ActivityDone(request.execution_id, request.task_id, request.nonce, result, failure)
        engine = self._engine

        def answered(_: Any) -> None:
            # Whatever the answer, the workflow actor needs no more of this.
            self._known.pop((request.execution_id, request.task_id), None)

        engine.router.send(ActorId(request.actor_type, request.instance_id), "done", done, answered)

    # --- stopping ----------------------------------------------------------------------------------------------------

    def stop_starting(self) -> None:
        """Begins nothing any more: what is queued is done by whoever owns its instance next."""
        self._closing = True
        for queue in self._queues:
            for request in queue:
                self._known.pop((request.execution_id, request.task_id), None)
            queue.clear()

    async def close(self) -> None:
        """Cancels what runs on the loop; threads end by themselves, unheard."""
        self.stop_starting()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        left = self._threads.close()
        if left:
            log.warning("activities.left", extra=fields(threads=left))


def _call(definition: ActivityDefinition, context: ActivityContext) -> Payload:
    try:
        if definition.takes_input:
            result = definition.fn(context, definition.decode(context._request.input))
        else:
            result = definition.fn(context)
    except StopIteration as error:
        # A future cannot hold it: the activity would never end.
        raise RuntimeError("the activity raised StopIteration") from error
    return definition.encode(result)
