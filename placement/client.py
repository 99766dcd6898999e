"""A node's part in placement: says that it lives, and keeps the newest table."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping

from perdure.clock import Cancellable, Clock
from perdure.errors import ConfigurationError, LinkRefused, Unavailable
from perdure.logs import fields
from perdure.placement.member import Member
from perdure.placement.messages import (
    Bye,
    FromNode,
    Heartbeat,
    Hello,
    Message,
    Pulse,
    Redirect,
    Refused,
    Renew,
    TableUpdate,
)
from perdure.placement.options import PlacementOptions
from perdure.placement.session import Connect, Session
from perdure.placement.shares import Holder, Shares
from perdure.placement.table import Table
from perdure.statestore.contract import Fence, TypePartition

_log = logging.getLogger("perdure.placement")

#: Called with the table before (None for the first) and the new one.
TableCallback = Callable[[Table | None, Table], object]
#: Tells the address of whoever leads; empty if unknown.
Locate = Callable[[], Awaitable[str]]

_FIRST_RECONNECT = 0.05
#: Redirects in a row that are followed at once.
_REDIRECTS = 3
#: Attempts in a row after which it is news that placement cannot be reached.
_NEWS = 3
#: Seconds between two logs of the same trouble.
_LOG_EVERY = 10.0


class PlacementClient:
    """One per node. Without placement it goes on with the table it has: fences keep that safe."""

    def __init__(
        self,
        member: Member,
        clock: Clock,
        connect: Connect,
        *,
        locate: Locate | None = None,
        vouched: Callable[[], bool] | None = None,
        options: PlacementOptions | None = None,
    ) -> None:
        """`locate` is asked before each attempt to connect. `vouched`: for a resident of the leader's own process,
        which neither sends heartbeats nor waits for words: whether that leader can vouch for itself."""
        self._member = member
        self._clock = clock
        self._connect = connect
        self._locate = locate
        self._vouched = vouched
        self._options = options or PlacementOptions()
        self._table: Table | None = None
        self._in_table = False
        self._callbacks: list[TableCallback] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._line: _Line | None = None
        self._leader = ""
        self._failures = 0
        self._redirects = 0
        self._logged_at = -math.inf
        #: Why placement refuses this node as it is; empty: it does not.
        self._refusal = ""
        self._word_came_at = -math.inf
        self._heard_at = -math.inf
        self._asked_at = -math.inf
        #: The newest table of placement's last word, and when the node asked for that word.
        self._word = (Fence(0, 0), -math.inf)
        self._fresh_until = -math.inf
        #: How many of each limited activity this node may run.
        self.shares = Holder(member, self._options.share, resident=vouched is not None)
        #: How many of each run, and how many more would if they might; by name.
        self.counts: Callable[[], Mapping[str, tuple[int, int]]] = dict
        #: Called when what is limited has changed, or more may run than before.
        self.on_shares: Callable[[], object] = lambda: None
        self._timer: Cancellable | None = None
        self._retry: Cancellable | None = None
        self._running = False

    @property
    def node(self) -> str:
        return self._member.node

    @property
    def member(self) -> Member:
        """What this node says of itself."""
        return self._member

    @property
    def table(self) -> Table | None:
        """The newest table that this node knows; None before the first."""
        return self._table

    @property
    def word(self) -> float:
        """Seconds for which a node believes placement's word about a table, at most."""
        return self._options.word

    @property
    def in_table(self) -> bool:
        """Whether the newest table has this node. While it has not, the node takes no new work."""
        return self._in_table

    @property
    def connected(self) -> bool:
        """Whether there is a link to placement now."""
        return self._line is not None and self._line.session is not None

    def fresh(self) -> bool:
        """Whether what the table gives this node is certainly still its own, so that it may answer a read without
        asking the store: placement's last word is recent, and names the table that is applied."""
        if self._vouched is not None:
            return self._in_table and self._vouched()
        return self._clock.monotonic() <= self._fresh_until

    def led(self, within: float) -> bool:
        """Whether there is a link to a leader that has vouched for itself within so many seconds."""
        return self.connected and self._clock.monotonic() - self._word_came_at <= within

    def on_table(self, callback: TableCallback) -> Callable[[], None]:
        """Calls back at each newer table, after `table` shows it. Returns how to end that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    def start(self) -> None:
        """Begins to connect, and to stay connected."""
        if not self._running:
            self._running = True
            self._reconnect(0.0)
            if self._vouched is None:
                self._timer = self._clock.call_later(self._options.heartbeat, self._beat)

    async def joined(self) -> Table:
        """The table, as soon as it has this node. `ConfigurationError` when placement refuses the node as it is,
        `Unavailable` when the client is stopped before."""
        while self._table is None or not self._in_table:
            if self._refusal:
                raise ConfigurationError(f"placement refuses this node: {self._refusal}")
            if not self._running:
                raise Unavailable("the node has left placement")
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                self._waiting.remove(waiter)
        return self._table

    def announce(self, member: Member) -> None:
        """What this node hosts has changed. The same node, or ValueError."""
        if member.node != self._member.node:
            raise ValueError("a node cannot become another: the new incarnation needs a client of its own")
        self._member = member
        self.shares.announced(member)
        self._hello()

    def renew(self, held: Collection[TypePartition]) -> None:
        """Asks for new fences for partitions of this node: the store has lost writes, or their fences. To be
        repeated until a table brings them."""
        self._send(Renew(self.node, tuple(held)))

    def reconnect(self) -> None:
        """Looks for the leader anew, at once."""
        if self._running:
            if self._retry is not None:
                self._retry.cancel()
            line, self._line = self._line, None
            if line is not None and line.session is not None:
                line.session.close()
            self._leader = ""
            self._failures = 0
            self._reconnect(0.0)

    def leave(self) -> None:
        """Says that this node has stopped all its work, and stops."""
        counts = self.counts()
        self._send(Bye(self.node, {name: running for name, (running, _) in counts.items() if running}))
        self.stop()

    def stop(self) -> None:
        """Closes the link, for good. The table stays as it is. Idempotent."""
        self._running = False
        self._fresh_until = -math.inf
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        line, self._line = self._line, None
        if line is not None and line.session is not None:
            line.session.close()
        self._wake()

    # --- the link ---------------------------------------------------------------------------------------------------

    def _reconnect(self, delay: float) -> None:
        self._line = line = _Line(self)
        self._retry = self._clock.call_later(delay, self._open, line)

    def _open(self, line: _Line) -> None:
        if self._running:
            self._clock.spawn(self._connect_line(line), name=f"placement-connect-{self.node}")

    async def _connect_line(self, line: _Line) -> None:
        address = self._leader
        try:
            if not address and self._locate is not None:
                address = await self._locate()
            session = await self._connect(address, line)
        except LinkRefused as error:
            self._refused(error.message)
            self._lost(line)
            return
        except Exception as error:  # noqa: BLE001 - whatever a link fails with, the node has to come back
            if line is self._line and self._failures >= _NEWS:
                self._log_trouble("placement unreachable", address=address, error=str(error))
            self._lost(line)
            return
        if line is not self._line:
            session.close()
            return
        line.session = session
        self._heard_at = self._clock.monotonic()
        self._hello()

    def _log_trouble(self, event: str, **about: str) -> None:
        now = self._clock.monotonic()
        if now - self._logged_at >= _LOG_EVERY:
            self._logged_at = now
            _log.warning(event, extra=fields(node=self.node, **about))

    def _lost(self, line: _Line, *, redirected: bool = False) -> None:
        if line is not self._line:
            return
        if line.session is not None:
            line.session.close()
        self._line = None
        if not self._running:
            return
        # Who was led here by a redirect asks anew when that leads nowhere.
        self._leader = ""
        if redirected and self._redirects < _REDIRECTS:
            self._redirects += 1
            self._reconnect(0.0)
            return
        delay = min(_FIRST_RECONNECT * 2**self._failures, self._options.reconnect_limit)
        self._failures = min(self._failures + 1, 16)
        # Nodes that lost one leader together must not come back all at once.
        self._reconnect(delay * (0.5 + self._clock.token(1)[0] / 510))

    def _send(self, message: FromNode) -> None:
        if self._line is not None and self._line.session is not None:
            self._line.session.send(message)

    def _hello(self) -> None:
        self._asked_at = self._clock.monotonic()
        self._send(Hello(self._member, applied=self._applied))

    def _beat(self) -> None:
        self._timer = self._clock.call_later(self._options.heartbeat, self._beat)
        line = self._line
        if line is None or line.session is None:
            return
        now = self._clock.monotonic()
        if now - self._heard_at > self._options.silence:
            # Half open: to the system the link stands, but nothing comes.
            self._lost(line)
            return
        usage = self.shares.report(self.counts(), now)
        self._send(Heartbeat(self.node, now, self._applied, self.shares.name, usage))
        if now - self._asked_at >= self._options.rejoin and not self._announced():
            self._hello()

    @property
    def _applied(self) -> Fence:
        return self._table.name if self._table is not None else Fence(0, 0)

    def _announced(self) -> bool:
        return self._table is not None and self._table.members.get(self.node) == self._member

    # --- what arrives -----------------------------------------------------------------------------------------------

    def _received(self, line: _Line, message: Message) -> None:
        if line is not self._line:
            return
        self._heard_at = self._clock.monotonic()
        match message:
            case TableUpdate(table=table):
                self._failures = self._redirects = 0
                self._apply(table)
            case Pulse(newest=newest, at=at, shares=shares):
                self._failures = self._redirects = 0
                self._word_came_at = self._heard_at
                self._word = max(self._word, (Fence(*newest), at))
                self._believe()
                if shares is not None:
                    self._share(shares, at)
            case Redirect(address=address):
                self._lost(line, redirected=address != "")
                self._leader = address
            case Refused(reason=reason):
                self._refused(reason)
            case _:
                _log.warning("placement message ignored", extra=fields(kind=type(message).__name__))

    def _share(self, shares: Shares, at: float) -> None:
        if self.shares.given(shares, at, self._heard_at):
            self.on_shares()

    def _refused(self, reason: str) -> None:
        """It is asked again from time to time: the reason may be of the moment, such as a twin."""
        if reason != self._refusal:
            _log.error("placement refuses this node", extra=fields(node=self.node, reason=reason))
        self._refusal = reason
        self._wake()

    def _apply(self, table: Table) -> None:
        old = self._table
        if old is not None and table.name <= old.name:
            return
        self._table = table
        limited = self.shares.limits
        self.shares.applied(table)
        was_in, self._in_table = self._in_table, self.node in table.members
        self._believe()
        if was_in and not self._in_table:
            _log.warning(
                "node out of the table", extra=fields(node=self.node, term=table.term, epoch=table.epoch)
            )
            self._hello()
        for callback in list(self._callbacks):
            try:
                callback(old, table)
            except Exception:  # noqa: BLE001 - one listener's fault must not keep the table from the others
                _log.exception("table callback failed", extra=fields(node=self.node))
        if self._in_table:
            self._refusal = ""
            self._wake()
        if limited or self.shares.limits:
            self.on_shares()

    def _believe(self) -> None:
        named, asked_at = self._word
        applied = self._table is not None and named == self._table.name
        self._fresh_until = asked_at + self._options.word if applied and self._in_table else -math.inf

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


async def joined_while(client: PlacementClient, clock: Clock, leading: asyncio.Task[None]) -> None:
    """Returns when the table has the node; raises what ends this process's own leader before, as no table may ever
    come then."""
    joining = clock.spawn(client.joined(), name=f"placement-join-{client.node}")
    try:
        await asyncio.wait((joining, leading), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not joining.done():
            joining.cancel()
    if not joining.done():
        await leading
        raise Unavailable("placement was stopped")
    joining.result()


class _Line:
    """The node's end of one link: what still comes from an earlier one is not heard."""

    def __init__(self, client: PlacementClient) -> None:
        self._client = client
        self.session: Session | None = None

    def received(self, message: Message) -> None:
        self._client._received(self, message)

    def closed(self) -> None:
        self._client._lost(self)
