"""The actors of one node: which partitions it owns, which activations live, and what arrives for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from perdure.actors.activation import Activation, Phase
from perdure.actors.messages import Message
from perdure.actors.reminders import ReminderClock
from perdure.actors.turn import Behaviour
from perdure.clock import Clock
from perdure.errors import DeadlineExceeded, Moved, NotRegistered, PerdureError, StoreError
from perdure.logs import fields
from perdure.placement.hashing import partition_of
from perdure.statestore.committer import Committer
from perdure.statestore.contract import ActorId, Fence, Reminder, StateStore, TypePartition

log = logging.getLogger("perdure.actors")

#: Seconds between two ticks: the unit in which idleness is measured.
TICK = 1.0
#: Ticks between two comparisons of what the store says is owed with what is live.
SWEEP_TICKS = 30
#: How many activations are looked at in one go when there are too many, and the seconds to the next go.
EVICT_SLICE = 1000
EVICT_PAUSE = 0.02
#: Actors that owe work and are being activated at a time, while partitions are taken over.
WAKE_LIMIT = 500
#: Messages that wait at most for partitions that are on their way here.
PARKED_LIMIT = 10_000

_NO_TABLE = Fence(0, 0)


class ActorType(Protocol):
    """An actor type with state, as its host sees it."""

    name: str
    #: Seconds without a message after which an activation may be evicted.
    idle_timeout: float

    def create(self, activation: Activation) -> Behaviour:
        """The behaviour of one activation. No I/O."""

    def reminder(self, reminder: Reminder, answer: Callable[[object], None]) -> Message:
        """The message that a due reminder is for its actor."""


class Owned:
    """One partition that this node serves."""

    __slots__ = ("crashed", "fence", "since")

    def __init__(self, fence: Fence, crashed: bool, since: float) -> None:
        self.fence = fence
        #: Its last owner did not release it: what is woken here may be what killed that owner.
        self.crashed = crashed
        #: Monotonic time from which this node has served it.
        self.since = since


class ActorHost:
    """INVARIANT: an activation exists only in a partition in `owned`, and commits with that partition's fence."""

    def __init__(
        self,
        *,
        clock: Clock,
        store: StateStore,
        committer: Committer,
        partitions: int,
        fresh: Callable[[], bool],
        max_active: int = 10_000,
    ) -> None:
        self.clock = clock
        self.store = store
        self.committer = committer
        self.partitions = partitions
        #: Whether a turn that wrote nothing may answer without a commit: see DESIGN of reads in docs/guarantees.md.
        self.fresh = fresh
        self.types: dict[str, ActorType] = {}
        self.activations: dict[ActorId, Activation] = {}
        self.owned: dict[TypePartition, Owned] = {}
        #: Partitions on their way to this node, with the messages that wait for them.
        self.coming: dict[TypePartition, list[Message]] = {}
        self._parked = 0
        #: Activations of partitions that are served no more, whose last turn or commit is under way.
        self.retiring: dict[TypePartition, dict[Activation, None]] = {}
        #: The table that this node goes by, and partitions of which it knows that a newer one moves them.
        self.newest = _NO_TABLE
        self.newer: dict[TypePartition, Fence] = {}
        #: Called when the last activation of a partition has retired.
        self.on_retired: Callable[[TypePartition], None] = lambda _: None
        self.reminders = ReminderClock(self)
        self.tick = 0
        #: Called with (actor type, partition, own fence, stored fence) when the store says that somebody else owns it.
        self.on_fenced: Callable[[str, int, Fence, Fence | None], None] = lambda *_: None
        #: Called with each partition that is served from now on.
        self.on_owned: Callable[[TypePartition], None] = lambda _: None
        #: True for an actor whose owed work is under way although it has no activation.
        self.accounted: Callable[[ActorId], bool] = lambda _: False
        #: Called with a test of whether an actor was in one of the partitions that were just lost.
        self.on_disowned: Callable[[Callable[[ActorId], bool]], None] = lambda _: None
        #: Called with partitions that this node serves from now on, before anything is activated there.
        self.on_taken: Callable[[Sequence[TypePartition]], None] = lambda _: None
        self._max_active = max_active
        self._evicting = False
        self._accepting = True
        self._rota: Iterator[Activation] = iter(())
        self.closed = False

    def register(self, actor_type: ActorType) -> None:
        self.types[actor_type.name] = actor_type

    def start(self) -> None:
        self.clock.call_later(TICK, self._tick)

    def stop_turns(self) -> None:
        """No new message is taken: each is answered with `Moved`, so that its sender looks elsewhere."""
        self._accepting = False

    def close(self) -> None:
        """Drops every activation."""
        self.closed = True
        self._accepting = False
        self.reminders.close()
        self.disown(list(self.owned), Moved("the node is stopping"))
        self.expect(())

    @property
    def busy(self) -> bool:
        """Whether any activation has a turn or commit under way, or messages waiting."""
        return any(
            a.mailbox or a.phase in (Phase.TURN, Phase.COMMITTING, Phase.LOADING)
            for a in self.activations.values()
        )

    # --- messages --------------------------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """Takes a message for an actor that this node owns; any other is answered with `Moved`."""
        activation = self.activations.get(message.target)
        if activation is None:
            if not self._accepting:
                message.answer(Moved("the node is stopping"))
                return
            activation = self._activate(message.target, message)
            if activation is None:
                return
        activation.deliver(message)

    def _activate(self, actor: ActorId, message: Message | None) -> Activation | None:
        if actor.type not in self.types:
            if message is not None:
                message.answer(NotRegistered(f"no actor type {actor.type!r} is registered here"))
            return None
        partition = partition_of(actor.id, self.partitions)
        key = TypePartition(actor.type, partition)
        owned = self.owned.get(key)
        if owned is None:
            if message is not None:
                self._not_owned(key, message)
            return None
        activation = Activation(self, actor, partition, owned.fence)
        activation.touched = self.tick
        self.activations[actor] = activation
        activation.load()
        return activation

    def _not_owned(self, key: TypePartition, message: Message) -> None:
        """A message for a partition that is on its way here waits for it, as long as its sender does."""
        waiting = self.coming.get(key)
        if waiting is None or self._parked >= PARKED_LIMIT:
            message.answer(self._moved(key))
            return
        waiting.append(message)
        self._parked += 1
        if message.deadline is not None:
            left = max(0.0, message.deadline - self.clock.monotonic())
            self.clock.call_later(left, self._give_up, key, message)

    def _give_up(self, key: TypePartition, message: Message) -> None:
        waiting = self.coming.get(key, [])
        for index, other in enumerate(waiting):
            if other is message:
                del waiting[index]
                self._parked -= 1
                message.answer(DeadlineExceeded(f"{message.target}: its partition did not come here in time"))
                return

    def _moved(self, key: TypePartition) -> Moved:
        name = max(self.newest, self.newer.get(key, _NO_TABLE))
        return Moved(term=name.term, epoch=name.epoch)

    def moved(self, activation: Activation) -> Moved:
        """What whoever waits for an activation is told whose partition was lost."""
        return self._moved(TypePartition(activation.actor.type, activation.partition))

    def wake(self, actor: ActorId) -> None:
        """Activates an actor that owes work, or lets the live one look again."""
        activation = self.activations.get(actor)
        if activation is None:
            self._activate(actor, None)
        else:
            activation.wake()

    def crashed(self, actor: ActorId, partition: int) -> bool:
        owned = self.owned.get(TypePartition(actor.type, partition))
        return owned is not None and owned.crashed

    # --- ownership -------------------------------------------------------------------------------------------------

    def own(self, key: TypePartition, fence: Fence, *, crashed: bool) -> None:
        """The store has raised the fence for this node: serve the partition."""
        assert key not in self.retiring, f"{key} has not been given back"
        self.owned[key] = Owned(fence, crashed, self.clock.monotonic())
        self.on_owned(key)
        for message in self._unpark(key):
            self.deliver(message)

    def expect(self, keys: Iterable[TypePartition]) -> None:
        """These partitions, and no others, are on their way here: messages for them wait."""
        coming = set(keys)
        for key in [key for key in self.coming if key not in coming]:
            self.expect_no_more(key)
        for key in sorted(coming - self.coming.keys()):
            self.coming[key] = []

    def expect_no_more(self, key: TypePartition) -> None:
        """Who knows when this partition comes here, if it does: nobody waits for it."""
        for message in self._unpark(key):
            message.answer(self._moved(key))

    def _unpark(self, key: TypePartition) -> list[Message]:
        waiting = self.coming.pop(key, [])
        self._parked -= len(waiting)
        return waiting

    def disown(self, keys: Iterable[TypePartition], reason: PerdureError) -> None:
        """Serves the partitions no longer: their activations are dropped, what waits there is answered `reason`."""
        for activation in self._disowned(keys):
            activation.drop(reason)

    def retire(self, keys: Iterable[TypePartition], reason: PerdureError) -> None:
        """As `disown`, but what is under way comes to its end: `retiring` has the partitions where it has not, and
        `on_retired` is called for each when it has."""
        for activation in self._disowned(keys):
            if activation.retire(reason):
                key = TypePartition(activation.actor.type, activation.partition)
                self.retiring.setdefault(key, {})[activation] = None

    def _disowned(self, keys: Iterable[TypePartition]) -> list[Activation]:
        lost = {key for key in keys if self.owned.pop(key, None) is not None}
        if not lost:
            return []
        self.reminders.disowned(lost)
        gone = [a for a in self.activations.values() if (a.actor.type, a.partition) in lost]
        for activation in gone:
            self.activations.pop(activation.actor, None)
        self.on_disowned(
            lambda actor: TypePartition(actor.type, partition_of(actor.id, self.partitions)) in lost
        )
        return gone

    def retired(self, activation: Activation) -> None:
        """The last thing that a retiring activation had under way has ended."""
        key = TypePartition(activation.actor.type, activation.partition)
        left = self.retiring.get(key)
        if left is None or activation not in left:
            return
        del left[activation]
        if not left:
            del self.retiring[key]
            self.on_retired(key)

    def drop_retiring(self, key: TypePartition) -> None:
        """Waits no longer for what is under way in a partition that is served no more."""
        for activation in list(self.retiring.pop(key, ())):
            activation.drop(self.moved(activation))

    def fenced(self, actor_type: str, partition: int, fence: Fence, stored: Fence | None) -> None:
        key = TypePartition(actor_type, partition)
        owned = self.owned.get(key)
        if owned is None or owned.fence != fence:
            return
        log.warning(
            "partition.fenced", extra=fields(type=actor_type, partition=partition, fence=fence, stored=stored)
        )
        if stored is not None and stored > fence:
            self.newer[key] = stored
        self.disown([key], self._moved(key))
        self.on_fenced(actor_type, partition, fence, stored)

    async def recover(self, keys: Iterable[TypePartition]) -> None:
        """Activates what owes work in these partitions, a bounded number at a time, in pages."""
        held = [key for key in keys if key in self.owned]
        cursor: str | None = None
        while held and not self.closed:
            page = await self.store.owing(held, cursor, WAKE_LIMIT)
            for actor in page.items:
                activation = self.activations.get(actor)
                if activation is not None:
                    # It looks again, in case it has missed something; mostly there is nothing to do.
                    activation.wake()
                elif not self.accounted(actor):
                    self._activate(actor, None)
            cursor = page.cursor
            if cursor is None:
                return
            await self._settled()

    async def _settled(self) -> None:
        """Waits until loading activations are few, so that a take-over never floods the node."""
        while not self.closed:
            loading = sum(1 for a in self.activations.values() if a.phase is Phase.LOADING)
            if loading < WAKE_LIMIT:
                return
            await self.clock.sleep(0.005)

    # --- housekeeping ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.closed:
            return
        self.tick += 1
        self._evict()
        if self.tick % SWEEP_TICKS == 0:
            self.clock.spawn(self._sweep())
        self.clock.call_later(TICK, self._tick)

    async def _sweep(self) -> None:
        """Owed work is derived from the store alone: whatever was missed in memory is found here."""
        try:
            await self.recover(list(self.owned))
        except StoreError as error:
            log.warning("sweep.failed", extra=fields(reason=error))

    def _evict(self) -> None:
        """Looks at a tenth of the activations per tick; at all of them, in slices, when there are too many."""
        crowded = len(self.activations) > self._max_active
        for _ in range(EVICT_SLICE if crowded else len(self.activations) // 10 + 1):
            activation = next(self._rota, None)
            if activation is None:
                self._rota = iter(list(self.activations.values()))
                return
            limit = 1 if crowded else self.types[activation.actor.type].idle_timeout / TICK
            if self.tick - activation.touched > limit:
                self.evict(activation)
        if crowded and not self._evicting:
            self._evicting = True
            self.clock.call_later(EVICT_PAUSE, self._evict_more)

    def _evict_more(self) -> None:
        self._evicting = False
        if not self.closed:
            self._evict()

    def evict(self, activation: Activation) -> bool:
        """Drops an activation that is idle; False when it is not. What it owes is in the store."""
        if activation.phase is Phase.BROKEN:
            pass
        elif not activation.idle or not activation.behaviour.evictable():
            return False
        if self.activations.get(activation.actor) is activation:
            del self.activations[activation.actor]
        activation.drop(Moved())
        return True
