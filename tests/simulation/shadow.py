"""One workflow actor as the checker follows it: what every commit so far says, decoded."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import msgspec

from perdure.statestore.contract import ActorId, Commit, Fence
from perdure.statestore.memory import ActorRecord
from perdure.workflow import events, metadata, requests
from perdure.workflow.events import (
    ChildCompleted,
    ChildFailed,
    ChildScheduled,
    Event,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from perdure.workflow.metadata import Metadata
from perdure.workflow.receipts import ACCEPTED, Receipt, Receipts
from perdure.workflow.requests import Outgoing, Waiting


class Change:
    """What one commit does to a shadow."""

    __slots__ = ("deleted_inbox", "history", "inbox", "meta", "outbox", "receipts", "settled_outbox")

    def __init__(self, commit: Commit) -> None:
        self.history: list[tuple[int, Event]] = []
        self.inbox: list[tuple[int, Waiting]] = []
        self.outbox: list[tuple[int, Outgoing]] = []
        self.deleted_inbox: list[int] = []
        self.settled_outbox: list[int] = []
        self.meta: Metadata | None = None
        self.receipts: Receipts | None = None
        for key, value in commit.put.items():
            if key.startswith("history-"):
                self.history.append((int(key[8:]), events.decode(value)))
            elif key.startswith("inbox-"):
                self.inbox.append((int(key[6:]), requests.decode_inbox(value)))
            elif key.startswith("outbox-"):
                self.outbox.append((int(key[7:]), requests.decode_outbox(value)))
            elif key == "metadata":
                self.meta = metadata.decode(value)
            elif key == ACCEPTED:
                self.receipts = Receipts.decode(value)
        for key in commit.delete:
            if key.startswith("inbox-"):
                self.deleted_inbox.append(int(key[6:]))
            elif key.startswith("outbox-"):
                self.settled_outbox.append(int(key[7:]))


class Shadow:
    def __init__(self, actor: ActorId) -> None:
        self.actor = actor
        self.version: bytes | None = None
        self.meta: Metadata | None = None
        self.history: list[Event] = []
        self.inbox: dict[int, Waiting] = {}
        self.outbox: dict[int, Outgoing] = {}
        #: Activities and children without a completion in the history, and the timers that have not fired.
        self.open: dict[int, TaskScheduled | ChildScheduled] = {}
        self.timers: dict[int, TimerCreated] = {}
        self.next_task = 0
        #: Tasks that the code has cancelled.
        self.cancelled: set[int] = set()
        #: Tokens of external events: in the inbox or history now, and those that were.
        self.tokens: dict[str, str] = {}
        self.gone: set[str] = set()
        self.reset_at = -1.0
        #: What callers sent with keys of theirs.
        self.starts: Mapping[str, Receipt] = {}
        self.events: Mapping[str, Receipt] = {}
        #: Since when there is an instance (no tombstone), and an unfinished one.
        self.exists_since: float | None = None
        self.active_since: float | None = None

    @property
    def finished(self) -> bool:
        return self.meta is not None and self.meta.status in ("completed", "failed", "terminated")

    @property
    def purged(self) -> bool:
        return self.meta is not None and self.meta.status == "purged"

    @property
    def owes(self) -> bool:
        if self.meta is not None and self.meta.early:
            # Its reminder is what wakes it.
            return bool(self.outbox)
        return bool(self.open or self.inbox or self.outbox)

    def read(self, record: ActorRecord) -> None:
        """All of an actor's keys at once."""
        self.version = record.version
        change = Change(Commit(self.actor, 0, Fence(0, 0), None, b"", dict(record.values)))
        self.meta = change.meta
        self.receive(change.receipts)
        for _, event in sorted(change.history, key=itemgetter(0)):
            self.next_task = max(self.next_task, getattr(event, "id", -1) + 1)
            self.note(event)
            if isinstance(event, events.EventRaised):
                self.tokens[token_of(event.data)] = "history"
        self.inbox = dict(sorted(change.inbox, key=itemgetter(0)))
        self.outbox = dict(sorted(change.outbox, key=itemgetter(0)))
        for body in self.inbox.values():
            if isinstance(body, requests.Raise):
                self.tokens[token_of(body.data)] = "inbox"

    def receive(self, receipts: Receipts | None) -> None:
        """The key `accepted` as it is from now on."""
        if receipts is not None:
            self.starts, self.events = receipts.kept()

    def clear(self) -> None:
        """A reset: another execution, or another instance, begins with no key."""
        self.history, self.inbox, self.outbox, self.open, self.timers = [], {}, {}, {}, {}
        self.cancelled = set()
        self.next_task = 0
        self.gone.update(self.tokens)
        self.tokens = {}

    def note(self, event: Event) -> None:
        """An event that was appended."""
        self.history.append(event)
        match event:
            case TaskScheduled() | ChildScheduled():
                self.open[event.id] = event
            case TimerCreated():
                self.timers[event.id] = event
            case TaskCompleted() | TaskFailed() | ChildCompleted() | ChildFailed():
                del self.open[event.id]
            case events.TaskCancelled():
                # Its answer may be in the same turn.
                self.open.pop(event.id, None)
                self.cancelled.add(event.id)
            case TimerFired():
                del self.timers[event.id]
            case events.ExecutionCompleted():
                self.open.clear()
                self.timers.clear()


def token_of(data: bytes | None) -> str:
    """The token by which an external event of a simulation is known."""
    value: dict[str, Any] = msgspec.json.decode(data or b"{}")
    return str(value.get("t", ""))
