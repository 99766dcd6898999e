"""What must never happen with what an instance owes to others.

The numbers in the comments are those of the design's invariants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.statestore.contract import ActorId
from perdure.workflow.requests import (
    ActivityRequest,
    Cancel,
    ChildDone,
    Outgoing,
    Raise,
    Start,
    Terminate,
)
from tests.simulation.ledger import TaskKey
from tests.simulation.shadow import Shadow, token_of

if TYPE_CHECKING:
    from tests.simulation.checker import Checker


def outgoing(checker: Checker, body: object) -> None:
    """An outbox key is a decision too: it outlives the history that took it."""
    match body:
        case Terminate():
            checker.cascades.add(body.start_id)
        case Cancel():
            checker.let_go.add(body.start_id)
        case Start():
            checker.starts.add(body.start_id)
        case Raise():
            checker.sent.add(token_of(body.data))
        case ActivityRequest():
            checker.scheduled.add(_task_key(body))


def settled(checker: Checker, shadow: Shadow, entry: Outgoing) -> None:  # 4
    """Its outbox key goes: it was delivered."""
    if checker.rolled_back or shadow.actor.id.split(":")[0] in checker.forced:
        return
    target = checker.shadows.get(ActorId(entry.type, entry.id))
    body, delivered = entry.body, True
    match body:
        case ActivityRequest():
            key = _task_key(body)
            delivered = (
                key in checker.ended_runs or key in checker.nowhere or shadow.actor.id in checker.crashed
            )
        case Start():
            delivered = body.start_id in checker.created | checker.cascades | checker.let_go
        case Raise() if target is not None and target.active_since is not None:
            token = token_of(body.data)
            passed = target.reset_at >= 0 or token in target.tokens or token in target.gone
            delivered = passed
        case ChildDone() if target is not None and target.meta is not None:
            task = target.open.get(body.task_id)
            waits = task is not None and task.nonce == body.nonce
            received = any(
                isinstance(other, ChildDone) and other.task_id == body.task_id
                for other in target.inbox.values()
            )
            delivered = not waits or received or target.meta.execution_id != body.execution_id
    checker.require(delivered, "an outbox key was deleted before its delivery", shadow.actor, body)


def _task_key(request: ActivityRequest) -> TaskKey:
    return TaskKey(request.instance_id, request.execution_id, request.task_id, request.nonce)
