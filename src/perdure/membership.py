"""How a node takes part in placement: alone with its store, or as one of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from perdure.clock import Clock
from perdure.placement.client import PlacementClient
from perdure.placement.embedded import EmbeddedPlacement
from perdure.placement.member import Member
from perdure.runtime import Runtime
from perdure.security import Security
from perdure.statestore.contract import StateStore

#: Where nodes that are programs of their own listen for each other.
PEER_PORT = 50002


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a node reaches others, and they reach it. Of no effect where a store belongs to one process."""

    #: Addresses of a separate placement service, "host:port,host:port"; empty: the nodes run placement themselves.
    placement: str = ""
    #: Where other nodes reach this one; 0: any free port. It listens on the node's `host`.
    peer_port: int = 0
    #: The host, or host:port, that it tells others; empty: where it listens.
    advertise: str = ""
    #: Its share of the partitions relative to other nodes.
    weight: int = 1
    security: Security = Security()


#: Makes what a node says of itself from the address of its links.
Introduce = Callable[[str], Member]


class Membership(Protocol):
    """A node's place in the placement table, from its joining on."""

    @property
    def client(self) -> PlacementClient: ...

    @property
    def leading(self) -> bool:
        """Whether this node runs placement now."""

    def connect(self, runtime: Runtime) -> None:
        """Gives the runtime its ways to other nodes. Before the runtime starts."""

    async def retire(self, *, within: float) -> None:
        """Has other nodes of the app take over everything while this one still serves and finishes what it runs;
        returns when they have, when there are none, or after so many seconds."""

    async def leave(self) -> None:
        """Tells placement that all work has stopped."""

    async def stop(self) -> None:
        """Closes every link. Idempotent."""


class Alone:
    """The one node of a store that belongs to one process: nothing goes over a network."""

    def __init__(self, placement: EmbeddedPlacement) -> None:
        self._placement = placement

    @classmethod
    async def join(cls, store: StateStore, introduce: Introduce, clock: Clock, partitions: int) -> Alone:
        """Takes every partition's place in a table of its own. `StoreHeld` when another process has the store."""
        lease = store.lease("placement")
        return cls(await EmbeddedPlacement.start(lease, introduce(""), clock, partitions))

    @property
    def client(self) -> PlacementClient:
        return self._placement.client

    @property
    def leading(self) -> bool:
        return self._placement.leader.leading

    def connect(self, runtime: Runtime) -> None:
        pass

    async def retire(self, *, within: float) -> None:
        pass

    async def leave(self) -> None:
        await self._placement.leave()

    async def stop(self) -> None:
        await self._placement.stop()
