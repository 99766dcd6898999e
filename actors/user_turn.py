"""The turn of a user's actor while its code runs."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.actors.context import ActorContext
from perdure.actors.messages import Message


class UserTurn:
    """Made for each run of each message: a message whose turn became void may run again at once, while the code of
    the void turn still unwinds."""

    __slots__ = ("context", "message", "saved", "saving", "task")

    def __init__(self, message: Message, context: ActorContext) -> None:
        self.message = message
        self.context = context
        #: The task that runs it; None before its first step.
        self.task: asyncio.Task[Any] | None = None
        #: Whether a part of it is stored, or may be on its way there.
        self.saved = False
        self.saving = False
