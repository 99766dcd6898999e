"""What an instance that is run again has of the one that it comes from, as its first commit must say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.statestore.contract import ActorId
from perdure.workflow.events import (
    ChildScheduled,
    Event,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    TaskScheduled,
    TimerCreated,
)
from perdure.workflow.metadata import Metadata
from tests.simulation.ledger import TaskKey
from tests.simulation.shadow import Change, Shadow, token_of

if TYPE_CHECKING:
    from tests.simulation.checker import Checker


class Rerun(NamedTuple):
    """What a client wants to be run again."""

    source: ActorId
    #: The event from which it goes on; None: from the start.
    number: int | None


def check(checker: Checker, rerun: Rerun, shadow: Shadow, change: Change) -> None:
    """The turns up to that of the event, with their results. What had no answer then is asked for anew."""
    assert rerun.number is not None
    actor, meta = shadow.actor, shadow.meta
    assert meta is not None
    history = checker.shadows[rerun.source].history
    point = history[rerun.number].at
    kept = [event for event in history if event.at <= point]
    numbers = [number for number, _ in change.history]
    whole = numbers == list(range(len(kept)))
    checker.require(whole, "what is run again has other turns than the first", actor, numbers, len(kept))
    for _, event in change.history:
        shadow.note(event)
        shadow.next_task = max(shadow.next_task, getattr(event, "id", -1) + 1)
    anew = {**shadow.open, **shadow.timers}
    for old, (_, new) in zip(kept, change.history, strict=True):
        checker.require(not isinstance(new, ExecutionCompleted), "what is run again has ended", actor)
        same = _anew(checker, shadow, old, new) if anew.get(getattr(new, "id", -1)) is new else old == new
        if isinstance(new, ExecutionStarted):
            same = _begins(old, new, meta)
        checker.require(same, "what was done before is not what it was", actor, old, new)
        if isinstance(new, EventRaised):
            shadow.tokens[token_of(new.data)] = "history"


def _begins(old: Event, new: ExecutionStarted, meta: Metadata) -> bool:
    assert isinstance(old, ExecutionStarted)
    same = (old.name, old.input, old.version, old.at) == (new.name, new.input, new.version, new.at)
    own = new.execution_id == meta.execution_id != old.execution_id and new.start_id == meta.start_id
    return same and own and new.parent is None


def _anew(checker: Checker, shadow: Shadow, old: Event, new: Event) -> bool:
    """Nobody may take it for what was asked for before; it takes as long as that."""
    match old, new:
        case TaskScheduled(), TaskScheduled():
            assert shadow.meta is not None
            key = TaskKey(shadow.actor.id, shadow.meta.execution_id, new.id, new.nonce)
            checker.scheduled.add(key)
            same = old == msgspec.structs.replace(new, nonce=old.nonce, key=old.key)
            return same and new.nonce != old.nonce and new.key != old.key
        case ChildScheduled(), ChildScheduled():
            checker.starts.add(new.start_id)
            ids = {"nonce": old.nonce, "start_id": old.start_id, "instance_id": old.instance_id}
            same = old == msgspec.structs.replace(new, **ids)
            own = new.instance_id.startswith(f"{shadow.actor.id}:") and new.start_id != old.start_id
            return same and own and new.nonce != old.nonce
        case TimerCreated(), TimerCreated():
            assert shadow.meta is not None
            same = old == msgspec.structs.replace(new, fire_at=old.fire_at)
            return same and new.fire_at - shadow.meta.turn == max(old.fire_at - old.at, 0)
    return False
