"""Export and import of instances of a running app, for its edges."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.actors.messages import Identity, nobody
from perdure.errors import InstanceNotFound, InvalidInput, PerdureError
from perdure.statestore.contract import ActorId, Reminder
from perdure.workflow.engine import WorkflowEngine
from perdure.workflow.metadata import EDGE_PREFIX
from perdure.workflow.record import Record
from perdure.workflow.requests import Restore
from perdure.workflow.transfer import read, restored

#: Seconds for which an import is sent again while its owner cannot be reached, or the id owes messages to others.
RETRY_FOR = 30.0


class Transfers:
    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine

    async def export(self, instance_id: str) -> Record:
        """The instance as one of its commits left it, with its whole history. `InstanceNotFound`; `CorruptState`;
        `Unavailable` when it changes too fast to be read."""
        found = await read(self._engine.store, self._engine.actor(instance_id))
        if found is None:
            raise InstanceNotFound(f"there is no workflow instance {instance_id!r}")
        return found

    async def restore(self, record: Record, *, replace: bool = False) -> None:
        """Puts the instance of a record into the store; it goes on as it was. Durable when this returns.

        `AlreadyExists` when its id is in use, unless it is to `replace` what is there, which is then gone.
        `InvalidInput` when the record is not a whole instance of this app. `DeadlineExceeded` when the owner could not
        be reached: it may or may not be there."""
        engine = self._engine
        if record.type != engine.name:
            raise InvalidInput(
                f"{record.id!r} was exported from {record.type}; this node serves {engine.name}"
            )
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(value: Any) -> None:
            if not answer.done():
                answer.set_result(value)

        # An identity of its own: the same import, sent again, is known.
        identity = Identity(EDGE_PREFIX + engine.clock.token(8).hex(), 1, 1)
        give_up = engine.clock.monotonic() + RETRY_FOR
        body = Restore(record, replace)
        engine.router.send(
            engine.actor(record.id), "restore", body, answered, identity=identity, give_up=give_up
        )
        found = await answer
        if isinstance(found, PerdureError):
            raise found


def check(record: Record) -> None:
    """`InvalidInput` unless the record is a whole instance."""
    restored(ActorId(record.type, record.id), record, None, 0, waking, None)


def waking(reminder: Reminder) -> object:
    """What a due reminder is for an instance; raises when it is nothing."""
    return WorkflowEngine.reminder(reminder, nobody)
