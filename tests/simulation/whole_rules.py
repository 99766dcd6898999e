"""What is true of all keys of an instance at each version.

The numbers in the comments are those of the design's invariants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.statestore.memory import ActorRecord
from perdure.workflow.events import (
    ExecutionStarted,
)
from perdure.workflow.executor import Instance as RunInstance
from perdure.workflow.executor import NonDeterminism
from perdure.workflow.keys import START
from perdure.workflow.receipts import ACCEPTED
from perdure.workflow.replay import Replay
from perdure.workflow.run import InProcessExecutor
from tests.simulation.programs import REGISTRIES, app_of
from tests.simulation.shadow import Shadow

if TYPE_CHECKING:
    from tests.simulation.checker import Checker

_executors = {app: InProcessExecutor(registry) for app, registry in REGISTRIES.items()}


def whole(checker: Checker, shadow: Shadow, record: ActorRecord) -> None:  # 2
    meta = shadow.meta
    if meta is None:
        checker.require(not record.values, "keys without metadata", shadow.actor)
        return
    actor = shadow.actor
    checker.require(meta.history == len(shadow.history), "metadata and history differ", actor)
    first, after = meta.inbox_first, meta.inbox_next
    checker.require(all(first <= n < after for n in shadow.inbox), "metadata and inbox differ", actor)
    checker.require(all(n < meta.outbox_next for n in shadow.outbox), "metadata and outbox differ", actor)
    count = (
        1
        + len(shadow.history)
        + len(shadow.inbox)
        + len(shadow.outbox)
        + ("customStatus" in record.values)
        + (ACCEPTED in record.values)
    )
    checker.require(
        len(record.values) == count, "keys that nothing accounts for", actor, sorted(record.values)
    )
    keys = bool(shadow.starts or shadow.events)
    checker.require(keys == (ACCEPTED in record.values), "keys of callers are not where they belong", actor)
    begins = record.reminders.get(START)
    checker.require((begins is not None) == meta.early, "a scheduled start has no reminder", actor, meta)
    if begins is not None:
        right = begins.due == meta.scheduled and begins.data.decode() == meta.start_id
        checker.require(right and not shadow.history, "a scheduled start has another reminder", actor, begins)
    row = record.row
    if meta.status == "purged":
        checker.require(row is None, "a purged instance is listed", actor)
        checker.require(
            not shadow.history and "customStatus" not in record.values,
            "a purged instance is there",
            actor,
        )
    else:
        checker.require(
            row is not None and row.status == meta.status,
            "the row has another status",
            actor,
            row and row.status,
        )
    for name, reminder in record.reminders.items():
        if name.startswith("timer-"):
            known = int(name[6:]) in shadow.timers and reminder.data.decode() == meta.execution_id
            checker.require(known, "a reminder without its timer", actor, name)
    if shadow.finished:
        checker.require(not shadow.inbox, "a finished instance has an inbox", actor)
        checker.require(not record.reminders, "a finished instance has reminders", actor)


def replay(checker: Checker, shadow: Shadow) -> None:  # 7
    first = shadow.history[0]
    assert isinstance(first, ExecutionStarted)
    app = app_of(shadow.actor)
    if first.name not in REGISTRIES[app].workflows:
        return
    run = _executors[app].run(RunInstance(app, "default", shadow.actor.id), first)
    try:
        replay = Replay(run)
        for event in shadow.history:
            replay.feed(event)
        replay.finish()
    except NonDeterminism as error:
        checker.violated(f"{shadow.actor.id} does not replay: {error.message}")
    finally:
        run.close()
