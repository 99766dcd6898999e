"""Sends what workflow actors ask for, and remembers what is out, also for instances that have left memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.actors.messages import Answer, Identity, nobody
from perdure.errors import AlreadyExists, Moved, PerdureError, Unavailable
from perdure.logs import fields
from perdure.placement.hashing import partition_of
from perdure.spelling import instead_of
from perdure.statestore.contract import ActorId, TypePartition
from perdure.workflow.events import ChildScheduled, FailureDetails, Parent, TaskScheduled
from perdure.workflow.metadata import Metadata
from perdure.workflow.requests import (
    ActivityDone,
    ActivityRequest,
    CancelActivity,
    ChildDone,
    Outgoing,
    Start,
)
from perdure.workflow.stall import Purged
from perdure.workflow.whereabouts import Whereabouts

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

log = logging.getLogger("perdure.workflow")

#: Seconds between two looks at requests that are out for long, and how long that is.
LOOK = 10.0
#: Of how many requests a node is asked at a time: the others are asked about at the next look.
ASKED_LIMIT = 5_000
#: Seconds between tries of a node that does not take a request: the first, and all others.
RETRY_FIRST = 0.02
RETRY = 0.25
#: Tries after which another node gets a request that this one may have.
PATIENCE = 8
#: Seconds after which the status of an instance says that there is no node for what it asked for.
SHOW_AFTER = 1.0
#: Seconds for which is remembered what other nodes know.
FORGET_AFTER = 60.0
#: Seconds that nodes of the app must be present without one that has the name, before a request fails.
UNREGISTERED_GRACE = 30.0


class Task(NamedTuple):
    """One task of one execution."""

    actor: ActorId
    execution_id: str
    task_id: int


class Out:
    """An activity request that is not settled: with which node it is, and since when."""

    __slots__ = (
        "cancelled",
        "failures",
        "lost",
        "missed",
        "near",
        "node",
        "request",
        "shown",
        "since",
        "unregistered_since",
    )

    def __init__(self, request: ActivityRequest, now: float, near: bool) -> None:
        self.request = request
        #: It goes to this node, if it can. Of all that an instance has asked for, one runs beside it: nothing need cross
        #: a link for a chain of them. The others are spread, as those of one instance may be many. Decided once: what
        #: is sent again joins what may be there already.
        self.near = near
        #: The incarnation that acknowledged it; empty: none yet.
        self.node = ""
        #: Since when it is with that node, or on its way to one, as far as anybody said.
        self.since = now
        #: Tries in a row of a node that may have taken it.
        self.failures = 0
        #: The node that had it is gone: it goes out again when its instance says so.
        self.lost = False
        self.unregistered_since: float | None = None
        #: Nodes that did not take it in this round of tries, or cannot be reached.
        self.missed: tuple[str, ...] = ()
        #: Why nobody wants it any more; None: somebody does.
        self.cancelled: str | None = None
        #: The instance's status says that it waits.
        self.shown = False


class Starting:
    """The start of a child in another app that is not acknowledged."""

    __slots__ = ("app", "shown")

    def __init__(self, app: str) -> None:
        self.app = app
        #: The parent's status says that it waits.
        self.shown = False


class Dispatcher:
    """One per node and app. What it remembers can be derived from the store, and from what nodes know, again: it only
    saves sending twice."""

    def __init__(self, engine: WorkflowEngine, whereabouts: Whereabouts) -> None:
        self._engine = engine
        self._whereabouts = whereabouts
        self._out: dict[Task, Out] = {}
        self._children: set[Task] = set()
        #: How many requests each actor has out.
        self._actors: dict[ActorId, int] = {}
        #: What was found with other nodes when a partition came here, until its instance wants it.
        self._elsewhere: dict[Task, str] = {}
        #: Partitions of which others are being asked what they know.
        self._asking: set[TypePartition] = set()
        #: Per instance, its requests for which there is no node now.
        self._waiting: dict[ActorId, dict[Task, Out]] = {}
        #: Per instance, starts of its children in other apps that are not acknowledged.
        self._starting: dict[ActorId, dict[Task, Starting]] = {}
        self._ticking = False
        #: Per instance, its requests whose nodes are gone: each may be what ended its node.
        self.lost: dict[ActorId, dict[Task, Out]] = {}
        #: Instances whose status is to say something else about what they wait for.
        self.news: dict[ActorId, None] = {}
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
            task.attempt,
        )

    def dispatch(self, actor: ActorId, meta: Metadata, task: TaskScheduled) -> None:
        """Sends the request of an unresolved task, unless it is out already."""
        self.dispatch_request(self.request(actor, meta, task))

    def dispatch_request(self, request: ActivityRequest) -> None:
        task = Task(ActorId(request.actor_type, request.instance_id), request.execution_id, request.task_id)
        if task in self._out:
            return
        count = self._actors[task.actor] = self._actors.get(task.actor, 0) + 1
        out = self._out[task] = Out(request, self._engine.clock.monotonic(), count == 1)
        node = self._elsewhere.pop(task, None) if self._elsewhere else None
        if node is not None and self._engine.locator.present(node):
            out.node = node
        else:
            self._send(task, out)

    def out(self, actor: ActorId, execution_id: str, task_id: int) -> bool:
        """Whether this process has sent the request, or knows who has it, and knows no durable answer."""
        task = Task(actor, execution_id, task_id)
        return task in self._out or task in self._elsewhere

    def where(self, actor: ActorId, execution_id: str, task_id: int) -> str:
        """The node that acknowledged the request; empty: none is known here."""
        out = self._out.get(Task(actor, execution_id, task_id))
        return out.node if out is not None else ""

    def settled(self, actor: ActorId, execution_id: str, task_id: int) -> None:
        """The answer is durable, or nobody wants it any more."""
        task = Task(actor, execution_id, task_id)
        out = self._out.pop(task, None)
        if self._elsewhere:
            self._elsewhere.pop(task, None)
        if out is None:
            return
        count = self._actors[actor] - 1
        if count > 0:
            self._actors[actor] = count
        else:
            del self._actors[actor]
        if self._waiting:
            self._wait_no_more(task)
        if out.lost:
            self._lost_no_more(task)
        if out.shown:
            self._tell(actor)

    def cancel(self, request: ActivityRequest, reason: str) -> None:
        """Nobody wants its answer any more: it is settled, and the node that has it is told to let it come to an end. If
        that node or this one dies at this moment it may run on, and what it answers is dropped."""
        actor = ActorId(request.actor_type, request.instance_id)
        task = Task(actor, request.execution_id, request.task_id)
        out = self._out.get(task)
        node: str | None = out.node if out is not None else self._elsewhere.get(task, "")
        if out is not None and not node and not out.lost:
            # Whoever is taking it just now is told when it has.
            out.cancelled = reason
        self.settled(*task)
        if out is None and not node:
            # Its former owner sent it there, most likely.
            app = request.app_id or self._engine.app_id
            node = self._engine.locator.activity_node(app, request.name, request.activity_id)
        if node:
            self._send_cancel(node, request, reason)

    def _send_cancel(self, node: str, request: ActivityRequest, reason: str, tries: int = 0) -> None:
        engine = self._engine
        body = CancelActivity(request.execution_id, request.task_id, request.nonce, reason)

        def answered(answer: Any) -> None:
            if not isinstance(answer, Unavailable) or tries >= PATIENCE or engine.router.closed:
                return
            if engine.locator.present(node):
                engine.clock.call_later(RETRY, self._send_cancel, node, request, reason, tries + 1)

        target = ActorId(engine.activity_type(request.app_id), request.activity_id)
        engine.router.send_to(node, target, "cancel", body, answered)

    def _send(self, task: Task, out: Out) -> None:
        request = out.request
        engine = self._engine
        kind = engine.activity_type(request.app_id)
        near = engine.router.node if out.near else ""
        node = engine.locator.activity_node(
            request.app_id or engine.app_id, request.name, request.activity_id, out.missed, near
        )
        if node is None and out.missed:
            # None of them all: begin again with the first.
            out.missed = ()
            engine.clock.call_later(RETRY, self._retry, task, out)
            return
        if node is None:
            self._nobody(task, out)
            return
        out.unregistered_since = None

        def answered(answer: Any) -> None:
            if isinstance(answer, Unavailable):
                self._not_taken(task, out, node, answer)
                return
            if out.cancelled is not None:
                self._send_cancel(node, request, out.cancelled)
                return
            out.node, out.missed, out.failures = node, (), 0
            if out.shown:
                out.shown = False
                self._tell(task.actor)
            if node != engine.router.node and not engine.locator.present(node):
                # It comes late: the table that said so has been here already.
                self.table_changed()

        engine.router.send_to(node, ActorId(kind, request.activity_id), "run", request, answered)

    def _not_taken(self, task: Task, out: Out, node: str, answer: Unavailable) -> None:
        clock = self._engine.clock
        if isinstance(answer, Moved):
            # A node that stops, or has just died, is in the table for a while yet; the next one is as good.
            out.missed, out.failures = (*out.missed, node), 0
            clock.call_soon(self._retry, task, out)
            return
        # It may have taken it, and joins another try to that. But it is not waited for without end.
        out.failures += 1
        if out.failures >= PATIENCE:
            out.missed, out.failures = (*out.missed, node), 0
        clock.call_later(RETRY if out.failures > 1 else RETRY_FIRST, self._retry, task, out)

    def _retry(self, task: Task, out: Out) -> None:
        if self._out.get(task) is out and not (out.node or out.lost or self._engine.router.closed):
            self._send(task, out)

    # --- where no node can take it -------------------------------------------------------------------------------------

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
            self._waiting.setdefault(task.actor, {})[task] = out
            self._tick_soon()

    def _wait_no_more(self, task: Task) -> None:
        waiting = self._waiting.get(task.actor)
        if waiting is not None and waiting.pop(task, None) is not None and not waiting:
            del self._waiting[task.actor]

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for requests in waiting.values():
            for task, out in requests.items():
                self._retry(task, out)

    def _tick_soon(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._engine.clock.call_later(SHOW_AFTER, self._tick)

    def _tick(self) -> None:
        """Looks after those for which there is no node."""
        self._ticking = False
        engine = self._engine
        if engine.router.closed:
            return
        self._send_waiting()
        now = engine.clock.monotonic()
        for actor, requests in list(self._waiting.items()):
            new = [out for out in requests.values() if not out.shown and now - out.since >= SHOW_AFTER]
            for out in new:
                out.shown = True
            if new:
                self._tell(actor)
        for actor, starts in list(self._starting.items()):
            absent = [
                one for one in starts.values() if not one.shown and not engine.locator.app_present(one.app)
            ]
            for one in absent:
                one.shown = True
            if absent:
                self._tell(actor)
        if self._waiting or self._starting:
            self._tick_soon()

    def _not_registered(self, request: ActivityRequest) -> None:
        app = request.app_id or self._engine.app_id
        instead = instead_of(request.name, self._engine.locator.activities(app))
        failure = FailureDetails(
            "ActivityNotRegistered",
            f"activity {request.name!r} is not registered in app {app!r}; {instead}",
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

    def waiting(self, actor: ActorId) -> str:
        """For which nodes this instance waits, for people; empty: for none."""
        engine = self._engine
        found = set()
        for out in self._waiting.get(actor, {}).values():
            app = out.request.app_id or engine.app_id
            if out.shown:
                here = engine.locator.app_present(app)
                name = f"activity {out.request.name!r} of app {app!r}" if here else f"app {app!r}"
                found.add(f"waiting for {name}")
        for one in self._starting.get(actor, {}).values():
            if one.shown:
                found.add(f"waiting for app {one.app!r}")
        return "; ".join(sorted(found))

    def waits(self, actor: ActorId) -> None:
        """The status of this instance says that it waits, by its last owner. Looks again when this one knows."""
        self._engine.clock.call_later(2 * SHOW_AFTER, self._tell, actor)

    def _tell(self, actor: ActorId) -> None:
        """What the status of the instance says is to be looked at."""
        self.news[actor] = None
        self._engine.host.wake(actor)

    # --- what nodes know -----------------------------------------------------------------------------------------------

    def table_changed(self, retired: Collection[str] = ()) -> None:
        """What is with a node that is gone is sent again, and what a node has come for goes out. `retired`: those that
        have gone in good order. Any other may have ended by what it ran: its instance first counts that."""
        present = self._engine.locator.present
        for task, out in list(self._out.items()):
            if not out.node or present(out.node):
                continue
            if out.node in retired:
                self._again(task, out)
            else:
                out.node, out.lost = "", True
                self.lost.setdefault(task.actor, {})[task] = out
        for actor in list(self.lost):
            self._engine.host.wake(actor)
        self._send_waiting()

    def send_lost(self, tasks: Iterable[Task]) -> None:
        """Sends again what was with a node that is gone: that has been counted."""
        for task in tasks:
            out = self._out.get(task)
            if out is not None and out.lost:
                self._lost_no_more(task)
                self._again(task, out)

    def _lost_no_more(self, task: Task) -> None:
        lost = self.lost.get(task.actor, {})
        out = lost.pop(task, None)
        if out is not None:
            out.lost = False
        if not lost:
            self.lost.pop(task.actor, None)

    def look(self) -> None:
        """Asks the nodes that have had requests for long whether they still know them."""
        now = self._engine.clock.monotonic()
        long: dict[str, list[ActivityRequest]] = {}
        for out in self._out.values():
            if out.node and now - out.since >= LOOK:
                asked = long.setdefault(out.node, [])
                if len(asked) < ASKED_LIMIT:
                    asked.append(out.request)
        for node, requests in long.items():
            self._engine.clock.spawn(self._ask(node, requests))

    async def _ask(self, node: str, requests: list[ActivityRequest]) -> None:
        now = self._engine.clock.monotonic()
        unknown = {id(request) for request in await self._whereabouts.unknown(node, requests)}
        for request in requests:
            task = Task(
                ActorId(request.actor_type, request.instance_id), request.execution_id, request.task_id
            )
            out = self._out.get(task)
            if out is None or out.request is not request or out.node != node or out.since > now:
                continue  # settled, or sent again meanwhile
            if id(request) in unknown:
                self._again(task, out)
            else:
                out.since = now

    def _again(self, task: Task, out: Out) -> None:
        log.warning(
            "activity.sent_again",
            extra=fields(instance=task.actor.id, task=task.task_id, activity=out.request.name),
        )
        self._engine.monitor.sent_again(out.request.name)
        out.node, out.since = "", self._engine.clock.monotonic()
        self._send(task, out)

    def known(self, actor: ActorId) -> bool:
        """Whether it is known what of this actor's requests is out elsewhere: until then none is sent again."""
        if not self._asking:
            return True
        partition = partition_of(actor.id, self._engine.host.partitions)
        return TypePartition(actor.type, partition) not in self._asking

    def taken(self, keys: Sequence[TypePartition]) -> None:
        """Partitions came here. What their instances have asked for may be under way on any node: all are asked
        before any of it is sent again."""
        mine = [key for key in keys if key.type == self._engine.name]
        if mine:
            self._asking.update(mine)
            self._engine.clock.spawn(self._ask_all(mine))

    async def _ask_all(self, keys: list[TypePartition]) -> None:
        found = await self._whereabouts.of(keys)
        engine = self._engine
        owned = engine.host.owned
        for request, node in found:
            partition = partition_of(request.instance_id, engine.host.partitions)
            task = Task(request.actor, request.execution_id, request.task_id)
            if TypePartition(request.type, partition) in owned and task not in self._out:
                self._elsewhere[task] = node
        if self._elsewhere:
            # What no instance wants by then is what it has no use for.
            engine.clock.call_later(
                FORGET_AFTER, self._forget, {task: self._elsewhere[task] for task in self._elsewhere}
            )
        self._asking.difference_update(keys)
        partitions = {key.partition for key in keys}
        for actor, activation in list(engine.host.activations.items()):
            if actor.type == engine.name and activation.partition in partitions:
                activation.wake()

    def _forget(self, tasks: Mapping[Task, str]) -> None:
        for task, node in tasks.items():
            if self._elsewhere.get(task) == node:
                del self._elsewhere[task]

    def disowned(self, lost: Callable[[ActorId], bool]) -> None:
        """Other nodes own these actors now, and know better what of theirs is out."""
        for actor in [actor for actor in self._actors if lost(actor)]:
            del self._actors[actor]
        for task in [task for task in self._out if task.actor not in self._actors]:
            del self._out[task]
        self._children = {task for task in self._children if not lost(task.actor)}
        self._elsewhere = {task: node for task, node in self._elsewhere.items() if not lost(task.actor)}
        self.lost = {actor: requests for actor, requests in self.lost.items() if not lost(actor)}
        self._waiting = {actor: requests for actor, requests in self._waiting.items() if not lost(actor)}
        self._starting = {actor: starts for actor, starts in self._starting.items() if not lost(actor)}
        self.news = {actor: None for actor in self.news if not lost(actor)}

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
        if task.app_id and task.app_id != engine.app_id:
            self._starting.setdefault(actor, {})[Task(actor, execution_id, task.id)] = Starting(task.app_id)
            self._tick_soon()

        def answered(answer: Any) -> None:
            self._no_more_starting(actor, execution_id, task.id)
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
        self._no_more_starting(actor, execution_id, task_id)

    def _no_more_starting(self, actor: ActorId, execution_id: str, task_id: int) -> None:
        starts = self._starting.get(actor) if self._starting else None
        one = starts.pop(Task(actor, execution_id, task_id), None) if starts else None
        if one is None:
            return
        if not starts:
            del self._starting[actor]
        if one.shown:
            self._tell(actor)

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
