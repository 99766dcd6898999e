"""Leads placement while it has the lease: the shell around the service that reads, writes and sends."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection

from perdure.clock import Cancellable, Clock
from perdure.errors import ConfigurationError, CorruptState, StoreError, StoreUnavailable
from perdure.logs import fields
from perdure.placement.admission import refusal
from perdure.placement.messages import (
    Bye,
    Heartbeat,
    Hello,
    Message,
    Pulse,
    Redirect,
    Refused,
    Renew,
    TableUpdate,
)
from perdure.placement.observer import Observer
from perdure.placement.options import PlacementOptions
from perdure.placement.service import NONE, Action, Gone, PlacementService, Publish, StoreTable
from perdure.placement.session import Receiver, Session
from perdure.placement.table import Table, decode, encode
from perdure.statestore.contract import ExpiringLease, Lease

_log = logging.getLogger("perdure.placement")

#: Seconds after its end at which a lease is surely expired for all who look.
_LATER = 0.02


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
        observer: Observer | None = None,
        options: PlacementOptions | None = None,
    ) -> None:
        """`address`: where nodes reach this replica. `exclusive`: see `PlacementService`; also, such a lease is
        never lost, and need not be proven."""
        self._lease = lease
        self._clock = clock
        self._partitions = partitions
        self._address = address
        self._exclusive = exclusive
        self._observer = observer or Observer()
        self._options = options or PlacementOptions()
        #: Asked before each try to take the lease: whether another is known to lead.
        self.led: Callable[[], bool] = lambda: False
        #: Called when this replica begins to lead.
        self.on_lead: Callable[[], object] = lambda: None
        self._service: PlacementService | None = None
        self._pending: Table | None = None
        self._pending_since = 0.0
        #: The stored table was there, and could not be read.
        self._unread = False
        #: The newest table that this process knows, whether the store still has it or not.
        self.known: Callable[[], Table | None] = lambda: None
        #: The last one that it published.
        self._last: Table | None = None
        #: What is wrong with the store, as far as it was logged.
        self._trouble = ""
        #: Where the leader was when the store was last asked, and when that was.
        self._located = ("", -math.inf)
        self._locating: asyncio.Task[str] | None = None
        #: When the last write that the store accepted was begun: from then on the lease stood.
        self._proven_at = -math.inf
        self._wake = asyncio.Event()
        self._published = asyncio.Event()
        self._tried = asyncio.Event()
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
    def trouble(self) -> str:
        """Why the store did not answer when it was last asked; empty if it did."""
        return self._trouble

    @property
    def term(self) -> int | None:
        """The term under which this replica leads; None while it does not."""
        return self._service.term if self._service is not None and not self._service.ended else None

    @property
    def found(self) -> Table | None:
        """The table that it found in the store when it began to lead; None while it does not lead."""
        return self._service.found if self._service is not None else None

    @property
    def table(self) -> Table | None:
        """The newest table that it stored and published; None while it does not lead."""
        return self._service.table if self._service is not None else None

    async def run(self) -> None:
        """Leads whenever the lease can be had, until `stop`. While another is known to lead (`led`) the store is not
        asked; else at most once in `acquire` seconds, more or less, as standbys had better not all ask at once.
        `ConfigurationError` if the first try shows that no other could be better."""
        #: Since when, at least, it has found the lease with another.
        held_since: float | None = None
        while not self._stopped:
            delay = self._options.tick
            if self.led():
                held_since = None
            else:
                try:
                    if await self.acquire():
                        await self.lead()
                        held_since = None
                    elif held_since is None:
                        held_since = self._clock.monotonic()
                    self._store_answers()
                except StoreError as error:
                    self._store_troubles(error)
                except Exception as error:
                    # What cannot be right from the start is told at the start; else a later try may be better.
                    if isinstance(error, ConfigurationError) and not self._tried.is_set():
                        raise
                    _log.exception("placement failed")
                delay = self._options.acquire * (0.75 + self._clock.token(1)[0] / 510)
                if held_since is not None and self._lease_life > 0:
                    # When it has expired, if nobody renewed it since.
                    expired = held_since + self._lease_life + _LATER - self._clock.monotonic()
                    delay = expired if 0 < expired < delay else delay
            if not self._stopped:
                self._wake.clear()
                await self._rest(delay)

    def _store_troubles(self, error: StoreError) -> None:
        """A store that is away is asked several times a second, which is news only once."""
        self._tried.set()
        if self._trouble != str(error):
            self._trouble = str(error)
            _log.warning("placement store failed", extra=fields(error=self._trouble))

    def _store_answers(self) -> None:
        if self._trouble:
            self._trouble = ""
            _log.info("placement store answers again")

    @property
    def _lease_life(self) -> float:
        return self._lease.life if isinstance(self._lease, ExpiringLease) else 0.0

    async def tried(self) -> None:
        """Returns when `run` has tried once to lead."""
        await self._tried.wait()

    async def acquire(self) -> bool:
        """Tries once to take the lease and to read the stored table; False when another leads."""
        began = self._clock.monotonic()
        term = await self._lease.acquire()
        if term is None:
            self._tried.set()
            return False
        try:
            previous = await self._stored_table()
            lost = False
            for known in (self._last, self.known()):
                if known is not None and known.name > (previous.name if previous is not None else NONE):
                    previous, lost = known, not self._exclusive
            if lost:
                _log.error("placement store lost tables", extra=fields(term=term))
            self._service = PlacementService(
                term,
                self._partitions,
                previous,
                self._clock.monotonic(),
                leader=self._address,
                exclusive=self._exclusive,
                unread=self._unread,
                lease_life=self._lease_life,
                lost=lost,
                options=self._options,
            )
        except BaseException:
            await self._give_back()
            raise
        self._proven_at = began
        _log.info(
            "placement leads", extra=fields(term=term, members=len(previous.members) if previous else 0)
        )
        self._do(self._service.start())
        self._tick_soon()
        self.on_lead()
        self._tried.set()
        return True

    def expect(self, members: int) -> None:
        """After `acquire`: so many nodes are about to join; see `PlacementService.expect`."""
        if self._service is not None:
            self._service.expect(members)

    async def lead(self) -> None:
        """After `acquire`: stores tables and proves the lease, until `stop`. `StoreError` when the store refuses."""
        try:
            await self._write_tables()
        finally:
            self._step_down()
            await self._give_back()

    async def _give_back(self) -> None:
        try:
            await self._lease.release()
        except StoreError as error:
            # It is gone, or will expire.
            _log.info("placement lease not given back", extra=fields(error=str(error)))

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
        """The address of whoever leads now, or led last; empty if none is known. The store is asked by one at a
        time, and not again within `tick` seconds."""
        if self.term is not None:
            return self._address
        address, at = self._located
        if self._clock.monotonic() - at < self._options.tick:
            return address
        if self._locating is None:
            self._locating = self._clock.spawn(self._read_leader(), name="placement-locate")
        return await asyncio.shield(self._locating)

    async def _read_leader(self) -> str:
        # While the store gives no answer: where the leader was when it did.
        address, _ = self._located
        try:
            table = await self._stored_table()
            # Also where that is this replica's own: another process may have the same by mistake, and lead.
            address = table.leader if table is not None else ""
        except StoreError as error:
            self._store_troubles(error)
        finally:
            self._locating = None
        self._located = address, self._clock.monotonic()
        return address

    def accept(
        self, session: Session, *, resident: bool = False, apps: Collection[str] = frozenset()
    ) -> Receiver:
        """Takes a new link from a node; what the node sends goes to the receiver returned. `apps`: those that its
        certificate is for, as `<namespace>/<app id>`; empty: any. A resident is trusted."""
        peer = _Peer(self, session, resident, apps)
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
            case Hello():
                self._hello(peer, message, service, now)
            case Heartbeat(node=node, at=at, applied=applied) if node == peer.node:
                self._observer.heard()
                answer = service.heard(node, at, applied, now, shares=message.shares, usage=message.usage)
                self._do(answer)
            case Renew(node=node, held=held) if node == peer.node:
                self._do(service.renew(node, held, now))
            case Bye(node=node, running=running) if node == peer.node:
                self._do(service.leave(node, now, running=running))
            case _ if not peer.refused:
                # Its hello was lost, or it speaks for another: it may come again, and say who it is.
                _log.warning(
                    "placement message out of turn", extra=fields(kind=type(message).__name__, node=peer.node)
                )
                peer.session.close()
        self._tick_soon()

    def _hello(self, peer: _Peer, hello: Hello, service: PlacementService, now: float) -> None:
        node = hello.member.node
        reason = None if peer.resident else refusal(hello, peer.apps) or _impostor(peer, hello, service)
        peer.refused = reason is not None
        if reason is not None:
            self._observer.refused()
            _log.warning("placement refuses a node", extra=fields(node=node, reason=reason))
            peer.session.send(Refused(reason))
            return
        peer.node = node
        self._by_node[node] = peer
        self._do(service.join(hello.member, now, applied=hello.applied, resident=peer.resident))

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
                self._pending_since = self._clock.monotonic()
                self._wake.set()
            elif isinstance(action, Gone):
                self._observer.gone(action.reason)
                level = logging.INFO if action.reason == "left" else logging.WARNING
                _log.log(level, "placement member gone", extra=fields(node=action.node, reason=action.reason))
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
        self._last = table
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
        self._with(lambda service: service.tick(now, now - due, proven=self.leading))

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
                    self._store_troubles(error)
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
            self._store_answers()
            return
        await self._lease.write(encode(table))
        self._proven_at = began
        self._store_answers()
        if table is self._pending:
            self._pending = None
            now = self._clock.monotonic()
            self._observer.stored(service.table, table, now - self._pending_since)
            self._do(service.stored(table, now))

    async def _rest(self, delay: float) -> None:
        """Until there is something to do, at most for a time."""
        timer = self._clock.call_later(delay, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _stored_table(self) -> Table | None:
        self._unread = False
        data = await self._lease.read()
        if not data:
            return None
        try:
            return decode(data)
        except CorruptState as error:
            # A new table under a higher term is safe, fences see to it; it only moves more than it had to.
            _log.error("placement table unreadable", extra=fields(error=str(error)))
            self._unread = True
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


def _impostor(peer: _Peer, hello: Hello, service: PlacementService) -> str | None:
    """One link is one node's, and one node is one app's."""
    member = hello.member
    known = service.member(member.node)
    if peer.node not in ("", member.node):
        return f"on this link it has said that it is node {peer.node}"
    if known is not None and (known.namespace, known.app_id) != (member.namespace, member.app_id):
        return f"node {member.node} is of app {known.namespace}/{known.app_id}"
    return None


class _Peer:
    """The service's end of one link."""

    def __init__(
        self, leader: PlacementLeader, session: Session, resident: bool, apps: Collection[str]
    ) -> None:
        self._leader = leader
        self.session = session
        self.resident = resident
        self.apps = apps
        #: Who it is; empty before its hello.
        self.node = ""
        self.refused = False

    def received(self, message: Message) -> None:
        self._leader._received(self, message)

    def closed(self) -> None:
        self._leader._closed(self)
