"""Placement of a cluster: run by the nodes themselves, of which one leads, or by a separate service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from perdure.clock import Clock
from perdure.links import LinkServer
from perdure.placement.client import PlacementClient, joined_while
from perdure.placement.leader import PlacementLeader
from perdure.placement.member import Member
from perdure.placement.network import PATH, accept_links, connector
from perdure.placement.options import PlacementOptions
from perdure.placement.session import Connect, Receiver, Session, local_link
from perdure.security import Security
from perdure.statestore.contract import Lease


def candidate(
    lease: Lease,
    member: Member,
    clock: Clock,
    partitions: int,
    connect: Connect,
    options: PlacementOptions,
) -> tuple[PlacementClient, PlacementLeader]:
    """A node's client, and its replica of the service, whose `run` is to be started. The client goes to whoever leads
    by the store, and to its own replica without a network; the replica does not ask for the lease while the client is
    led."""
    leader = PlacementLeader(lease, clock, partitions, address=member.address, options=options)
    local = local_link(clock, leader.accept)

    async def reach(address: str, receiver: Receiver) -> Session:
        return await (local if leader.term is not None else connect)(address, receiver)

    # Whoever takes over waits for all members of the last table: they should not be slower than it.
    hurried = replace(options, reconnect_limit=min(options.reconnect_limit, options.acquire))
    client = PlacementClient(member, clock, reach, locate=leader.locate, options=hurried)
    leader.known = lambda: client.table
    leader.led = lambda: client.led(options.acquire)
    leader.on_lead = client.reconnect
    return client, leader


class ClusterPlacement:
    """One node's part: its client and, where there is no separate service, a replica of it as a candidate."""

    def __init__(
        self, client: PlacementClient, leader: PlacementLeader | None, clock: Clock, options: PlacementOptions
    ) -> None:
        """Use `start`."""
        self._client = client
        self._leader = leader
        self._options = options
        self._task = clock.spawn(leader.run(), name="placement-leader") if leader is not None else None

    @classmethod
    async def start(
        cls,
        lease: Lease,
        member: Member,
        clock: Clock,
        partitions: int,
        *,
        server: LinkServer,
        security: Security,
        addresses: Sequence[str] = (),
        options: PlacementOptions | None = None,
    ) -> ClusterPlacement:
        """Joins; when it returns, `client` has a table with the node.

        With `addresses`, those of a separate service, it is only a client of that. Without, every node is a
        candidate: it serves PATH at its `server`, which others reach at the member's own address, and whoever has
        the lease leads. `ConfigurationError` when placement refuses the node as it is, or the lease cannot be had
        as the store is set up.
        """
        options = options or PlacementOptions()
        connect = connector(addresses, security, clock)
        if addresses:
            client, leader = PlacementClient(member, clock, connect, options=options), None
        else:
            client, leader = candidate(lease, member, clock, partitions, connect, options)
            server.accept(PATH, accept_links(leader))
        self = cls(client, leader, clock, options)
        self._client.start()
        try:
            if self._task is not None:
                await joined_while(client, clock, self._task)
            else:
                await client.joined()
        except BaseException:
            await self.stop()
            raise
        return self

    @property
    def client(self) -> PlacementClient:
        return self._client

    @property
    def leader(self) -> PlacementLeader | None:
        """This node's replica of the service; None where the service is separate."""
        return self._leader

    async def leave(self) -> None:
        """After all work has stopped: takes the node out in good order. If it leads, it is out of the stored table
        when this returns, so that the next leader does not wait for it."""
        self._client.leave()
        if self._leader is not None:
            await self._leader.without(self._client.node, self._options.link_grace)

    async def stop(self) -> None:
        """Stops the client and, if it leads, gives the lease back. Idempotent."""
        self._client.stop()
        if self._leader is not None and self._task is not None:
            self._leader.stop()
            await asyncio.gather(self._task, return_exceptions=True)
