"""Ground: what the parent holds for its nodes when their store is one that belongs to a single process."""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import urlsplit

import msgspec

from perdure import links
from perdure.clock import Clock
from perdure.errors import StoreHeld
from perdure.membership import ClusterOptions
from perdure.placement.leader import PlacementLeader
from perdure.placement.network import PATH, accept_links
from perdure.security import Security
from perdure.statestore.contract import StateStore
from perdure.statestore.socket.server import StoreServer
from perdure.statestore.urls import open_store
from perdure.supervisor.folder import PrivateFolder

#: Stores of one process. All others are shared: their nodes need nobody between.
OF_ONE_PROCESS = ("sqlite", "memory")
LOOPBACK = "127.0.0.1"


def of_one_process(store: str) -> bool:
    """Whether the URL is of a store that one process has for itself."""
    return urlsplit(store).scheme in OF_ONE_PROCESS


class Ground:
    """The store, open and served on a Unix socket, and placement for its nodes, which leads alone: that the store
    could be opened proves that no other parent lives, and nodes of a former one lost their way to the store with it.
    """

    def __init__(self, url: str, clock: Clock, nodes: int) -> None:
        self._url = url
        self._nodes = nodes
        self._clock = clock
        self._store: StateStore | None = None
        self._folder: PrivateFolder | None = None
        self._server: StoreServer | None = None
        self._links: links.LinkServer | None = None
        self._leader: PlacementLeader | None = None
        self._gate = Gate()
        # What listens on the loopback interface, every user of this machine can reach.
        self._token = secrets.token_urlsafe(32)
        #: Done when placement has ended, as it does not by itself.
        self.leading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens and serves. `StoreHeld` when another process has the store."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        store = self._store = open_store(self._url)
        settings = await store.settings()
        self._folder = PrivateFolder()
        self._server = StoreServer(store, self._folder.socket)
        await self._server.start()
        self._links = links.LinkServer(LOOPBACK, 0, security=Security(token=self._token), clock=self._clock)
        await self._links.start()
        leader = PlacementLeader(
            store.lease("placement"),
            self._clock,
            settings.partitions,
            address=self._links.address,
            exclusive=True,
        )
        if not await leader.acquire():
            raise StoreHeld(f"{self._url} is in use in this process already")
        self._leader = leader
        leader.expect(self._nodes)
        self.leading = self._clock.spawn(leader.lead(), name="placement-leader")
        self._links.accept(PATH, self._gate.guard(accept_links(leader)))

    @property
    def store_url(self) -> str:
        assert self._server is not None
        return self._server.url

    def cluster(self, given: ClusterOptions) -> ClusterOptions:
        """How a node takes part: by loopback links alone, whatever was said of other machines."""
        assert self._links is not None
        return msgspec.structs.replace(
            given,
            placement=self._links.address,
            peer_port=0,
            advertise=LOOPBACK,
            security=Security(token=self._token),
        )

    def announce(self, address: str) -> None:
        """Names the nodes' HTTP address to other processes that want the store."""
        announce = getattr(self._store, "announce", None)
        if announce is not None:
            announce(address)

    def gone(self, node: str) -> None:
        """The process of this node has ended: what it had need not wait until it is missed."""
        if self._leader is not None and not self._gate.shut:
            self._leader.set_aside(node)

    def freeze(self) -> None:
        """All nodes stop: whoever goes first, nothing moves to those who go next."""
        self._gate.shut = True

    async def stop(self) -> None:
        """Closes everything, after the nodes have ended. Idempotent."""
        if self._links is not None:
            await self._links.stop()
        if self._leader is not None:
            self._leader.stop()
        if self.leading is not None:
            await asyncio.gather(self.leading, return_exceptions=True)
        if self._server is not None:
            await self._server.stop()
        if self._folder is not None:
            self._folder.remove()
        store, self._store = self._store, None
        if store is not None:
            await store.close()


class Gate:
    """Lets what nodes say through to placement, until it is shut."""

    def __init__(self) -> None:
        self.shut = False

    def guard(self, accept: links.Accept) -> links.Accept:
        return lambda link: _Guarded(self, accept(link))


class _Guarded:
    def __init__(self, gate: Gate, receiver: links.Receiver) -> None:
        self._gate = gate
        self._receiver = receiver

    def received(self, frame: bytes) -> None:
        if not self._gate.shut:
            self._receiver.received(frame)

    def closed(self) -> None:
        if not self._gate.shut:
            self._receiver.closed()
