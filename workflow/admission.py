"""Which instances may start, where only so many of a workflow, or of all, may be under way at a time.

An instance is under way from its start until it has ended, whatever it waits for meanwhile. What may not start yet
stays PENDING, and starts in the order of creation.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import StoreError
from perdure.logs import fields
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, InstanceFilter, InstanceRow, TypePartition
from perdure.workflow.limits import Queue
from perdure.workflow.metadata import PURGED, Metadata
from perdure.workflow.registry import WorkflowDefinition
from perdure.workflow.requests import Acquire
from perdure.workflow.state import Details, RuntimeStatus

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

log = logging.getLogger("perdure.workflow")

#: Seconds between tries of a store that gives no answer.
RETRY = 0.25
#: Rows read at a time.
PAGE = 1000
_ACTIVE = tuple(status for status in RuntimeStatus if not status.finished)
_details = msgspec.msgpack.Decoder(Details).decode


#: Seconds after which the cluster is asked again for a slot that it refused.
AGAIN = 1.0

QUEUED, ASKING, READY, ADMITTED, GONE = range(5)


class _Entry:
    """One instance that waits, or is under way. `stage`: see `Admission`."""

    __slots__ = ("actor", "ask", "created", "line", "stage", "start_id", "whole")

    def __init__(self, actor: ActorId, start_id: str, created: int, line: _Line, whole: bool) -> None:
        self.actor = actor
        #: Empty for one that is known by its row only.
        self.start_id = start_id
        self.created = created
        #: See `Metadata.slot`.
        self.ask = 0
        self.line = line
        #: Whether the limit of all workflows is for it, too.
        self.whole = whole
        self.stage = QUEUED

    def __lt__(self, other: _Entry) -> bool:
        return (self.created, self.actor.id) < (other.created, other.actor.id)


class _Line:
    """One workflow on this node."""

    __slots__ = (
        "asking",
        "inside",
        "limit",
        "name",
        "queue",
        "queued",
        "ready",
        "spread",
        "waiting",
        "warned",
        "youngest",
    )

    def __init__(self, name: str, limit: int | None = None, spread: int | None = None) -> None:
        self.name = name
        #: How many on this node, and in the cluster.
        self.limit = limit
        self.spread = spread
        #: Those past the queue, and those of them that have no slot yet.
        self.inside = 0
        self.asking = 0
        #: When the youngest that has asked was created.
        self.youngest = 0
        #: The oldest first, as in `ready`: those that may start but for the limit of all workflows. Who is gone stays
        #: until it comes up.
        self.queue: list[_Entry] = []
        self.ready: list[_Entry] = []
        #: Of `queue`, and of both.
        self.queued = 0
        self.waiting = 0
        self.warned = False

    @property
    def limited(self) -> bool:
        return self.limit is not None or self.spread is not None


class Admission:
    """One per node and app, if workflows are limited there. What it knows can be derived from the store again.

    An instance first waits in the queue of its workflow for the limit of this node (QUEUED), then for a slot of the
    cluster (ASKING), then for the limit of all workflows of this node (READY); at each stage it keeps what it has
    got. In this order because whoever waits then holds up only others of the same workflow.

    A child does not count among all workflows: it is a part of what waits for it.

    INVARIANT: a limit of this node admits nothing before all of the node's partitions have been looked through for
    what started there earlier, on whichever node.
    """

    def __init__(
        self, engine: WorkflowEngine, definitions: Iterable[WorkflowDefinition], total: int | None
    ) -> None:
        """`total`: how many instances may be under way on this node, of all workflows."""
        self._engine = engine
        self._total = total
        self._lines: dict[str, _Line] = {}
        for one in definitions:
            if one.max_concurrent is not None or one.global_max_concurrent is not None:
                self._lines[one.name] = _Line(one.name, one.max_concurrent, one.global_max_concurrent)
        self._inside = 0
        self._entries: dict[ActorId, _Entry] = {}
        #: Lines with somebody in `ready`, in turn.
        self._turns: deque[_Line] = deque()
        #: Partitions that have not been looked through, each with the number of its taking; only where that matters.
        self._unknown: dict[TypePartition, int] = {}
        self._takings = 0
        self._local = total is not None or any(line.limit is not None for line in self._lines.values())
        self._looking = False
        #: What has ended while that was done: what was read of it is old.
        self._ended: set[ActorId] = set()

    # --- what instances say ------------------------------------------------------------------------------------------

    def admit(self, actor: ActorId, meta: Metadata, *, stored: bool) -> bool:
        """Whether an instance that has not started may start; if not, it waits, and is woken when it may. `stored`:
        its row is durable. Idempotent."""
        entry = self._entries.get(actor)
        if entry is not None and entry.start_id not in ("", meta.start_id):
            # Its id is used again: the turn that ended the former instance made this one, too.
            self.ended(actor)
            entry = None
        if entry is None:
            entry = self._entry(actor, meta.name, meta.start_id, meta.created, child=meta.parent is not None)
            if entry is None:
                return True
            if entry.line.spread is not None and not stored:
                # Whether a slot is still needed is seen by the row.
                return False
            if self._key(actor) not in self._engine.host.owned:
                return False
            entry.ask = meta.slot
            if meta.parent is not None and meta.parent.name == meta.name and entry.line.limited:
                self._warn(entry)
            self._enqueue(entry)
        elif not entry.start_id:
            entry.start_id, entry.ask = meta.start_id, meta.slot
            if entry.stage == ASKING:
                self._ask(entry)
        return entry.stage == ADMITTED

    def _warn(self, entry: _Entry) -> None:
        """Once for each workflow."""
        if not entry.line.warned:
            entry.line.warned = True
            log.warning(
                "workflow.limits_its_own_child",
                extra=fields(
                    workflow=entry.line.name,
                    instance=entry.actor.id,
                    reason="it counts beside its parent: when parents have all places, no child ever starts",
                ),
            )

    def settle(self, actor: ActorId, meta: Metadata | None) -> None:
        """What the store now says of an instance; None: there is none. Idempotent."""
        if meta is None or meta.completed or meta.status == PURGED:
            self.ended(actor)
        elif meta.started:
            self._started(actor, meta)
        elif meta.status in (RuntimeStatus.SUSPENDED, RuntimeStatus.STALLED):
            # It does not want to start before somebody resumes it.
            self.ended(actor)

    def _started(self, actor: ActorId, meta: Metadata) -> None:
        entry = self._entries.get(actor)
        if entry is not None and entry.stage != ADMITTED:
            self.ended(actor)
            entry = None
        if entry is None:
            entry = self._entry(actor, meta.name, meta.start_id, meta.created, child=meta.parent is not None)
            if entry is not None and self._key(actor) in self._engine.host.owned:
                self._hold(entry)
        else:
            entry.start_id = meta.start_id

    def granted(self, actor: ActorId) -> None:
        """An instance that has not started has a slot of the cluster: it need not wait for those that have none. They
        would wait for it, should its last owner have asked for it when they could not. Idempotent."""
        entry = self._entries.get(actor)
        if entry is None or entry.stage != QUEUED:
            return
        line = entry.line
        if line.limit is not None and (self._unknown or line.inside >= line.limit):
            asking = [
                other for other in self._entries.values() if other.line is line and other.stage == ASKING
            ]
            if self._unknown or not asking:
                # Those that are under way on this node make room when they end.
                return
            last = max(asking)
            last.stage = QUEUED
            line.asking -= 1
            line.inside -= 1
            line.queued += 1
            heapq.heappush(line.queue, last)
        # What is left of it in the queue is passed over.
        line.queued -= 1
        self._begin_to_ask(entry)

    def ended(self, actor: ActorId) -> None:
        """An instance does not count any more, nor does it wait. Idempotent."""
        if self._looking:
            self._ended.add(actor)
        entry = self._entries.pop(actor, None)
        if entry is None:
            return
        line = entry.line
        stage, entry.stage = entry.stage, GONE
        if stage != ADMITTED:
            line.waiting -= 1
        elif entry.whole:
            self._inside -= 1
        if stage == QUEUED:
            line.queued -= 1
        else:
            line.inside -= 1
        if stage == ASKING:
            line.asking -= 1
        self._advance(line)
        self._fill()

    # --- what others want to know ------------------------------------------------------------------------------------

    def spread(self, meta: Metadata) -> bool:
        """Whether an instance needs a slot of the cluster."""
        line = self._lines.get(meta.name)
        return line is not None and line.spread is not None

    def reason(self, name: str) -> str:
        """Why an instance waits, for people."""
        line = self._lines.get(name)
        many = "instances are under way at a time"
        if line is not None and line.spread is not None:
            return f"waiting: at most {line.spread} of its {many}"
        if line is not None and line.limit is not None:
            return f"waiting: at most {line.limit} of its {many} on one node"
        return f"waiting: at most {self._total} workflow {many} on one node"

    def waits(self, actor: ActorId) -> bool:
        """Whether an instance waits here, so that what it owes is accounted for."""
        entry = self._entries.get(actor)
        return entry is not None and entry.stage != ADMITTED

    def queues(self) -> dict[str, Queue]:
        """Of each workflow that is limited or waits; of all of this node, if these are, as `*`."""
        found = {
            line.name: Queue(sum_of(line), line.waiting, line.limit, line.spread)
            for line in self._lines.values()
            if line.limited or line.waiting
        }
        if self._total is not None:
            waiting = sum(line.waiting for line in self._lines.values())
            found["*"] = Queue(self._inside, waiting, self._total)
        return found

    # --- partitions --------------------------------------------------------------------------------------------------

    def owned(self, key: TypePartition) -> None:
        """This node has taken a partition."""
        if self._local and key.type == self._engine.name:
            self._takings += 1
            self._unknown[key] = self._takings
            if not self._looking:
                self._looking = True
                self._engine.clock.spawn(self._look(), name="admission-look")

    def disowned(self, lost: Callable[[ActorId], bool]) -> None:
        """Other nodes own these actors now."""
        for key in self._unknown.keys() - self._engine.host.owned.keys():
            del self._unknown[key]
        for actor in [actor for actor in self._entries if lost(actor)]:
            self.ended(actor)

    async def _look(self) -> None:
        """Finds what has started, and what waits, in partitions that are new here."""
        names: list[str | None] = [line.name for line in self._lines.values() if line.limit is not None]
        if self._total is not None:
            names = [None]
        while self._unknown and not self._engine.router.closed:
            taken = dict(self._unknown)
            self._ended.clear()
            try:
                for name in names:
                    await self._look_for(name, taken)
            except StoreError as error:
                log.warning("admission.look_failed", extra=fields(reason=error))
                await self._engine.clock.sleep(RETRY)
                continue
            for key, number in taken.items():
                if self._unknown.get(key) == number:
                    del self._unknown[key]
        self._looking = False
        self._ended.clear()
        for line in list(self._lines.values()):
            self._advance(line)
        self._fill()

    async def _look_for(self, name: str | None, taken: Mapping[TypePartition, int]) -> None:
        where = InstanceFilter(type=self._engine.name, statuses=_ACTIVE, name=name)
        cursor: str | None = None
        while True:
            page = await self._engine.store.query(where, cursor, PAGE)
            for row in page.items:
                key = self._key(row.actor)
                # What was lost meanwhile is another's, or taken again: then it is looked through again, too.
                if key in taken and self._unknown.get(key) == taken[key]:
                    self._found(row)
            cursor = page.cursor
            if cursor is None:
                return

    def _found(self, row: InstanceRow) -> None:
        if row.actor in self._entries or row.actor in self._ended:
            return
        try:
            details = _details(row.details)
        except msgspec.DecodeError:
            # Damaged: it stalls when it is read.
            return
        entry = self._entry(row.actor, row.name, "", row.created, child=bool(details.parent_id))
        if entry is None:
            return
        if details.started is not None:
            self._hold(entry)
        elif row.status == RuntimeStatus.PENDING and (details.scheduled or 0) <= self._engine.clock.now():
            # Any other asks when somebody resumes it, or its time has come.
            self._enqueue(entry)

    def _key(self, actor: ActorId) -> TypePartition:
        return TypePartition(actor.type, partition_of(actor.id, self._engine.host.partitions))

    # --- stages ------------------------------------------------------------------------------------------------------

    def _entry(self, actor: ActorId, name: str, start_id: str, created: int, *, child: bool) -> _Entry | None:
        """None: nothing limits it."""
        whole = self._total is not None and not child
        line = self._lines.get(name)
        if line is None:
            if not whole:
                return None
            line = self._lines[name] = _Line(name)
        return _Entry(actor, start_id, created, line, whole) if whole or line.limited else None

    def _hold(self, entry: _Entry) -> None:
        self._entries[entry.actor] = entry
        entry.stage = ADMITTED
        entry.line.inside += 1
        if entry.whole:
            self._inside += 1

    def _enqueue(self, entry: _Entry) -> None:
        self._entries[entry.actor] = entry
        line = entry.line
        heapq.heappush(line.queue, entry)
        line.queued += 1
        line.waiting += 1
        self._advance(line)

    def _advance(self, line: _Line) -> None:
        while line.queue:
            entry = line.queue[0]
            if entry.stage != QUEUED:
                heapq.heappop(line.queue)
                continue
            if line.limit is not None and (self._unknown or line.inside >= line.limit):
                return
            if line.spread is not None and line.asking >= line.spread and entry.created >= line.youngest:
                # No more could be let in at once, and the oldest of all nodes is among those that ask. One that came
                # from another node may be older than those that ask here.
                return
            heapq.heappop(line.queue)
            line.queued -= 1
            if line.spread is None:
                line.inside += 1
                self._get_ready(entry)
            else:
                self._begin_to_ask(entry)

    def _begin_to_ask(self, entry: _Entry) -> None:
        line = entry.line
        entry.stage = ASKING
        line.inside += 1
        line.asking += 1
        line.youngest = max(line.youngest, entry.created)
        self._ask(entry)

    def _ask(self, entry: _Entry) -> None:
        engine = self._engine
        if not entry.start_id:
            # It says that when it is read.
            engine.host.wake(entry.actor)
            return

        def answered(answer: Any) -> None:
            # Whoever ended meanwhile has sent a `Release`; another owner asks for itself.
            if entry.stage != ASKING or engine.router.closed:
                return
            if answer is True:
                entry.line.asking -= 1
                self._get_ready(entry)
                self._advance(entry.line)
            else:
                log.info("slot.refused", extra=fields(instance=entry.actor.id, reason=answer))
                engine.clock.call_later(AGAIN, again)

        def again() -> None:
            if entry.stage == ASKING and not engine.router.closed:
                self._ask(entry)

        body = Acquire(entry.actor.id, entry.start_id, entry.created, entry.ask)
        engine.router.send(engine.slots(entry.line.name), "acquire", body, answered)

    def _get_ready(self, entry: _Entry) -> None:
        if not entry.whole:
            self._admitted(entry)
            return
        entry.stage = READY
        line = entry.line
        if not line.ready:
            self._turns.append(line)
        heapq.heappush(line.ready, entry)
        self._fill()

    def _fill(self) -> None:
        while self._turns and not self._unknown and self._inside < (self._total or 0):
            line = self._turns.popleft()
            while line.ready and line.ready[0].stage != READY:
                heapq.heappop(line.ready)
            if line.ready:
                entry = heapq.heappop(line.ready)
                self._inside += 1
                self._admitted(entry)
            if line.ready:
                self._turns.append(line)

    def _admitted(self, entry: _Entry) -> None:
        entry.stage = ADMITTED
        entry.line.waiting -= 1
        self._engine.host.wake(entry.actor)


def sum_of(line: _Line) -> int:
    """How many of a line are under way: those past the queue that do not wait."""
    return line.inside - (line.waiting - line.queued)
