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
#: Seconds after which nobody believes a word of placement about an older table: `PlacementOptions.word`, and more.
HANDOVER = 0.5
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
        #: Seconds for which a node waits before it takes what another may still serve.
        self.handover = HANDOVER
        self._quiet_at = 0.0
        #: Served no more, and not given back yet.
        self._leaving: dict[TypePartition, Fence] = {}
        host.on_fenced = self._fenced

    def applied(self, old: Table | None, new: Table) -> None:
        """A newer table is there. To be registered with `PlacementClient.on_table`."""
        self._settled.clear()
        self._disown()
        if self._contested(old, new):
            self._quiet_at = self._host.clock.monotonic() + self.handover
        self._host.clock.spawn(self._follow())

    async def settled(self) -> None:
        """Returns when everything that the newest table gives this node was taken or refused."""
        await self._settled.wait()

    async def _follow(self) -> None:
        async with self._changing:
            await self._give_back()
            while (wait := self._quiet_at - self._host.clock.monotonic()) > 0:
                await self._host.clock.sleep(wait)
            owned = {key: owned.fence for key, owned in self._host.owned.items()}
            wanted = self._wanted()
            await self._take({key: fence for key, fence in wanted.items() if owned.get(key) != fence})
            self._settled.set()

    def _contested(self, old: Table | None, new: Table) -> bool:
        """Whether somebody who lives may still serve what the new table gives this node: it may not have seen that
        table, and answers from memory as long as it believes placement's last word about the old one."""
        node, owned = self._placement.node, self._host.owned
        others = new.members.keys() - {node}
        if not others:
            return False
        seen = old is not None and old.name == (new.term, new.epoch - 1)
        for key, fence in self._wanted().items():
            if key in owned and owned[key].fence == fence:
                continue
            before = old.owner(*key) if old is not None and seen else None
            if not seen or before in others:
                return True
        return False

    def _disown(self) -> None:
        """INVARIANT: what the applied table gives to others is served no more, not even while an older table's
        changes are still under way: from here on placement's word is about this table."""
        wanted = self._wanted()
        lost = {key: owned.fence for key, owned in self._host.owned.items() if wanted.get(key) != owned.fence}
        self._leaving.update(lost)
        self._host.disown(lost, Moved())

    def _wanted(self) -> dict[TypePartition, Fence]:
        table = self._placement.table
        if table is None:
            return {}
        held: Mapping[TypePartition, Fence] = table.held(self._placement.node)
        return {key: fence for key, fence in held.items() if key.type in self._host.types}

    async def _give_back(self) -> None:
        lost, self._leaving = self._leaving, {}
        if not lost:
            return
        host = self._host
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
        wanted = self._wanted()
        for key, result in zip(keys, results, strict=True):
            if wanted.get(key) != fence:
                # A newer table gives it to somebody else, or under another fence.
                self._leaving[key] = fence
            elif isinstance(result, Taken):
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
            lost = {key: owned.fence for key, owned in self._host.owned.items()}
            self._leaving.update(lost)
            self._host.disown(lost, Moved())
            await self._give_back()


def _by_fence(keys: Mapping[TypePartition, Fence]) -> dict[Fence, list[TypePartition]]:
    groups: dict[Fence, list[TypePartition]] = {}
    for key, fence in keys.items():
        groups.setdefault(fence, []).append(key)
    return groups
