"""Placement within one process: the same leader and clients, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from perdure.clock import Clock
from perdure.errors import StoreHeld
from perdure.placement.client import PlacementClient, joined_while
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.options import PlacementOptions
from perdure.placement.session import Accept, Connect, local_link
from perdure.statestore.contract import Lease

#: Makes the links of one node to the service: a simulation's own can delay, cut and kill them.
LinkFactory = Callable[[Clock, Accept], Connect]


class EmbeddedPlacement:
    """The leader of one process, and the client of the node that started it."""

    def __init__(self, leader: PlacementLeader, options: PlacementOptions) -> None:
        """Use `start`."""
        self._leader = leader
        self._options = options
        self._clients: list[PlacementClient] = []
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        lease: Lease,
        member: Member,
        clock: Clock,
        partitions: int,
        *,
        exclusive: bool = True,
        address: str = "",
        link: LinkFactory | None = None,
        options: PlacementOptions | None = None,
    ) -> EmbeddedPlacement:
        """Leads, and joins with the first node; when it returns, `client` has a table with that node.

        `exclusive`: that the lease was free shows that no other process can be working on this store (a SQLite
        file, a private memory store), so the members of the stored table are gone and nothing is waited for;
        `StoreHeld` when it is not free. Otherwise this process waits for the lease as a standby does, and the
        members of the stored table have their time to come back. `StoreError` when the store refuses.
        """
        options = options or PlacementOptions()
        leader = PlacementLeader(
            lease, clock, partitions, address=address, exclusive=exclusive, options=options
        )
        self = cls(leader, options)
        if not exclusive:
            self._task = clock.spawn(leader.run(), name="placement-leader")
        elif await leader.acquire():
            self._task = clock.spawn(leader.lead(), name="placement-leader")
        else:
            raise StoreHeld
        try:
            await self.join(member, clock, link=link)
        except BaseException:
            await self.stop()
            raise
        return self

    @property
    def client(self) -> PlacementClient:
        """The first node's."""
        return self._clients[0]

    @property
    def leader(self) -> PlacementLeader:
        return self._leader

    async def join(self, member: Member, clock: Clock, *, link: LinkFactory | None = None) -> PlacementClient:
        """Adds a node of this process; returns its client when the table has it. Without a link of its own, in an
        exclusive process, it is a resident: it lives as long as the process, without heartbeats."""
        resident = link is None and self._leader.exclusive
        accept = partial(self._leader.accept, resident=resident)
        client = PlacementClient(
            member,
            clock,
            (link or local_link)(clock, accept),
            vouched=(lambda: self._leader.leading) if resident else None,
            options=self._options,
        )
        self._clients.append(client)
        client.start()
        try:
            assert self._task is not None
            await joined_while(client, clock, self._task)
        except BaseException:
            client.stop()
            raise
        return client

    async def leave(self) -> None:
        """After all work has stopped: takes the first node out in good order. The leader goes on for the others."""
        self.client.leave()
        if not self._leader.exclusive:
            # The next leader would wait for a node that the stored table still has.
            await self._leader.without(self.client.node, self._options.link_grace)

    async def stop(self) -> None:
        """Ends all clients and the leader, and gives the lease back. Idempotent."""
        for client in self._clients:
            client.stop()
        self._leader.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
