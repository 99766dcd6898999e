"""Runs activities: functions on the loop, plain functions in threads, and their answers until they are taken."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from perdure.actors.messages import Message
from perdure.actors.proxy import bind
from perdure.errors import LoopBlocked, Moved, NotRegistered, Unavailable
from perdure.logs import SUBJECT, fields
from perdure.payload import Payload
from perdure.placement.shares import Holder
from perdure.statestore.contract import ActorId
from perdure.workflow.activity_context import ActivityCancelled, ActivityContext
from perdure.workflow.events import Attempt, FailureDetails
from perdure.workflow.failure import describe
from perdure.workflow.lanes import UNLIMITED, Lane, Lanes, Pool
from perdure.workflow.limits import Queue
from perdure.workflow.registry import ActivityDefinition
from perdure.workflow.requests import ActivityDone, ActivityRequest, CancelActivity
from perdure.workflow.threads import Threads
from perdure.workflow.watch import Watch

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

log = logging.getLogger("perdure.workflow")

#: How many activities of one app run at a time on one node, unless that is said: functions on the loop, and threads.
MAX_ASYNC = 1000
MAX_THREADS = 64


class ActivityHost:
    """Runs each request once while it runs; keeps no state. What it was given and has no acknowledged answer for, it
    *knows*: a second request for the same task joins the first.

    What has no room waits in a queue of its name; no name's queue holds up another's."""

    def __init__(self, engine: WorkflowEngine, shares: Holder, *, most: int | None = None) -> None:
        """`most`: how many run at a time, of all names and kinds."""
        self._engine = engine
        self._known: dict[tuple[str, int], ActivityRequest] = {}
        #: Of what is queued: its lane, and the lane's number that it has when its turn comes.
        self._queued: dict[tuple[str, int], tuple[Lane[ActivityRequest], int]] = {}
        one: Pool[ActivityRequest] = Pool(MAX_ASYNC if most is None else most)
        self._pools = (one, Pool[ActivityRequest](MAX_THREADS) if most is None else one)
        self._lanes: Lanes[ActivityRequest] = Lanes(shares, engine.clock.monotonic)
        self._shares = shares
        self._most = most
        self._running: dict[tuple[str, int], ActivityContext] = {}
        self._threads = Threads("perdure-activity")
        self._closing = False

    @property
    def running(self) -> int:
        return sum(lane.running for lane in self._lanes)

    @property
    def queued(self) -> int:
        return len(self._queued)

    @property
    def known(self) -> int:
        """Running, queued, or answered and not acknowledged."""
        return len(self._known)

    @property
    def requests(self) -> Iterable[ActivityRequest]:
        """Those that are known."""
        return self._known.values()

    def knows(self, execution_id: str, task_id: int, nonce: bytes | None = None) -> bool:
        """With a nonce: exactly this request. A store that was rolled back may have asked for another one since."""
        known = self._known.get((execution_id, task_id))
        return known is not None and nonce in (None, known.nonce)

    def state(self, execution_id: str, task_id: int) -> str:
        """ "running", "queued", or "answered" (not acknowledged yet); empty for what it does not know."""
        key = (execution_id, task_id)
        if key not in self._known:
            return ""
        if key in self._running:
            return "running"
        return "queued" if key in self._queued else "answered"

    def ahead(self, execution_id: str, task_id: int) -> int | None:
        """How many are before it in its queue; None: it is not queued."""
        found = self._queued.get((execution_id, task_id))
        return None if found is None else found[1] - found[0].taken

    def queues(self) -> dict[str, Queue]:
        """Of each activity that is limited, running or queued."""
        limits = self._shares.limits
        found = {}
        registry = self._engine.registry
        for name, definition in registry.activities.items():
            lane = self._lanes.get(name)
            if lane is None:
                if definition.max_concurrent is not None or name in limits:
                    share = self._shares.amount(name, self._engine.clock.monotonic())
                    found[name] = Queue(
                        0, 0, definition.max_concurrent, limits.get(name), share if name in limits else None
                    )
            elif lane.running or lane.queue or lane.limit != UNLIMITED or lane.shared:
                limit = None if lane.limit == UNLIMITED else lane.limit
                found[name] = Queue(
                    lane.running, len(lane.queue), limit, limits.get(name), self._lanes.share(lane)
                )
        return found

    def counts(self) -> dict[str, tuple[int, int]]:
        """For placement, of each activity that the cluster limits: how many run, and how many more would."""
        return self._lanes.counts()

    def share_changed(self) -> None:
        """The cluster lets more run, or limits other activities."""
        self._lanes.share_changed()
        for pool in self._pools:
            self._fill(pool)

    def receive(self, message: Message) -> None:
        """Takes an `ActivityRequest`; acknowledges at once: the workflow actor keeps it durable. Or a `CancelActivity`."""
        if type(message.body) is CancelActivity:
            message.answer(True)
            self._cancel(message.body)
            return
        request: ActivityRequest = message.body
        key = (request.execution_id, request.task_id)
        if self._closing:
            message.answer(Moved("the node is stopping"))
            return
        known = self._known.get(key)
        if known is not None and known.nonce != request.nonce:
            # The store has forgotten that one, and its instance has asked anew.
            message.answer(Unavailable("an earlier request for this task has not ended here"))
            return
        message.answer(True)
        if known is not None:
            return
        self._known[key] = request
        try:
            definition = self._engine.registry.get_activity(request.name)
        except NotRegistered as error:
            self._answer(
                request, None, FailureDetails("ActivityNotRegistered", error.message, non_retriable=True)
            )
            return
        lane = self._lanes.get(request.name)
        if lane is None:
            pool = self._pools[not definition.is_async]
            lane = self._lanes.add(request.name, pool, definition.max_concurrent)
        if self._lanes.enter(lane, request):
            self._start(lane, definition, request)
        else:
            self._queued[key] = lane, lane.taken + len(lane.queue) - 1

    def _start(
        self, lane: Lane[ActivityRequest], definition: ActivityDefinition, request: ActivityRequest
    ) -> None:
        run = self._run_async if definition.is_async else self._run_thread
        tracing = self._engine.tracing
        context = ActivityContext(self._engine.app_id, request)
        self._running[request.execution_id, request.task_id] = context
        if request.attempt is not None or definition.timed:
            self._watch(definition, context)
        context._task = self._engine.clock.spawn(
            run(lane, definition, context)
            if tracing is None
            else tracing.within(request, partial(run, lane, definition, context))
        )

    def _fill(self, pool: Pool[ActivityRequest]) -> None:
        while not self._closing and (found := self._lanes.next(pool)) is not None:
            lane, request = found
            del self._queued[request.execution_id, request.task_id]
            self._start(lane, self._engine.registry.get_activity(request.name), request)

    async def _run_async(
        self, lane: Lane[ActivityRequest], definition: ActivityDefinition, context: ActivityContext
    ) -> None:
        engine, request = self._engine, context._request
        bind(engine.caller)
        SUBJECT.set(context)
        began = engine.clock.monotonic()
        try:
            if definition.takes_input:
                result = await definition.fn(context, definition.decode(request.input))
            else:
                result = await definition.fn(context)
            payload = definition.encode(result)
        except (asyncio.CancelledError, ActivityCancelled) as error:
            self._cancelled(lane, context, error, began)
        except (Exception, LoopBlocked, SystemExit) as error:  # noqa: BLE001 - the user's, whatever it is
            self._failed(lane, context, error, began)
        else:
            engine.monitor.ran[request.name].append(engine.clock.monotonic() - began)
            self._ended(lane, context)
            if not context._reason:
                self._answer(request, payload, None)

    async def _run_thread(
        self, lane: Lane[ActivityRequest], definition: ActivityDefinition, context: ActivityContext
    ) -> None:
        engine, request = self._engine, context._request
        call = partial(_call, definition, context)
        if engine.tracing is not None:
            # With the span of this task, and whatever else OpenTelemetry keeps there.
            call = partial(contextvars.copy_context().run, call)
        began = engine.clock.monotonic()
        try:
            payload = await self._threads.call(call)
        except asyncio.CancelledError as error:
            if self._closing:
                # The thread goes on unheard, and counts: placement is told of it when the node leaves.
                lane.running += 1
            self._cancelled(lane, context, error, began)
        except ActivityCancelled as error:
            self._cancelled(lane, context, error, began)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's, whatever it is
            self._failed(lane, context, error, began)
        else:
            engine.monitor.ran[request.name].append(engine.clock.monotonic() - began)
            self._ended(lane, context)
            if not context._reason:
                self._answer(request, payload, None)

    def _failed(
        self, lane: Lane[ActivityRequest], context: ActivityContext, error: BaseException, began: float
    ) -> None:
        engine, request = self._engine, context._request
        engine.monitor.activity_failed(request.name, engine.clock.monotonic() - began)
        if engine.tracing is not None:
            engine.tracing.failed(error)
        log.info(
            "activity.failed",
            extra=fields(
                instance=request.instance_id, activity=request.name, task=request.task_id, error=repr(error)
            ),
        )
        self._ended(lane, context)
        if not context._reason:
            self._answer(request, None, describe(error), context._details)

    def _cancelled(
        self, lane: Lane[ActivityRequest], context: ActivityContext, error: BaseException, began: float
    ) -> None:
        if self._closing or context._reason:
            # By the node, which is stopping: no answer, so that another run gives it. Or nobody wants one.
            self._ended(lane, context)
        else:
            # By the user's own code: a failure as any other.
            self._failed(lane, context, error, began)

    def _ended(self, lane: Lane[ActivityRequest], context: ActivityContext) -> None:
        request = context._request
        # Another one has its place if it was cancelled and is wanted again by an owner that does not know of that.
        found = self._running.pop((request.execution_id, request.task_id), None)
        if found is not context and found is not None:
            self._running[request.execution_id, request.task_id] = found
        context._task = None
        if context._watch is not None:
            context._watch.stop()
            context._watch = None
        self._lanes.leave(lane)
        if lane.pool.ready:
            self._fill(lane.pool)

    def _answer(
        self,
        request: ActivityRequest,
        result: Payload,
        failure: FailureDetails | None,
        details: Payload = None,
    ) -> None:
        done = ActivityDone(request.execution_id, request.task_id, request.nonce, result, failure, details)
        engine = self._engine

        def answered(_: Any) -> None:
            # Whatever the answer, the workflow actor needs no more of this.
            key = (request.execution_id, request.task_id)
            if self._known.get(key) is request:
                del self._known[key]

        engine.router.send(ActorId(request.actor_type, request.instance_id), "done", done, answered)

    # --- time limits and cancelling ------------------------------------------------------------------------------------

    def _watch(self, definition: ActivityDefinition, context: ActivityContext) -> None:
        """Begins with what the caller says of time limits, or else the activity itself."""
        terms = context._request.attempt or Attempt()
        start_to_close = terms.start_to_close or definition.start_to_close_timeout
        heartbeat = terms.heartbeat or definition.heartbeat_timeout
        if start_to_close or heartbeat:
            expired = partial(self._expired, context)
            context._watch = Watch(self._engine.clock, start_to_close, heartbeat, expired)

    def _expired(self, context: ActivityContext, failure: FailureDetails) -> None:
        request = context._request
        if context._reason or self._closing:
            return
        log.info(
            "activity.timeout",
            extra=fields(
                instance=request.instance_id,
                activity=request.name,
                task=request.task_id,
                reason=failure.message,
            ),
        )
        self._drop(context, failure.message)
        self._answer(request, None, failure, context._details)

    def _cancel(self, body: CancelActivity) -> None:
        """Idempotent. What has ended already gives its answer, which its instance drops."""
        key = (body.execution_id, body.task_id)
        request = self._known.get(key)
        if request is None or request.nonce != body.nonce:
            return
        queued = self._queued.pop(key, None)
        context = self._running.get(key)
        if queued is not None:
            self._lanes.withdraw(queued[0], request)
        elif context is not None and not context._reason:
            self._drop(context, body.reason or "nobody waits for the result any more")
        else:
            return
        del self._known[key]

    def _drop(self, context: ActivityContext, reason: str) -> None:
        """Whatever the function still does, its outcome is nobody's. It counts as running until it has ended."""
        context._reason = reason
        if context._watch is not None:
            context._watch.stop()
        name, task = context._request.name, context._task
        lane = self._lanes.get(name)
        if lane is not None and task is not None and self._engine.registry.get_activity(name).is_async:
            task.add_done_callback(lambda _: self._never_began(lane, context))
            task.cancel()

    def _never_began(self, lane: Lane[ActivityRequest], context: ActivityContext) -> None:
        """A task that is cancelled before its first step does not take it to say that it has ended."""
        request = context._request
        if self._running.get((request.execution_id, request.task_id)) is context:
            self._ended(lane, context)

    # --- stopping ----------------------------------------------------------------------------------------------------

    def stop_starting(self) -> None:
        """Begins nothing any more: what is queued is done by whoever owns its instance next."""
        self._closing = True
        for request in self._lanes.clear():
            self._known.pop((request.execution_id, request.task_id), None)
        self._queued.clear()

    async def close(self) -> None:
        """Cancels what runs on the loop; threads end by themselves, unheard."""
        self.stop_starting()
        tasks = [context._task for context in self._running.values() if context._task is not None]
        for context in self._running.values():
            if not self._engine.registry.get_activity(context._request.name).is_async:
                # All that a thread can be told.
                context._reason = context._reason or "the node is stopping"
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        left = self._threads.close()
        if left:
            log.warning("activities.left", extra=fields(threads=left))


def _call(definition: ActivityDefinition, context: ActivityContext) -> Payload:
    token = SUBJECT.set(context)
    try:
        if definition.takes_input:
            result = definition.fn(context, definition.decode(context._request.input))
        else:
            result = definition.fn(context)
    except StopIteration as error:
        # A future cannot hold it: the activity would never end.
        raise RuntimeError("the activity raised StopIteration") from error
    finally:
        SUBJECT.reset(token)
    return definition.encode(result)
