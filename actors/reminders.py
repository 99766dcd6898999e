"""Fires the reminders of the partitions that a node owns. The store is their home; memory holds only the soonest."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from perdure.errors import StoreError
from perdure.logs import fields
from perdure.metrics import Counts
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, Commit, Reminder, TypePartition

if TYPE_CHECKING:
    from perdure.actors.host import ActorHost
    from perdure.clock import Cancellable

log = logging.getLogger("perdure.actors")

#: How far ahead reminders are held in memory, in microseconds.
WINDOW = 60_000_000
#: At most about this many are held; the rest is read when these have fired.
HELD_LIMIT = 20_000
#: At most this many are with their actors at a time, so that a backlog after an outage does not flood the node.
IN_FLIGHT_LIMIT = 1_000
#: Seconds after which a reminder that its actor could not take is fired again: doubled each time up to the last.
RETRY = 1.0
RETRY_LAST = 30.0
#: Seconds between looks at the wall clock, which may jump.
LOOK = 1.0


class ReminderClock:
    """INVARIANT: every reminder of an owned partition that is due at or before `_horizon` is in `_live`, unless a
    refill that will bring it is under way."""

    def __init__(self, host: ActorHost) -> None:
        self._host = host
        self._live: dict[ActorId, dict[str, Reminder]] = {}
        self._heap: list[tuple[int, int, Reminder]] = []
        self._count = 0
        self._horizon = 0
        self._in_flight = 0
        self._timer: Cancellable | None = None
        self._timer_due = 0
        self._refilling = False
        self._again = False
        #: (actor, name) deleted while a refill reads pages that may still show them.
        self._deleted: set[tuple[ActorId, str]] = set()
        #: How often in a row a reminder was fired that its actor could not take.
        self._failures: dict[tuple[ActorId, str], int] = {}
        self._closed = False
        #: How many were fired, and whether their actors took them.
        self.fired = Counts("actor_type", "success")

    # --- what commits change ---------------------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        """Follows a durable commit of an owned actor."""
        actor = commit.actor
        if commit.clear_reminders or (commit.reset and not commit.put):
            for name in self._live.pop(actor, ()):
                self._note_deleted(actor, name)
        for name in commit.delete_reminders:
            self._forget(actor, name)
        for reminder in commit.reminders:
            self._put(reminder)
        self._arm()

    def _forget(self, actor: ActorId, name: str) -> None:
        self._note_deleted(actor, name)
        names = self._live.get(actor)
        if names is not None:
            names.pop(name, None)
            if not names:
                del self._live[actor]

    def _note_deleted(self, actor: ActorId, name: str) -> None:
        if self._refilling:
            self._deleted.add((actor, name))

    def _put(self, reminder: Reminder) -> None:
        if reminder.due <= self._horizon:
            self._live.setdefault(reminder.actor, {})[reminder.name] = reminder
            self._push(reminder)
        else:
            self._forget(reminder.actor, reminder.name)

    def _push(self, reminder: Reminder) -> None:
        self._count += 1
        heapq.heappush(self._heap, (reminder.due, self._count, reminder))

    # --- ownership ---------------------------------------------------------------------------------------------------

    def owned(self) -> None:
        """Partitions were taken: reads their reminders from the beginning of time."""
        self._refill()

    def disowned(self, lost: Iterable[TypePartition]) -> None:
        lost = set(lost)
        partitions = self._host.partitions
        for actor in [a for a in self._live if (a.type, partition_of(a.id, partitions)) in lost]:
            del self._live[actor]

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _refill(self) -> None:
        if self._refilling:
            self._again = True
        elif not self._closed:
            self._refilling = True
            self._host.clock.spawn(self._read())

    async def _read(self) -> None:
        again = True
        while again and not self._closed:
            self._again = False
            try:
                await self._read_pages()
            except StoreError as error:
                log.warning("reminders.unread", extra=fields(reason=error))
                await self._host.clock.sleep(RETRY)
                self._again = True
            again = self._again
        self._refilling = False
        self._deleted.clear()
        self._arm()

    async def _read_pages(self) -> None:
        host = self._host
        until = host.clock.now() + WINDOW
        # Before the first page is read, so that what commits put meanwhile is kept.
        self._horizon = max(self._horizon, until)
        cursor: str | None = None
        read = 0
        held = list(host.owned)
        while held and not self._closed:
            page = await host.store.due(held, until, cursor, 1000)
            for reminder in page.items:
                self._merge(reminder)
            self._arm()
            read += len(page.items)
            cursor = page.cursor
            if cursor is None:
                return
            if read >= HELD_LIMIT:
                self._horizon = page.items[-1].due
                return

    def _merge(self, reminder: Reminder) -> None:
        actor, name = reminder.actor, reminder.name
        if (actor, name) in self._deleted or name in self._live.get(actor, ()):
            return
        key = TypePartition(actor.type, partition_of(actor.id, self._host.partitions))
        if key in self._host.owned:
            self._live.setdefault(actor, {})[name] = reminder
            self._push(reminder)

    # --- firing ------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._closed:
            return
        now = self._host.clock.now()
        soonest = self._heap[0][0] if self._heap else now + 60_000_000
        due = min(soonest, now + int(LOOK * 1e6))
        if self._timer is not None:
            if self._timer_due <= due and self._timer_due > now - 1_000_000:
                return
            self._timer.cancel()
        self._timer_due = due
        # One millisecond late rather than early: loops may round their timers down.
        self._timer = self._host.clock.call_later(max(0.0, (due - now) / 1e6 + 0.0005), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._host.clock.now()
        heap = self._heap
        while heap and heap[0][0] <= now and self._in_flight < IN_FLIGHT_LIMIT:
            reminder = heapq.heappop(heap)[2]
            if self._live.get(reminder.actor, {}).get(reminder.name) is reminder:
                self._deliver(reminder)
        if self._horizon - now < WINDOW // 2 and self._in_flight < IN_FLIGHT_LIMIT:
            self._refill()
        if self._in_flight < IN_FLIGHT_LIMIT:
            self._arm()

    def _deliver(self, reminder: Reminder) -> None:
        self._in_flight += 1

        def answered(_: Any) -> None:
            self._in_flight -= 1
            if self._in_flight == IN_FLIGHT_LIMIT - 1:
                self._arm()
            # The commit that took it has deleted or moved it. If it did not come to that, it is fired again.
            key = (reminder.actor, reminder.name)
            if self._live.get(reminder.actor, {}).get(reminder.name) is not reminder:
                self._failures.pop(key, None)
                self.fired.add(reminder.actor.type, "true")
                return
            self.fired.add(reminder.actor.type, "false")
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(RETRY * 2.0 ** min(failures - 1, 16), RETRY_LAST)
            self._host.clock.call_later(delay, self._retry, reminder)

        self._host.deliver(self._host.types[reminder.actor.type].reminder(reminder, answered))

    def _retry(self, reminder: Reminder) -> None:
        if self._live.get(reminder.actor, {}).get(reminder.name) is reminder:
            self._push(reminder)
            self._arm()
