"""Purge: an instance is deleted, in a turn of its own that only the store can prepare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.actors.messages import Message
from perdure.actors.turn import Turn
from perdure.errors import CorruptState, InstanceNotFound, InvalidState, PerdureError
from perdure.workflow import controls
from perdure.workflow.events import ChildScheduled
from perdure.workflow.requests import Purge
from perdure.workflow.work import Work

if TYPE_CHECKING:
    from perdure.workflow.orchestrator import WorkflowBehaviour


async def purge(behaviour: WorkflowBehaviour, message: Message) -> Turn | None:
    """Reads the whole history for its children: only the store has it."""
    instance = behaviour.instance
    body: Purge = message.body
    turn = behaviour.activation.begin([message])
    if instance is not None and message.identity is not None and instance.meta.knows(message.identity):
        # It came again, as its answer was lost; or late: what is here now began after that purge.
        turn.answers.append((message.answer, True))
        return turn
    if instance is None or instance.purged or (body.start_id and instance.meta.start_id != body.start_id):
        turn.answers.append((message.answer, True if body.start_id else InstanceNotFound()))
        if instance is None and body.start_id:
            controls.bury(Work(behaviour, turn, taking=False), body.start_id)
        return turn
    if not instance.finished and not body.force:
        status = instance.meta.status
        refusal = f"only a finished instance can be purged; this one is {status}: terminate it"
        turn.answers.append((message.answer, InvalidState(refusal)))
        return turn
    children: list[ChildScheduled] = []
    try:
        if body.recursive:
            async for _, event in behaviour.engine.history(behaviour.activation.actor):
                if isinstance(event, ChildScheduled):
                    children.append(event)
    except PerdureError as error:
        # Whoever forces it away does so although its children cannot be read.
        if not (body.force and isinstance(error, CorruptState)):
            message.answer(error)
            return None
    controls.purge(Work(behaviour, turn, taking=False), message, children)
    return turn
