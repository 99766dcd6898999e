"""What becomes of a reminder in the turn that it woke: it moves on, is tried again, or is deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from perdure.actors.book import ReminderBook
from perdure.actors.schedule import LAST, Schedule, decode
from perdure.errors import CorruptState, StoreError
from perdure.logs import fields
from perdure.statestore.contract import Reminder

log = logging.getLogger("perdure.actors")

#: Microseconds for which a reminder that this release cannot read is put off.
UNREADABLE_DELAY = 3_600_000_000


class ReminderTurns:
    """Changes the book only: what it decides is in the commit of the turn, with what the handler did."""

    def __init__(self, book: ReminderBook, now: Callable[[], int]) -> None:
        self._book = book
        self._now = now

    async def begin(self, reminder: Reminder) -> Schedule | None:
        """What the handler is to be called with; None when it is not to be called."""
        if await self._book.get(reminder.name) != reminder:
            # A turn before this one deleted or replaced it.
            await self._book.correct(reminder.name)
            return None
        try:
            plan = decode(reminder.data)
        except CorruptState as error:
            log.error(
                "reminder.unreadable",
                extra=fields(actor=reminder.actor, reminder=reminder.name, reason=error),
            )
            self._put(reminder, self._now() + UNREADABLE_DELAY, reminder.data)
            return None
        if plan.expired(self._now()):
            self._book.delete(reminder.name)
            return None
        return plan

    async def done(self, reminder: Reminder, plan: Schedule) -> None:
        """The handler returned. What it did to this very reminder counts more than its schedule."""
        if await self._book.get(reminder.name) == reminder:
            self._move_on(reminder, plan)

    async def failed(self, reminder: Reminder, error: BaseException) -> None:
        """The turn failed, and its changes are forgotten already. Nothing when the store cannot say whether it still
        has the reminder: it is fired again then."""
        try:
            plan = decode(reminder.data) if await self._book.get(reminder.name) == reminder else None
        except (StoreError, CorruptState):
            plan = None
        retried = plan.retried() if plan is not None else None
        if retried is not None:
            self._put(reminder, min(self._now() + retried.interval, LAST), retried.encode())
        elif plan is not None:
            self._move_on(reminder, plan)
        log.log(
            logging.WARNING if retried is not None else logging.ERROR,
            "reminder.failed",
            extra=fields(
                actor=reminder.actor,
                reminder=reminder.name,
                failures=retried.failures if retried is not None else None,
                given_up=True if plan is not None and retried is None else None,
            ),
            exc_info=error,
        )

    def _move_on(self, reminder: Reminder, plan: Schedule) -> None:
        after = plan.after(self._now())
        if after is None:
            self._book.delete(reminder.name)
        else:
            self._put(reminder, after.due, after.encode())

    def _put(self, reminder: Reminder, due: int, data: bytes) -> None:
        self._book.put(msgspec.structs.replace(reminder, due=due, data=data))
