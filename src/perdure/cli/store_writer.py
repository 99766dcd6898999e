"""Putting instances into a store that no node works on."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from perdure.actors.ids import RESERVED
from perdure.cli.failures import CommandError
from perdure.errors import AlreadyExists, CorruptState, InvalidInput
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import (
    ActorId,
    Commit,
    Committed,
    Fence,
    Refused,
    Rejected,
    Snapshot,
    StateStore,
    Taken,
    TypePartition,
)
from perdure.statestore.urls import open_store
from perdure.workflow.client import check_id
from perdure.workflow.instance import Instance, UnreadableHistory
from perdure.workflow.record import Record
from perdure.workflow.transfer import check_free, restored
from perdure.workflow.transfers import waking

T = TypeVar("T")

#: Seconds for which the lease of a node that died is waited for, and between two tries.
PATIENCE = 6.0
AGAIN = 0.25
#: Seconds after which the lease is renewed: it must not pass on to a node that is started meanwhile.
RENEW = 0.3


class StoreWriter:
    """INVARIANT: it holds the lease of placement, so no node takes a partition before it is done; and it has taken
    each partition that it writes to, so a node that still believed to have it can write no more."""

    def __init__(self, url: str, name: str) -> None:
        """`name`: what the store is called in errors."""
        self._name = name
        self._runner = asyncio.Runner()
        self._taken: dict[TypePartition, Taken] = {}
        try:
            self._store = self._run(_open(url))
            try:
                self._lease = self._store.lease("placement")
                self._run(self._begin())
            except BaseException:
                self._run(self._store.close())
                raise
        except BaseException:
            self._runner.close()
            raise

    def add(self, record: Record, line: bytes, replace: bool) -> None:
        """As `Transfers.restore` of a node. `CommandError` when somebody else works on the store."""
        self._run(self._add(record, replace))

    def close(self) -> None:
        try:
            self._run(self._end())
        finally:
            self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def _begin(self) -> None:
        end = time.monotonic() + PATIENCE
        while (term := await self._lease.acquire()) is None:
            if time.monotonic() >= end:
                raise CommandError(
                    f"nodes work on {self._name}, and none of them is reached over HTTP: name one with --server, or stop "
                    "them"
                )
            await asyncio.sleep(AGAIN)
        self._renewed = time.monotonic()
        self._fence = Fence(term, 1)
        self._partitions = (await self._store.settings()).partitions

    async def _end(self) -> None:
        """A partition that was not given back in good order before is not now either: what is in it may be what
        ended its owner, which the next one is to know."""
        try:
            given_back = [key for key, taken in self._taken.items() if taken.released]
            if given_back:
                await self._store.release(given_back, self._fence)
            await self._lease.release()
        finally:
            await self._store.close()

    async def _add(self, record: Record, replace: bool) -> None:
        actor = ActorId(record.type, record.id)
        if not (actor.type.startswith(RESERVED) and actor.type.endswith(".workflow")):
            raise InvalidInput(f"{actor.type!r} is no actor type of workflows")
        check_id(actor.id)
        if time.monotonic() > self._renewed + RENEW:
            await self._lease.renew()
            self._renewed = time.monotonic()
        key = TypePartition(actor.type, partition_of(actor.id, self._partitions))
        await self._take(key)
        snapshot = await self._store.load(actor)
        old = _old(actor, snapshot, replace)
        check_free(old, replace=replace)
        now = time.time_ns() // 1000
        found = restored(actor, record, old, now, waking, None)
        commit = Commit(
            actor,
            key.partition,
            self._fence,
            None if snapshot is None else snapshot.version,
            secrets.token_bytes(16),
            found.values,
            reset=snapshot is not None,
            reminders=found.reminders,
            clear_reminders=True,
            recover=found.instance.owes,
            row=found.instance.row(),
        )
        (result,) = await self._store.commit([commit])
        if isinstance(result, Rejected):
            raise InvalidInput(f"{self._name} does not take {actor.id!r}: {result.reason}")
        if not isinstance(result, Committed):
            raise CommandError(f"another process works on {self._name}")

    async def _take(self, key: TypePartition) -> None:
        if key in self._taken:
            return
        (result,) = await self._store.take([key], self._fence)
        if isinstance(result, Refused):
            raise CommandError(f"another process works on {self._name}, by the table {result.stored}")
        self._taken[key] = result


async def _open(url: str) -> StateStore:
    return open_store(url)


def _old(actor: ActorId, snapshot: Snapshot | None, replace: bool) -> Instance | None:
    """What is there; nothing, if it cannot be read and is to be replaced."""
    try:
        return Instance.read(actor, snapshot)
    except UnreadableHistory as error:
        return error.instance
    except CorruptState as error:
        if replace:
            return None
        raise AlreadyExists(
            f"there is an instance {actor.id!r}, which cannot be read: {error.message}"
        ) from error
