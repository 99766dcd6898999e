"""Makes the placement table true for one node: takes what it was given, gives back what it was not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Protocol

from perdure.actors.host import ActorHost
from perdure.errors import Moved, StoreError
from perdure.logs import fields
from perdure.placement.table import Table
from perdure.statestore.contract import Fence, Taken, TypePartition

log = logging.getLogger("perdure.actors")

#: Seconds that a partition's last commits may take before it is given back without them.
DRAIN = 1.0
#: Seconds between tries of a store that gives no answer.
RETRY = 0.1
#: Seconds between questions for a new fence.
RENEW = 1.0


class Placement(Protocol):
    """What is needed of a `PlacementClient`."""

    @property
    def node(self) -> str: ...
    @property
    def table(self) -> Table | None: ...
    def renew(self, held: Collection[TypePartition]) -> None: ...


class Ownership:
    """INVARIANT: a partition is served only after the store raised its fence for this node (invariant 5)."""

    def __init__(self, host: ActorHost, placement: Placement) -> None:
        self._host = host
        self._placement = placement
        self._changing = asyncio.Lock()
        self._settled = asyncio.Event()
        host.on_fenced = self._fenced

    def applied(self, _: Table | None, __: Table) -> None:
        """A newer table is there. To be registered with `PlacementClient.on_table`."""
        self._settled.clear()
        self._host.clock.spawn(self._follow())

    async def settled(self) -> None:
        """Returns when everything that the newest table gives this node was taken or refused."""
        await self._settled.wait()

    async def _follow(self) -> None:
        async with self._changing:
            wanted = self._wanted()
            owned = {key: owned.fence for key, owned in self._host.owned.items()}
            await self._give_back({key: fence for key, fence in owned.items() if wanted.get(key) != fence})
            await self._take({key: fence for key, fence in wanted.items() if owned.get(key) != fence})
            self._settled.set()

    def _wanted(self) -> dict[TypePartition, Fence]:
        table = self._placement.table
        if table is None:
            return {}
        held: Mapping[TypePartition, Fence] = table.held(self._placement.node)
        return {key: fence for key, fence in held.items() if key.type in self._host.types}

    async def _give_back(self, lost: Mapping[TypePartition, Fence]) -> None:
        if not lost:
            return
        host = self._host
        host.disown(lost, Moved())
        try:
            async with asyncio.timeout(DRAIN):
                await host.committer.drain()
            for fence, keys in _by_fence(lost).items():
                await host.store.release(keys, fence)
        except (TimeoutError, StoreError) as error:
            # The new owner's fence settles it; what it finds there counts as crashed.
            log.warning("partitions.not_released", extra=fields(count=len(lost), reason=repr(error)))

    async def _take(self, wanted: Mapping[TypePartition, Fence]) -> None:
        taken: list[TypePartition] = []
        for fence, keys in _by_fence(wanted).items():
            taken += await self._take_under(keys, fence)
        if taken:
            log.info("partitions.taken", extra=fields(count=len(taken), node=self._placement.node))
            self._host.reminders.owned()
            self._host.clock.spawn(self._recover(taken))

    async def _take_under(self, keys: list[TypePartition], fence: Fence) -> list[TypePartition]:
        host = self._host
        while True:
            try:
                results = await host.store.take(keys, fence)
                break
            except StoreError as error:
                log.warning("take.failed", extra=fields(reason=error))
                await host.clock.sleep(RETRY)
                wanted = self._wanted()
                keys = [key for key in keys if wanted.get(key) == fence]
                if not keys:
                    return []
        taken = []
        for key, result in zip(keys, results, strict=True):
            if isinstance(result, Taken):
                host.own(key, fence, crashed=not result.released)
                taken.append(key)
            elif result.stored == fence:
                # A fence names one owner: an earlier try was done after all, and only its answer was lost.
                host.own(key, fence, crashed=True)
                taken.append(key)
            else:
                # Somebody took it under a newer table, which will come here too.
                log.info(
                    "take.refused", extra=fields(type=key.type, partition=key.partition, stored=result.stored)
                )
        return taken

    async def _recover(self, taken: list[TypePartition]) -> None:
        while not self._host.closed:
            try:
                await self._host.recover(taken)
                return
            except StoreError as error:
                log.warning("recover.failed", extra=fields(reason=error))
                await self._host.clock.sleep(RETRY)

    def _fenced(self, actor_type: str, partition: int, fence: Fence, stored: Fence | None) -> None:
        if stored is None or stored < fence:
            # The store lost writes: its fence is older than one it acknowledged.
            self._host.clock.spawn(self._renew(TypePartition(actor_type, partition), fence))

    async def _renew(self, key: TypePartition, fence: Fence) -> None:
        """Asks for a new fence until a table brings one: the question may be lost."""
        while not self._host.closed and self._wanted().get(key) == fence:
            self._placement.renew([key])
            await self._host.clock.sleep(RENEW)

    async def release_all(self) -> None:
        """Gives everything back in good order: the node stops."""
        async with self._changing:
            await self._give_back({key: owned.fence for key, owned in self._host.owned.items()})


def _by_fence(keys: Mapping[TypePartition, Fence]) -> dict[Fence, list[TypePartition]]:
    groups: dict[Fence, list[TypePartition]] = {}
    for key, fence in keys.items():
        groups.setdefault(fence, []).append(key)
    return groups
