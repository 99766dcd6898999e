"""Pages of instances and actors, and the cluster: what the other views show."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import msgspec

from perdure.actors.ids import is_reserved
from perdure.console.subject import Subject
from perdure.console.text import MAX_CELL, MAX_EVENT, cut, moment, shown_value
from perdure.errors import InvalidInput, StoreError, Unavailable
from perdure.sidecar.cluster import cluster_json
from perdure.sidecar.decoded import decode_value
from perdure.statestore.contract import ActorId, Counting
from perdure.workflow.state import RuntimeStatus, WorkflowState

Json = dict[str, Any]
T = TypeVar("T")

#: Instances are counted up to here: "1,000+".
MAX_COUNT = 1000
#: Where the store cannot count, so many are read of each status.
MAX_READ = 50
#: Active actors of one type that are listed.
MAX_ACTIVE = 200
#: Seconds for which counts are good enough.
COUNTS_FOR = 5.0


class InstanceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which instances a list shows."""

    statuses: tuple[str, ...] = ()
    name: str = ""
    prefix: str = ""
    created_from: datetime | None = None
    created_to: datetime | None = None
    cursor: str = ""
    limit: int = 50


class Lists:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._counts: Mapping[str, Json] = {}
        self._counted = -COUNTS_FOR
        self._listing = asyncio.Lock()

    async def instances(self, query: InstanceQuery) -> Json:
        """A page, newest first, how many of each status there are at least, and which workflows this node has."""
        subject = self._subject
        try:
            page = await self._alone(
                subject.client.list(
                    statuses=query.statuses,
                    name=query.name or None,
                    id_prefix=query.prefix,
                    created_from=query.created_from,
                    created_to=query.created_to,
                    cursor=query.cursor or None,
                    limit=query.limit,
                )
            )
        except StoreError as error:
            if not query.cursor or isinstance(error, Unavailable):
                raise
            raise InvalidInput(f"the cursor is not one that this list gave: {error.message}") from error
        return {
            "items": [row_json(state) for state in page.items],
            "cursor": page.cursor,
            "counts": await self.counts(),
            "names": sorted(subject.engine.registry.workflows),
        }

    async def _alone(self, work: Coroutine[Any, Any, T]) -> T:
        """One list at a time: a filter that matches little may have the store look at a million rows, and what
        instances wait for must not wait behind the letters of a search."""
        try:
            await self._listing.acquire()
        except BaseException:
            work.close()
            raise
        try:
            task = self._subject.clock.spawn(work, name="perdure-console-list")
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                # Who asked is gone, but the store still works on it.
                await asyncio.gather(task, return_exceptions=True)
                raise
        finally:
            self._listing.release()

    async def counts(self) -> Mapping[str, Json]:
        """Per status `{"count": n, "more": whether there are more}`, a few seconds old at most."""
        now = self._subject.clock.monotonic()
        if now - self._counted >= COUNTS_FOR:
            self._counts = await self._count()
            self._counted = now
        return self._counts

    async def _count(self) -> dict[str, Json]:
        store = self._subject.store
        if isinstance(store, Counting):
            try:
                found = await store.count(self._subject.engine.name, MAX_COUNT)
                return {status: {"count": n, "more": n >= MAX_COUNT} for status, n in sorted(found.items())}
            except Unavailable:
                raise
            except StoreError:
                pass  # a store behind another process cannot, although that process could ask
        counts: dict[str, Json] = {}
        for status in RuntimeStatus:
            page = await self._subject.client.list(statuses=[status], limit=MAX_READ)
            if page.items:
                counts[status.value] = {"count": len(page.items), "more": page.cursor is not None}
        return counts

    async def actors(self) -> Json:
        """All actor types of the cluster, and who of them is in the memory of this node."""
        subject = self._subject
        cluster = await subject.facade.cluster()
        types = {one.name: one for one in cluster.types}
        active = self._active({*types, *subject.runtime.host.types})
        return {
            "types": [
                {
                    "name": name,
                    "internal": is_reserved(name),
                    "partitions": types[name].partitions if name in types else 0,
                    "nodes": types[name].nodes if name in types else 0,
                    "activations": types[name].activations if name in types else 0,
                    "here": active[name][0],
                    "ids": active[name][1],
                }
                for name in sorted(active)
            ],
        }

    def _active(self, types: Collection[str]) -> dict[str, tuple[int, list[str]]]:
        """Per type, how many are in memory here, and the ids of some."""
        found: dict[str, list[str]] = {name: [] for name in types}
        for actor in self._subject.runtime.host.activations:
            found.setdefault(actor.type, []).append(actor.id)
        return {name: (len(ids), sorted(islice(ids, MAX_ACTIVE))) for name, ids in found.items()}

    async def value(self, actor: ActorId, key: str) -> Json:
        """One value, however large; None where there is no such key. `start` of `keys` is inclusive."""
        page = await self._subject.store.keys(actor, key, key, 1)
        found = next((value for name, value in page.items if name == key), None)
        return {"value": None if found is None else shown_value(decode_value(key, found), 2**40)}

    async def actor(self, actor: ActorId, start: str, limit: int) -> Json:
        """A page of an actor's keys with their values, and its reminders. The actor type is as the table has it: with
        its namespace, unless that is `default`."""
        store = self._subject.store
        page = await store.keys(actor, "", start or None, limit)
        reminders = await store.reminders(actor)
        return {
            "type": actor.type,
            "id": actor.id,
            "internal": is_reserved(actor.type),
            "owner": self._subject.owner(*actor),
            "inMemory": actor in self._subject.runtime.host.activations,
            "keys": [
                {"key": key, "bytes": len(value), "value": shown_value(decode_value(key, value), MAX_EVENT)}
                for key, value in page.items
            ],
            "cursor": page.cursor,
            "reminders": [
                {
                    "name": reminder.name,
                    "due": moment(reminder.due),
                    "data": shown_value(decode_value("reminder", reminder.data), MAX_CELL)
                    if reminder.data
                    else None,
                }
                for reminder in reminders[:limit]
            ],
            "reminderCount": len(reminders),
        }

    async def cluster(self) -> Json:
        return cluster_json(await self._subject.facade.cluster())


def row_json(state: WorkflowState) -> Json:
    failure = state.failure_details
    error = f"{failure.type}: {failure.message}" if failure is not None else ""
    return {
        "id": state.instance_id,
        "name": state.name,
        "status": state.runtime_status.value,
        "created": moment(state.created_at),
        "updated": moment(state.last_updated_at),
        "started": moment(state.started_at),
        "completed": moment(state.completed_at),
        "scheduled": moment(state.scheduled_at),
        "custom": cut(state.serialized_custom_status or "", MAX_CELL),
        "reason": cut(state.reason or error, MAX_CELL),
        "parent": state.parent_instance_id or "",
    }
