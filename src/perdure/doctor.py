"""Looks at a store as a whole: what it is set to, what is overdue, and what could not recover."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from perdure.actors.ids import RESERVED
from perdure.errors import CorruptState
from perdure.placement.table import Table, decode
from perdure.statestore.contract import (
    ActorId,
    Diagnosable,
    Finding,
    InstanceFilter,
    InstanceRow,
    StateStore,
    TypePartition,
)
from perdure.workflow import events
from perdure.workflow.instance import Instance, UnreadableHistory, named

#: Microseconds after its time from which a reminder is overdue: a node that comes back takes some seconds.
OVERDUE = 60_000_000
#: Rows and reminders asked for at a time.
PAGE = 500
#: Examples named in one finding.
EXAMPLES = 3

#: Called with how many instances were looked at.
Progress = Callable[[int], None]


async def examine(
    store: StateStore,
    *,
    now: int | None = None,
    instances: int = 100_000,
    progress: Progress = lambda _: None,
) -> list[Finding]:
    """Everything that can be told from the store alone; changes nothing, and takes a while: up to so many instances
    are read, newest first. `StoreError` when the store cannot be asked."""
    now = time.time_ns() // 1000 if now is None else now
    settings = await store.settings()
    found = [
        Finding(
            "ok",
            "format",
            f"state format {settings.format_version}, {settings.partitions} partitions per actor type",
        )
    ]
    if isinstance(store, Diagnosable):
        found += await store.diagnose()
    table = await _table(store, found)
    types = list(await store.types())
    looks: list[tuple[str, Callable[[], Awaitable[Sequence[Finding]]]]] = [
        (actor_type, partial(_reminders, store, settings.partitions, actor_type, table, now))
        for actor_type in types
    ]
    looks += [
        (actor_type, partial(_instances, store, actor_type, instances, progress))
        for actor_type in types
        if actor_type.startswith(RESERVED)
    ]
    for actor_type, look in looks:
        try:
            found += await look()
        except CorruptState as error:
            # What else there is to say is wanted all the more.
            said = f"what is stored of {actor_type} cannot be read: {error.message}"
            found.append(Finding("error", "values", said, "restore a backup"))
    return found


async def _table(store: StateStore, found: list[Finding]) -> Table | None:
    data = await store.lease("placement").read()
    if not data:
        found.append(Finding("ok", "placement", "no node has used this store yet"))
        return None
    try:
        table = decode(data)
    except CorruptState as error:
        advice = "restart the nodes: they make a new one, at the price of moving more than they would have to"
        found.append(Finding("error", "placement", error.message, advice))
        return None
    said = f"the last table has {len(table.members)} nodes (term {table.term}, epoch {table.epoch})"
    found.append(Finding("ok", "placement", said))
    return table


async def _reminders(
    store: StateStore, partitions: int, actor_type: str, table: Table | None, now: int
) -> Sequence[Finding]:
    held = [TypePartition(actor_type, partition) for partition in range(partitions)]
    page = await store.due(held, now - OVERDUE, None, PAGE)
    if not page.items:
        return [Finding("ok", "reminders", f"none of {actor_type} is overdue")]
    many = f"{len(page.items)}{' and more' if page.cursor else ''}"
    oldest = page.items[0]
    said = (
        f"{many} of {actor_type} are overdue; the oldest, {oldest.name!r} of {oldest.actor.id!r}, by "
        f"{(now - oldest.due) / 1e6:.0f} s"
    )
    hosts = table is not None and actor_type in table.owners
    advice = (
        "if no node that hosts this type runs, start one; else its owner is overloaded or has no answer from the store: "
        "see 'perdure cluster' and the nodes' logs"
        if hosts
        else "no node that hosts this type was in the last table: start one"
    )
    return [Finding("error", "reminders", said, advice)]


async def _instances(store: StateStore, actor_type: str, limit: int, progress: Progress) -> Sequence[Finding]:
    """Invariant: whoever owes work has the mark by which the next owner finds it."""
    looked, statuses = 0, Counter[str]()
    unmarked: list[str] = []
    unreadable: list[str] = []
    async for row in _rows(store, actor_type, limit):
        looked += 1
        statuses[row.status] += 1
        progress(looked)
        try:
            if not await _marked(store, row.actor):
                unmarked.append(row.actor.id)
        except CorruptState as error:
            unreadable.append(f"{row.actor.id} ({error.message})")
    shown = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "none"
    found = [Finding("ok", "instances", f"{looked} of {actor_type} were read: {shown}")]
    if unmarked:
        said = (
            f"{_some(unmarked)} of {actor_type} owe work and have no mark `recover`: no node would find them"
        )
        advice = (
            "this must not happen: keep the store as it is for a report; sending them any event wakes them"
        )
        found.append(Finding("error", "recovery", said, advice))
    if unreadable:
        said = f"{_some(unreadable)} of {actor_type} cannot be read"
        found.append(Finding("error", "values", said, "restore them from a backup, or purge them by force"))
    return found


async def _marked(store: StateStore, actor: ActorId) -> bool:
    """False: it owes work, and nothing says so. `CorruptState` when it cannot be read."""
    snapshot = await store.load(actor)
    if snapshot is None or snapshot.recover:
        return True
    try:
        instance = Instance.read(actor, snapshot)
    except UnreadableHistory as error:
        raise CorruptState(error.message) from error
    if instance is None:
        return True
    while not instance.complete:
        page = await store.keys(actor, "history-", f"history-{instance.scanned:06d}")
        if not page.items:
            return True  # it was changed meanwhile
        instance.scan(named(key, events.decode, value) for key, value in page.items)
    if not instance.owes:
        return True
    # A long history takes several questions, and a node may have been at work in between.
    again = await store.load(actor)
    return again is None or again.recover or again.version != snapshot.version


async def _rows(store: StateStore, actor_type: str, limit: int) -> AsyncIterator[InstanceRow]:
    cursor: str | None = None
    left = limit
    while left > 0:
        page = await store.query(InstanceFilter(type=actor_type), cursor, min(PAGE, left))
        for row in page.items:
            yield row
        left -= len(page.items)
        cursor = page.cursor
        if cursor is None:
            return


def _some(names: Sequence[str]) -> str:
    """How many, and the first few."""
    more = ", …" if len(names) > EXAMPLES else ""
    return f"{len(names)} ({', '.join(names[:EXAMPLES])}{more})"
