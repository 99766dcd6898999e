"""Sends what workflow actors ask for, and remembers what is out, also for instances that have left memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.actors.messages import Answer, Identity, nobody
from perdure.errors import AlreadyExists, Moved, PerdureError, Unavailable
from perdure.logs import fields
from perdure.statestore.contract import ActorId
from perdure.workflow.events import ChildScheduled, FailureDetails, Parent, TaskScheduled
from perdure.workflow.metadata import Metadata
from perdure.workflow.requests import ActivityDone, ActivityRequest, ChildDone, Outgoing, Start
from perdure.workflow.stall import Purged

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

log = logging.getLogger("perdure.workflow")

#: Seconds between two looks at requests that nobody could take, or that are out for long.
LOOK = 10.0
#: Seconds between tries while no node can take a request.
RETRY = 0.25
#: Seconds that nodes of the app must be present without one that has the name, before a request fails.
UNREGISTERED_GRACE = 30.0


class Task(NamedTuple):
    """One task of one execution."""

    actor: ActorId
    execution_id: str
    task_id: int


class Out:
    """An activity request that is not settled: with which node it is, and since when."""

    __slots__ = ("missed", "node", "request", "since", "unregistered_since")

    def __init__(self, request: ActivityRequest, now: float) -> None:
        self.request = request
        #: The incarnation that acknowledged it; empty: none yet.
        self.node = ""
        self.since = now
        self.unregistered_since: float | None = None
        #: Nodes that surely did not take it in this round of tries.
        self.missed: tuple[str, ...] = ()


class Dispatcher:
    """One per node and app. What it remembers can be derived from the store again: it only saves sending twice."""

    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine
        self._out: dict[Task, Out] = {}
        self._children: set[Task] = set()
        #: How many requests each actor has out.
        self._actors: Counter[ActorId] = Counter()
        #: Seconds; 0 where no other node can come.
        self.unregistered_grace = UNREGISTERED_GRACE

    # --- activities --------------------------------------------------------------------------------------------------

    def activity_type(self, app_id: str) -> str:
        return self._engine.activity_type(app_id)

    def request(self, actor: ActorId, meta: Metadata, task: TaskScheduled) -> ActivityRequest:
        return ActivityRequest(
            actor.type,
            actor.id,
            meta.name,
            meta.execution_id,
            meta.generation,
            task.id,
            task.nonce,
            task.name,
            task.key,
            task.input,
            task.app_id,
            task.trace,
        )

    def dispatch(self, actor: ActorId, meta: Metadata, task: TaskScheduled) -> None:
        """Sends the request of an unresolved task, unless it is out already."""
        self.dispatch_request(self.request(actor, meta, task))

    def dispatch_request(self, request: ActivityRequest) -> None:
        task = Task(ActorId(request.actor_type, request.instance_id), request.execution_id, request.task_id)
        if task in self._out:
            return
        out = self._out[task] = Out(request, self._engine.clock.monotonic())
        self._actors[task.actor] += 1
        self._send(task, out)

    def out(self, actor: ActorId, execution_id: str, task_id: int) -> bool:
        """Whether this process has sent the request and knows no durable answer."""
        return Task(actor, execution_id, task_id) in self._out

    def where(self, actor: ActorId, execution_id: str, task_id: int) -> str:
        """The node that acknowledged the request; empty: none is known here."""
        out = self._out.get(Task(actor, execution_id, task_id))
        return out.node if out is not None else ""

    def settled(self, actor: ActorId, execution_id: str, task_id: int) -> None:
        """The answer is durable, or nobody wants it any more."""
        if self._out.pop(Task(actor, execution_id, task_id), None) is None:
            return
        self._actors[actor] -= 1
        if self._actors[actor] <= 0:
            del self._actors[actor]

    def _send(self, task: Task, out: Out) -> None:
        request = out.request
        engine = self._engine
        kind = engine.activity_type(request.app_id)
        node = engine.locator.activity_node(
            request.app_id or engine.app_id, request.name, request.activity_id, out.missed
        )
        if node is None and out.missed:
            # None of them all: begin again with the first.
            out.missed = ()
            engine.clock.call_later(RETRY, self._retry, task)
            return
        if node is None:
            self._nobody(task, out)
            return
        out.unregistered_since = None

        def answered(answer: Any) -> None:
            if isinstance(answer, Moved):
                # A node that has just died is in the table for a while yet; the next one is as good.
                out.missed = (*out.missed, node)
                engine.clock.call_soon(self._retry, task)
            elif isinstance(answer, Unavailable):
                engine.clock.call_later(RETRY, self._retry, task)
            else:
                out.node, out.missed = node, ()

        engine.router.send_to(node, ActorId(kind, request.activity_id), "run", request, answered)

    def _retry(self, task: Task) -> None:
        out = self._out.get(task)
        if out is not None and not out.node and not self._engine.router.closed:
            self._send(task, out)

    def _nobody(self, task: Task, out: Out) -> None:
        """No node has registered the name now."""
        engine = self._engine
        now = engine.clock.monotonic()
        app = out.request.app_id or engine.app_id
        if not engine.locator.app_present(app):
            out.unregistered_since = None
        elif out.unregistered_since is None:
            out.unregistered_since = now
        since = out.unregistered_since
        if since is not None and now - since >= self.unregistered_grace:
            self._not_registered(out.request)
        else:
            engine.clock.call_later(RETRY, self._retry, task)

    def _not_registered(self, request: ActivityRequest) -> None:
        known = ", ".join(sorted(self._engine.registry.activities)) or "none"
        failure = FailureDetails(
            "ActivityNotRegistered",
            f"activity {request.name!r} is not registered; registered are: {known}",
            non_retriable=True,
        )
        done = ActivityDone(request.execution_id, request.task_id, request.nonce, None, failure)
        self._engine.router.send(
            ActorId(request.actor_type, request.instance_id), "done", done, self.answer_for(request)
        )

    def answer_for(self, request: ActivityRequest) -> Answer:
        """The answer to an `ActivityDone`: the instance has it."""

        def answered(_: Any) -> None:
            self.settled(
                ActorId(request.actor_type, request.instance_id), request.execution_id, request.task_id
            )

        return answered

    def waiting(self, actor: ActorId) -> list[str]:
        """What of this actor's requests no node has taken, for people."""
        return [
            f"waiting for activity {out.request.name!r} of app {out.request.app_id or self._engine.app_id!r}"
            for task, out in self._out.items()
            if task.actor == actor and not out.node
        ]

    def check(self) -> None:
        """Sends again what is with a node that is gone, or that does not know it. Called every `LOOK` seconds, and
        when a table changes."""
        engine = self._engine
        now = engine.clock.monotonic()
        for task, out in list(self._out.items()):
            if not out.node:
                continue
            lost = not engine.locator.present(out.node)
            if out.node == engine.node and now - out.since >= LOOK:
                lost = lost or not engine.activities.knows(task.execution_id, task.task_id)
            if lost:
                log.warning(
                    "activity.sent_again",
                    extra=fields(instance=task.actor.id, task=task.task_id, activity=out.request.name),
                )
                out.node, out.since = "", now
                self._send(task, out)

    def disowned(self, lost: Callable[[ActorId], bool]) -> None:
        """Other nodes own these actors now, and know better what of theirs is out."""
        for actor in [actor for actor in self._actors if lost(actor)]:
            del self._actors[actor]
        for task in [task for task in self._out if task.actor not in self._actors]:
            del self._out[task]
        self._children = {task for task in self._children if not lost(task.actor)}

    def accounted(self, actor: ActorId) -> bool:
        """Whether a request of this instance is with a node: what it owes is under way, also when it is not in
        memory. A child that it waits for does not count: asking the child again is cheap."""
        return actor in self._actors

    # --- children ----------------------------------------------------------------------------------------------------

    def child_start(self, actor: ActorId, meta: Metadata, task: ChildScheduled) -> Start:
        parent = Parent(actor.type, actor.id, meta.name, meta.execution_id, task.id, task.nonce)
        return Start(task.name, task.start_id, task.input, parent, trace=task.trace)

    def start_child(self, actor: ActorId, meta: Metadata, task: ChildScheduled) -> None:
        """Sends the start of a child until it is taken or refused."""
        engine = self._engine
        target = ActorId(engine.workflow_type(task.app_id), task.instance_id)
        execution_id = meta.execution_id

        def answered(answer: Any) -> None:
            if isinstance(answer, Unavailable):
                return  # the node stops: the next owner sends it
            if not isinstance(answer, PerdureError):
                self._children.add(Task(actor, execution_id, task.id))
                return
            failure = _child_failure(task, answer)
            done = ChildDone(execution_id, task.id, task.nonce, None, failure)
            engine.router.send(actor, "child", done)

        engine.router.send(target, "start", self.child_start(actor, meta, task), answered)

    def child_started(self, actor: ActorId, execution_id: str, task_id: int) -> bool:
        """Whether this node knows that the child took its start."""
        return Task(actor, execution_id, task_id) in self._children

    def child_settled(self, actor: ActorId, execution_id: str, task_id: int) -> None:
        self._children.discard(Task(actor, execution_id, task_id))

    # --- outbox ------------------------------------------------------------------------------------------------------

    def send(
        self, entry: Outgoing, identity: Identity | None, answer: Callable[[Any], None] = nobody
    ) -> None:
        method = type(entry.body).__name__.lower()
        self._engine.router.send(ActorId(entry.type, entry.id), method, entry.body, answer, identity=identity)


def _child_failure(task: ChildScheduled, error: PerdureError) -> FailureDetails:
    if isinstance(error, AlreadyExists):
        return FailureDetails("WorkflowInstanceAlreadyExists", error.message)
    if isinstance(error, Purged):
        return FailureDetails(
            "Purged", f"child workflow {task.instance_id!r} was purged before it could answer"
        )
    return FailureDetails(type(error).__name__, error.message)
