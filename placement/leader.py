"""Leads placement while it has the lease: the shell around the service that reads, writes and sends."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from perdure.clock import Cancellable, Clock
from perdure.errors import CorruptState, StoreError, StoreUnavailable
from perdure.logs import fields
from perdure.placement.messages import Bye, Heartbeat, Hello, Message, Pulse, Redirect, Renew, TableUpdate
from perdure.placement.options import PlacementOptions
from perdure.placement.service import Action, PlacementService, Publish, StoreTable
from perdure.placement.session import Receiver, Session
from perdure.placement.table import Table, decode, encode
from perdure.statestore.contract import Lease

_log = logging.getLogger("perdure.placement")


class PlacementLeader:
    """One replica of the placement service: leads, or tells where the leader is."""

    def __init__(
        self,
        lease: Lease,
        clock: Clock,
        partitions: int,
        *,
        address: str = "",
        exclusive: bool = False,
        options: PlacementOptions | None = None,
    ) -> None:
        """`address`: where nodes reach this replica. `exclusive`: see `PlacementService`; also, such a lease is
        never lost, and need not be proven."""
        self._lease = lease
        self._clock = clock
        self._partitions = partitions
        self._address = address
        self._exclusive = exclusive
        self._options = options or PlacementOptions()
        self._service: PlacementService | None = None
        self._pending: Table | None = None
        #: When the last write that the store accepted was begun: from then on the lease stood.
        self._proven_at = -math.inf
        self._wake = asyncio.Event()
        self._published = asyncio.Event()
        self._stopped = False
        self._ticker: Cancellable | None = None
        #: In order of arrival, so that a seed repeats a run.
        self._peers: dict[_Peer, None] = {}
        self._by_node: dict[str, _Peer] = {}

    @property
    def exclusive(self) -> bool:
        return self._exclusive

    @property
    def leading(self) -> bool:
        """This replica leads, and can vouch for it: no other leader can have taken a member for gone."""
        if self._service is None or self._service.ended:
            return False
        return self._exclusive or self._clock.monotonic() - self._proven_at <= self._options.confirm_within

    @property
    def table(self) -> Table | None:
        """The newest table that it stored and published; None while it does not lead."""
        return self._service.table if self._service is not None else None

    async def run(self) -> None:
        """Leads whenever the lease can be had, until `stop`."""
        while not self._stopped:
            try:
                if await self.acquire():
                    await self.lead()
            except StoreError as error:
                _log.warning("placement store failed", extra=fields(error=str(error)))
            if not self._stopped:
                self._wake.clear()
                await self._rest(self._options.acquire)

    async def acquire(self) -> bool:
        """Tries once to take the lease and to read the stored table; False when another leads."""
        began = self._clock.monotonic()
        term = await self._lease.acquire()
        if term is None:
            return False
        try:
            previous = await self._stored_table()
            self._service = PlacementService(
                term,
                self._partitions,
                previous,
                self._clock.monotonic(),
                leader=self._address,
                exclusive=self._exclusive,
                options=self._options,
            )
        except BaseException:
            await self._lease.release()
            raise
        self._proven_at = began
        _log.info(
            "placement leads", extra=fields(term=term, members=len(previous.members) if previous else 0)
        )
        self._do(self._service.start())
        self._tick_soon()
        return True

    async def lead(self) -> None:
        """After `acquire`: stores tables and proves the lease, until `stop`. `StoreError` when the store refuses."""
        try:
            await self._write_tables()
        finally:
            self._step_down()
            await self._lease.release()

    def stop(self) -> None:
        """Ends `run` or `lead`, which then give the lease back. Idempotent."""
        self._stopped = True
        self._wake.set()

    async def without(self, node: str, within: float) -> None:
        """Returns when the stored table does not have the node, when this replica does not lead, or after `within`
        seconds."""
        due = self._clock.monotonic() + within
        while self.table is not None and node in self.table.members:
            left = due - self._clock.monotonic()
            if left <= 0:
                return
            self._published.clear()
            timer = self._clock.call_later(left, self._published.set)
            await self._published.wait()
            timer.cancel()

    async def locate(self) -> str:
        """The address of whoever leads now, or led last; empty if none is known."""
        try:
            table = await self._stored_table()
        except StoreError:
            return ""
        return table.leader if table is not None else ""

    def accept(self, session: Session, *, resident: bool = False) -> Receiver:
        """Takes a new link from a node; what the node sends goes to the receiver returned."""
        peer = _Peer(self, session, resident)
        self._peers[peer] = None
        return peer

    def set_aside(self, node: str) -> None:
        """Takes a node out of the table although its link stands."""
        self._with(lambda service: service.set_aside(node, self._clock.monotonic()))

    # --- what arrives -----------------------------------------------------------------------------------------------

    def _received(self, peer: _Peer, message: Message) -> None:
        now = self._clock.monotonic()
        service = self._service
        if service is None or service.ended:
            if isinstance(message, Hello):
                self._clock.spawn(self._redirect(peer), name="placement-redirect")
            return
        match message:
            case Hello(member=member):
                self._bind(peer, member.node)
                self._do(service.join(member, now, resident=peer.resident))
            case Heartbeat(node=node, at=at, applied=applied):
                self._bind(peer, node)
                self._do(service.heard(node, at, applied, now))
            case Renew(node=node, held=held):
                self._do(service.renew(node, held, now))
            case Bye(node=node):
                self._do(service.leave(node, now))
            case _:
                _log.warning("placement message ignored", extra=fields(kind=type(message).__name__))
        self._tick_soon()

    def _bind(self, peer: _Peer, node: str) -> None:
        peer.node = node
        self._by_node[node] = peer

    def _closed(self, peer: _Peer) -> None:
        self._peers.pop(peer, None)
        # A node that is back on another link already has lost nothing.
        if peer.node and self._by_node.get(peer.node) is peer:
            del self._by_node[peer.node]
            self._with(lambda service: service.link_closed(peer.node, self._clock.monotonic()))

    async def _redirect(self, peer: _Peer) -> None:
        address = await self.locate()
        peer.session.send(Redirect("" if address == self._address else address))

    # --- what to do about it ----------------------------------------------------------------------------------------

    def _with(self, ask: Callable[[PlacementService], list[Action]]) -> None:
        if self._service is not None:
            self._do(ask(self._service))
            self._tick_soon()

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StoreTable):
                self._pending = action.table
                self._wake.set()
            elif isinstance(action, Publish):
                self._publish(action.table)
            elif self.leading or not isinstance(action.message, Pulse):
                peer = self._by_node.get(action.node)
                if peer is not None:
                    peer.session.send(action.message)

    def _publish(self, table: Table) -> None:
        _log.info(
            "placement table", extra=fields(term=table.term, epoch=table.epoch, members=len(table.members))
        )
        self._published.set()
        update = TableUpdate(table)
        for peer in list(self._by_node.values()):
            peer.session.send(update)

    def _tick_soon(self) -> None:
        """A service of residents only is never called for nothing."""
        if self._ticker is None and self._service is not None and self._service.mortal:
            due = self._clock.monotonic() + self._options.tick
            self._ticker = self._clock.call_later(self._options.tick, self._tick, due)

    def _tick(self, due: float) -> None:
        self._ticker = None
        now = self._clock.monotonic()
        self._with(lambda service: service.tick(now, now - due))

    # --- the lease --------------------------------------------------------------------------------------------------

    async def _write_tables(self) -> None:
        while not self._stopped and self._service is not None:
            self._wake.clear()
            delay = self._options.confirm
            if self._pending is not None or not self._exclusive:
                try:
                    await self._prove(self._service, self._pending)
                except StoreUnavailable as error:
                    # Whether it was written is not known: the same table again, as long as it takes.
                    _log.warning("placement lease not proven", extra=fields(error=str(error)))
                    delay = self._options.tick
                except StoreError as error:
                    _log.warning("placement leads no more", extra=fields(error=str(error)))
                    raise
            await self._rest(delay)

    async def _prove(self, service: PlacementService, table: Table | None) -> None:
        """Renews the lease, or writes a table, which proves it as well."""
        began = self._clock.monotonic()
        if table is None:
            await self._lease.renew()
            self._proven_at = began
            return
        await self._lease.write(encode(table))
        self._proven_at = began
        if table is self._pending:
            self._pending = None
            self._do(service.stored(table, self._clock.monotonic()))

    async def _rest(self, delay: float) -> None:
        """Until there is something to do, at most for a time."""
        timer = self._clock.call_later(delay, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _stored_table(self) -> Table | None:
        data = await self._lease.read()
        if not data:
            return None
        try:
            return decode(data)
        except CorruptState as error:
            # A new table under a higher term is safe, fences see to it; it only moves more than it had to.
            _log.error("placement table unreadable", extra=fields(error=str(error)))
            return None

    def _step_down(self) -> None:
        if self._service is not None:
            self._service.refused()
        self._service = None
        self._pending = None
        self._published.set()
        self._by_node.clear()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for peer in list(self._peers):
            peer.session.close()


class _Peer:
    """The service's end of one link."""

    def __init__(self, leader: PlacementLeader, session: Session, resident: bool) -> None:
        self._leader = leader
        self.session = session
        self.resident = resident
        self.node = ""

    def received(self, message: Message) -> None:
        self._leader._received(self, message)

    def closed(self) -> None:
        self._leader._closed(self)
