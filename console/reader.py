"""Follows instances: what was read of a history is kept for the next look, so that each look reads only what is new."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from perdure.console.subject import Subject
from perdure.console.timeline import Timeline
from perdure.errors import CorruptState
from perdure.statestore.contract import ActorId, InstanceRow
from perdure.workflow import events, metadata
from perdure.workflow.events import Event
from perdure.workflow.instance import named
from perdure.workflow.keys import history_key
from perdure.workflow.metadata import Metadata

#: Events read at a time: between two pages everything else on the loop has its turn.
PAGE = 500
#: Steps that are kept of all instances together, and instances.
KEPT_STEPS = 200_000
KEPT = 64
#: How often a history that is replaced while it is read is begun anew.
TRIES = 3


class Record:
    """One instance as it was at the last look."""

    def __init__(self, actor: ActorId) -> None:
        self.actor = actor
        self.row: InstanceRow | None = None
        self.meta: Metadata | None = None
        #: Why `metadata` or the history cannot be read; empty: it can.
        self.trouble = ""
        self.timeline = Timeline()
        #: Changes whenever something of the above does.
        self.version = 0
        self.stored = b""
        self.lock = asyncio.Lock()


class Reader:
    """INVARIANT: a record's timeline is of its `meta`'s execution, and not ahead of it."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._records: OrderedDict[str, Record] = OrderedDict()

    async def look(self, instance_id: str) -> Record:
        """The instance as of its last commit, with its whole history. `StoreError`."""
        record = self._records.get(instance_id)
        if record is None:
            record = self._records[instance_id] = Record(self._subject.engine.actor(instance_id))
        self._records.move_to_end(instance_id)
        async with record.lock:
            for attempt in range(TRIES):
                if await self._refreshed(record, last=attempt == TRIES - 1):
                    break
        self._forget()
        return record

    def _forget(self) -> None:
        """Drops who was not looked at for longest; never the last one."""
        steps = sum(len(record.timeline.steps) for record in self._records.values())
        while len(self._records) > 1 and (len(self._records) > KEPT or steps > KEPT_STEPS):
            _, record = self._records.popitem(last=False)
            steps -= len(record.timeline.steps)

    async def _refreshed(self, record: Record, *, last: bool) -> bool:
        """False: the instance seems to have been replaced while it was read. The `last` try takes what it finds."""
        stored = await self._metadata(record.actor)
        known = record.version and stored == record.stored and not record.trouble
        if known and (stored or record.row is None):
            return True
        record.row = await self._subject.store.row(record.actor)
        record.version += 1
        meta = self._read(record, stored)
        if meta is None:
            record.stored, record.meta, record.timeline = stored, None, Timeline()
            return True
        if record.meta is None or record.meta.execution_id != meta.execution_id:
            record.timeline = Timeline()
        # Known again only when the history is complete: a look that fails half way is made again.
        record.stored, record.meta = b"", meta
        missing = await self._read_on(record, meta)
        if missing and not last:
            record.meta = None
            return False
        record.trouble = f"key {missing} is missing" if missing else ""
        record.stored = stored
        return True

    async def _metadata(self, actor: ActorId) -> bytes:
        page = await self._subject.store.keys(actor, "metadata", "metadata", 1)
        return page.items[0][1] if page.items and page.items[0][0] == "metadata" else b""

    def _read(self, record: Record, stored: bytes) -> Metadata | None:
        record.trouble = ""
        if not stored:
            return None
        try:
            return metadata.decode(stored)
        except CorruptState as error:
            record.trouble = error.message
            return None

    async def _read_on(self, record: Record, meta: Metadata) -> str:
        """Reads the rest of the history; the first key that is not that of this execution, if there is one."""
        timeline = record.timeline
        if timeline.count >= meta.history:
            return ""
        while timeline.count < meta.history:
            first = timeline.count
            limit = min(PAGE, meta.history - first)
            page = await self._subject.store.keys(record.actor, "history-", history_key(first), limit)
            for key, value in page.items:
                if key != history_key(timeline.count):
                    break
                timeline.feed(readable(key, value))
            if timeline.count < first + limit:
                return history_key(timeline.count)
            await self._subject.clock.sleep(0)
        # Another execution may have taken its place, and grown as long, between two pages.
        now = self._read(record, await self._metadata(record.actor))
        same = now is not None and now.execution_id == meta.execution_id
        return "" if same else history_key(first)


def readable(key: str, value: bytes) -> Event | str:
    """The event, or why it cannot be read."""
    try:
        return named(key, events.decode, value)
    except CorruptState as error:
        return error.message
