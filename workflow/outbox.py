"""What one workflow actor has decided to send and does not know to be taken: its `outbox-` keys, on their way."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from perdure.actors.activation import Activation
from perdure.actors.messages import Identity
from perdure.errors import Unavailable
from perdure.logs import fields
from perdure.workflow.instance import Instance
from perdure.workflow.requests import ActivityRequest

if TYPE_CHECKING:
    from perdure.workflow.orchestrator import WorkflowBehaviour

log = logging.getLogger("perdure.workflow")

#: Seconds within which an acknowledged message is deleted, if no other turn does it sooner.
DELETE_AFTER = 1.0


class _Gone:
    """What is left of a behaviour for those that it made."""

    instance = None


GONE: Any = _Gone()


class Outbox:
    """INVARIANT: nothing leaves before the commit that put its key, and no key is deleted before its answer."""

    __slots__ = ("_activation", "_behaviour", "_durable", "_engine", "_sending", "acked")

    def __init__(self, behaviour: WorkflowBehaviour, activation: Activation) -> None:
        self._behaviour = behaviour
        self._engine = behaviour.engine
        self._activation = activation
        #: Numbers that are acknowledged and not yet deleted.
        self.acked: set[int] = set()
        #: Numbers under way, and the actors they go to.
        self._sending: dict[int, tuple[str, str]] = {}
        #: Numbers below it are in the store.
        self._durable = 0

    @property
    def busy(self) -> bool:
        """Whether answers are awaited, or their keys to be deleted."""
        return bool(self.acked or self._sending)

    def close(self) -> None:
        """The behaviour is gone; answers that still come find nothing. And it is freed at once: no cycle is left."""
        self._behaviour = GONE

    def restored(self) -> None:
        """The instance was read from the store."""
        self.acked.clear()
        self.committed()

    def committed(self) -> None:
        """What the instance holds now is in the store."""
        instance = self._behaviour.instance
        self._durable = instance.meta.outbox_next if instance is not None else 0

    def send(self) -> None:
        """Sends what is in the outbox, one message at a time to each target, in order."""
        instance = self._behaviour.instance
        if instance is None:
            return
        busy = set(self._sending.values())
        known = self._engine.dispatcher.known(self._activation.actor)
        for number, entry in instance.outbox.items():
            target = (entry.type, entry.id)
            if number >= self._durable:
                # INVARIANT: what the turn under way decides leaves only after its commit.
                return
            if number in self.acked or number in self._sending or target in busy:
                continue
            if isinstance(entry.body, ActivityRequest) and not known:
                # Looked at again when it is known what of it is out elsewhere.
                self._behaviour.dispatched = False
                continue
            self._sending[number] = target
            busy.add(target)
            self._send_one(instance, number)

    def _send_one(self, instance: Instance, number: int) -> None:
        entry = instance.outbox[number]
        if isinstance(entry.body, ActivityRequest):
            # Settled by the activity's answer, not by its acknowledgement.
            self._engine.dispatcher.dispatch_request(entry.body)
            return
        identity = None
        if entry.number:
            identity = Identity(str(self._activation.actor), entry.number, entry.number)
        self._engine.dispatcher.send(entry, identity, lambda answer: self._sent(number, answer))

    def _sent(self, number: int, answer: Any) -> None:
        """Any answer settles a message: it was taken, or it never will be."""
        self._sending.pop(number, None)
        instance = self._behaviour.instance
        if instance is None:
            return
        if number not in instance.outbox:
            # It was forced away meanwhile. What goes to the same target has waited for its answer.
            self.send()
            return
        if isinstance(answer, Unavailable):
            return  # the node stops: the next owner sends it
        if isinstance(answer, Exception):
            entry = instance.outbox[number]
            log.info(
                "outbox.refused",
                extra=fields(instance=self._activation.actor.id, target=entry.id, reason=answer),
            )
        if not self.acked:
            self._engine.clock.call_later(DELETE_AFTER, self._activation.wake)
        self.acked.add(number)
        self.send()

    def done(self, number: int) -> None:
        """An activity in the outbox has run: the turn under way deletes its key."""
        self._sending.pop(number, None)
        self.acked.add(number)
