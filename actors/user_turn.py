"""The turn of a user's actor while its code runs."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.actors.calls import RunningTurn
from perdure.actors.context import ActorContext, Mark
from perdure.actors.messages import Message


class UserTurn:
    """Made for each run of each message: a message whose turn became void may run again at once, while the code of
    the void turn still unwinds."""

    __slots__ = ("context", "mark", "message", "running", "saved", "saving", "settled", "task", "ticket")

    def __init__(self, message: Message, context: ActorContext) -> None:
        self.message = message
        self.context = context
        #: The task that runs it; None before its first step.
        self.task: asyncio.Task[Any] | None = None
        #: What its code is known by, from then until it ends.
        self.running: RunningTurn | None = None
        #: Whether a part of it is stored, or may be on its way there.
        self.saved = False
        self.saving = False
        #: Of the call that it waits for; "": it waits for none, or nobody may enter it.
        self.ticket = ""
        #: Of a turn inside of another: what had been changed when it began, or made its last save.
        self.mark: Mark | None = None
        #: Of such a turn: its code has ended, and its reply waits for the store.
        self.settled = False
