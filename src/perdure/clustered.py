"""One node of a cluster: its port, its links to all others, and its way to placement."""

from __future__ import annotations

import msgspec

from perdure.actors.codec import Codec
from perdure.actors.peers import PeerLinks
from perdure.addresses import advertised, split_addresses
from perdure.clock import Clock
from perdure.links import LinkServer
from perdure.membership import ClusterOptions, Introduce
from perdure.placement.candidate import ClusterPlacement
from perdure.placement.client import PlacementClient
from perdure.runtime import Runtime
from perdure.statestore.contract import StateStore
from perdure.workflow.wire import register_workflow


class Clustered:
    """Implements `perdure.membership.Membership`: one port for the links of other nodes and, where the nodes run
    placement themselves, for its."""

    def __init__(self, host: str, clock: Clock, options: ClusterOptions) -> None:
        """Use `join`."""
        self._host = host
        self._clock = clock
        self._options = options
        self._server = LinkServer(host, options.peer_port, security=options.security, clock=clock)
        self._placement: ClusterPlacement | None = None
        self._peers: PeerLinks | None = None
        self._runtime: Runtime | None = None

    @classmethod
    async def join(
        cls,
        store: StateStore,
        introduce: Introduce,
        clock: Clock,
        partitions: int,
        *,
        host: str,
        options: ClusterOptions,
    ) -> Clustered:
        """Listens, and returns when the table has the node. `ConfigurationError` for an address that cannot be had,
        or a node that placement refuses."""
        self = cls(host, clock, options)
        try:
            await self._join(store, introduce, partitions)
        except BaseException:
            await self.stop()
            raise
        return self

    async def _join(self, store: StateStore, introduce: Introduce, partitions: int) -> None:
        options = self._options
        await self._server.start()
        port = int(self._server.address.rpartition(":")[2])
        self._placement = await ClusterPlacement.start(
            store.lease("placement"),
            introduce(advertised(self._host, port, options.advertise)),
            self._clock,
            partitions,
            server=self._server,
            security=options.security,
            addresses=split_addresses(options.placement, "--placement"),
        )

    @property
    def client(self) -> PlacementClient:
        assert self._placement is not None
        return self._placement.client

    @property
    def leading(self) -> bool:
        leader = self._placement.leader if self._placement is not None else None
        return leader is not None and leader.leading

    def connect(self, runtime: Runtime) -> None:
        self._runtime = runtime
        codec = Codec()
        register_workflow(codec)
        self._peers = peers = PeerLinks(
            self.client.node,
            self._clock,
            runtime.router,
            self._address,
            codec,
            security=self._options.security,
            apps=self._app,
        )
        runtime.router.peers = peers
        self.client.on_table(lambda _, __: peers.table_changed())
        peers.attach(self._server)

    def _address(self, node: str) -> str | None:
        table = self.client.table
        member = table.members.get(node) if table is not None else None
        return member.address if member is not None else None

    def _app(self, node: str) -> str | None:
        table = self.client.table
        member = table.members.get(node) if table is not None else None
        return f"{member.namespace}/{member.app_id}" if member is not None else None

    async def retire(self, *, within: float) -> None:
        if self._placement is None or self._runtime is None or self.client.table is None:
            return
        me, clock = self.client.member, self._clock
        others = [other for node, other in self.client.table.members.items() if node != me.node]
        if not any(
            me.app_id == other.app_id and me.namespace == other.namespace and other.weight > 0
            for other in others
        ):
            return
        # Nothing new comes here, and what is here moves while both live: nobody waits for the end of this node's
        # activities.
        self.client.announce(msgspec.structs.replace(me, weight=0, workflows=(), activities=()))
        deadline = clock.monotonic() + within
        while self._runtime.host.owned and clock.monotonic() < deadline:
            await clock.sleep(0.02)

    async def leave(self) -> None:
        if self._placement is not None:
            await self._placement.leave()

    async def stop(self) -> None:
        if self._placement is not None:
            await self._placement.stop()
        if self._peers is not None:
            self._peers.close()
        await self._server.stop()
