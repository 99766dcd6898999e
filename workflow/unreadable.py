"""What is left to do with an instance whose `metadata` cannot be read: say so, and let it be forced away."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from perdure.actors.messages import Message
from perdure.actors.turn import Turn
from perdure.errors import CorruptState
from perdure.logs import fields
from perdure.statestore.contract import InstanceRow
from perdure.workflow import requests
from perdure.workflow.requests import Purge
from perdure.workflow.state import Details, RuntimeStatus

if TYPE_CHECKING:
    from perdure.actors.activation import Activation
    from perdure.statestore.contract import StateStore

log = logging.getLogger("perdure.workflow")


class Unreadable:
    """Takes the place of an `Instance`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        #: Whether status and lists show the reason.
        self.shown = False

    def step(self, activation: Activation) -> Turn | None:
        """Every message is refused with the reason, but for a purge by force: nobody else can make room."""
        mailbox = activation.mailbox
        messages = list(mailbox)
        mailbox.clear()
        for message in messages:
            if self._forced(message):
                mailbox.extend(other for other in messages if other is not message)
                return self._remove(activation, message)
        for message in messages:
            message.answer(CorruptState(f"{self.reason}; purge the instance by force to get rid of it"))
        return None

    def _forced(self, message: Message) -> bool:
        # A cascaded purge names the start that it is for, which cannot be compared.
        return isinstance(message.body, Purge) and message.body.force and not message.body.start_id

    def _remove(self, activation: Activation, message: Message) -> Turn:
        log.warning("instance.forced_away", extra=fields(instance=activation.actor.id))
        turn = activation.begin([message])
        turn.commit.reset = True
        turn.commit.delete_row = True
        turn.answers.append((message.answer, True))
        return turn

    async def show(self, activation: Activation, store: StateStore) -> Turn | None:
        """Marks the index row as STALLED, with the reason. Nothing else that is stored is touched."""
        self.shown = True
        row = await store.row(activation.actor)
        if row is None:
            return None
        try:
            details = msgspec.msgpack.decode(row.details, type=Details)
        except Exception:  # noqa: BLE001 - it may hold anything
            details = Details()
        if row.status == RuntimeStatus.STALLED and details.reason == self.reason:
            return None
        details = msgspec.structs.replace(details, reason=self.reason)
        turn = activation.begin([])
        turn.commit.row = InstanceRow(
            row.actor,
            row.name,
            RuntimeStatus.STALLED,
            row.created,
            row.updated,
            requests.encode(details),
        )
        return turn
