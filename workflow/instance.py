"""One instance in memory, as its keys say: read from a snapshot, changed by turns, never ahead of a commit for long."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from perdure.errors import CorruptState
from perdure.payload import Payload
from perdure.statestore.contract import ActorId, InstanceRow, Snapshot
from perdure.workflow import events, metadata, requests
from perdure.workflow.events import (
    ChildCompleted,
    ChildFailed,
    ChildScheduled,
    Event,
    ExecutionCompleted,
    ExecutionStarted,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from perdure.workflow.keys import NO_STATUS
from perdure.workflow.metadata import PURGED, Metadata
from perdure.workflow.receipts import ACCEPTED, Receipts
from perdure.workflow.requests import ActivityDone, ChildDone, Outgoing, TimerDue, Waiting
from perdure.workflow.state import Details, RuntimeStatus, WorkflowState, when

Open = TaskScheduled | ChildScheduled
T = TypeVar("T")

#: After these there is nothing to be waited for.
_SETTLED = frozenset({TaskCompleted, TaskFailed, ChildCompleted, ChildFailed, TaskCancelled})


class Instance:
    """INVARIANT: `open`, `timers`, `inbox` and `outbox` are what the keys of the last commit and the turn under way
    imply; nothing here cannot be read again from the store."""

    __slots__ = (
        "actor",
        "custom_status",
        "ended",
        "inbox",
        "meta",
        "open",
        "outbox",
        "receipts",
        "scanned",
        "started",
        "timers",
        "unread",
    )

    def __init__(self, actor: ActorId, meta: Metadata) -> None:
        self.actor = actor
        self.meta = meta
        self.started: ExecutionStarted | None = None
        self.ended: ExecutionCompleted | None = None
        #: Activities and children that were asked for and have not answered, by task id.
        self.open: dict[int, Open] = {}
        #: Timers that were set and have not fired, by task id. Cancelled ones are here until the code runs again.
        self.timers: dict[int, TimerCreated] = {}
        self.inbox: deque[tuple[int, Waiting]] = deque()
        self.outbox: dict[int, Outgoing] = {}
        self.custom_status: Payload = None
        #: What callers may send again; None: nothing with a key of theirs has come.
        self.receipts: Receipts | None = None
        #: History events read from the store that no run has been built from yet; None: there are none.
        self.unread: list[Event] | None = None
        #: How many history events `open` and `timers` take into account.
        self.scanned = 0

    # --- reading ---------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, actor: ActorId, snapshot: Snapshot | None) -> Instance | None:
        """None: there is no instance, nor a tombstone of one. `CorruptState` when `metadata` cannot be read;
        any other key that cannot be read raises `UnreadableHistory` with the instance as far as it was read."""
        if snapshot is None:
            return None
        value = snapshot.values.get("metadata")
        if value is None:
            return None
        self = cls(actor, metadata.decode(value))
        try:
            self._read_values(snapshot)
        except CorruptState as error:
            raise UnreadableHistory(error.message, self) from error
        return self

    def _read_values(self, snapshot: Snapshot) -> None:
        """Reads what can be read, then raises for the first value that cannot."""
        history: list[Event] = []
        wrong: CorruptState | None = None
        for key, value in snapshot.values.items():
            try:
                if key.startswith("history-"):
                    history.append(named(key, events.decode, value))
                elif key.startswith("inbox-"):
                    self.inbox.append((int(key[6:]), named(key, requests.decode_inbox, value)))
                elif key.startswith("outbox-"):
                    self.outbox[int(key[7:])] = named(key, requests.decode_outbox, value)
                elif key == "customStatus":
                    self.custom_status = None if value == NO_STATUS else value
                elif key == ACCEPTED:
                    self.receipts = named(key, Receipts.decode, value)
            except CorruptState as error:
                wrong = wrong or error
        self.scan(history)
        if wrong is not None:
            # No run may be built from a history with a gap.
            self.unread = None
            raise wrong

    def scan(self, history: Iterable[Event]) -> None:
        """Takes stored history events into account, in order; they are kept until a run is built."""
        if self.unread is None:
            self.unread = []
        for event in history:
            self.unread.append(event)
            self.scanned += 1
            self._note(event)
        if self.scanned >= self.meta.history:
            # What waits in the inbox was matched when it was received.
            for _, body in self.inbox:
                if isinstance(body, ActivityDone | ChildDone):
                    self.open.pop(body.task_id, None)
                elif isinstance(body, TimerDue):
                    self.timers.pop(body.task_id, None)

    def _note(self, event: Event) -> None:
        kind = type(event)
        if kind is TaskScheduled or kind is ChildScheduled:
            self.open[event.id] = event  # type: ignore[union-attr,assignment]
        elif kind in _SETTLED:
            self.open.pop(event.id, None)  # type: ignore[union-attr]
        elif kind is TimerCreated:
            self.timers[event.id] = event  # type: ignore[union-attr,assignment]
        elif kind is TimerFired:
            self.timers.pop(event.id, None)  # type: ignore[union-attr]
        elif kind is ExecutionStarted:
            self.started = event  # type: ignore[assignment]
        elif kind is ExecutionCompleted:
            self.ended = event  # type: ignore[assignment]
            self.open.clear()
            self.timers.clear()

    @property
    def complete(self) -> bool:
        """Whether the whole history has been read."""
        return self.scanned >= self.meta.history

    # --- questions -------------------------------------------------------------------------------------------------

    @property
    def purged(self) -> bool:
        return self.meta.status == PURGED

    @property
    def status(self) -> RuntimeStatus:
        return RuntimeStatus(self.meta.status)

    @property
    def finished(self) -> bool:
        return self.meta.status in ("completed", "failed", "terminated")

    @property
    def owes(self) -> bool:
        """Whether the mark `recover` must be there: invariant 4."""
        if self.outbox:
            return True
        # Before its time comes, its reminder is what wakes it.
        return bool(self.open or (self.inbox and not self.meta.early))

    def match(self, body: ActivityDone | ChildDone) -> Open | None:
        """The task that this completion answers; None when it is a duplicate or of an execution that is gone."""
        if body.execution_id != self.meta.execution_id:
            return None
        task = self.open.get(body.task_id)
        if task is None or task.nonce != body.nonce:
            return None
        wanted = TaskScheduled if type(body) is ActivityDone else ChildScheduled
        return task if type(task) is wanted else None

    # --- what others see -------------------------------------------------------------------------------------------

    def details(self) -> Details:
        meta, started, ended = self.meta, self.started, self.ended
        queued = None if started else next((b for _, b in self.inbox if isinstance(b, requests.Start)), None)
        return Details(
            execution_id=meta.execution_id,
            generation=meta.generation,
            input=started.input if started else queued.input if queued else None,
            output=ended.result if ended else None,
            failure=ended.failure if ended else None,
            custom_status=self.custom_status,
            reason=meta.reason or meta.waiting,
            attempts=meta.attempts,
            started=meta.started or None,
            completed=meta.completed or None,
            scheduled=meta.scheduled or None,
            parent_id=meta.parent.id if meta.parent else "",
            version=meta.version,
            tags=meta.tags,
        )

    def row(self) -> InstanceRow:
        """The index row as it must be after this turn."""
        meta = self.meta
        details = requests.encode(self.details())
        return InstanceRow(self.actor, meta.name, meta.status, meta.created, meta.turn, details)


class UnreadableHistory(CorruptState):
    """A history, inbox or outbox key of this instance cannot be read."""

    def __init__(self, message: str, instance: Instance) -> None:
        super().__init__(message)
        self.instance = instance


def named(key: str, decode: Callable[[bytes], T], value: bytes) -> T:
    """A decoded value; the error of one that cannot be read says which."""
    try:
        return decode(value)
    except CorruptState as error:
        raise CorruptState(f"key {key}: {error.message}") from error


def describe(row: InstanceRow) -> WorkflowState:
    """What clients see of an index row. Never raises: one that cannot be read says so as its reason, so that a list
    with it is still a list."""
    details, status, reason = Details(), RuntimeStatus.STALLED, ""
    created = updated = when(0)
    try:
        if row.details:
            details = msgspec.msgpack.decode(row.details, type=Details)
        status, reason = RuntimeStatus(row.status), details.reason
        created, updated = when(row.created), when(row.updated)
    except Exception as error:  # noqa: BLE001 - it may hold anything
        reason = f"the index row cannot be read: {error}"
    return WorkflowState(
        instance_id=row.actor.id,
        name=row.name,
        runtime_status=status,
        created_at=created,
        last_updated_at=updated,
        started_at=when(details.started) if details.started else None,
        completed_at=when(details.completed) if details.completed else None,
        scheduled_at=when(details.scheduled) if details.scheduled else None,
        serialized_input=_text(details.input),
        serialized_output=_text(details.output),
        serialized_custom_status=_text(details.custom_status),
        failure_details=details.failure,
        reason=reason,
        execution_id=details.execution_id,
        generation=details.generation,
        parent_instance_id=details.parent_id or None,
        version=details.version,
        tags=details.tags,
    )


def _text(payload: Payload) -> str | None:
    return None if payload is None else payload.decode("utf-8", "replace")
