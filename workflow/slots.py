"""The slots of a workflow of which only so many instances may be under way in the whole cluster: one actor per
workflow, which keeps who has one.

An instance asks before it starts and gives its slot back when it has ended, both however often it takes, so that
neither a crash nor a move changes how many there are. Unlike the shares of activities this needs no clock: instances
outlive nodes, and so do their slots.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.actors.activation import Activation
from perdure.actors.messages import Answer, Message
from perdure.actors.turn import Turn
from perdure.errors import CorruptState, Moved, StoreError
from perdure.logs import fields
from perdure.statestore.contract import ActorId, Reminder, Snapshot
from perdure.workflow.requests import Acquire, Granted, Release
from perdure.workflow.state import RuntimeStatus

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

log = logging.getLogger("perdure.workflow")

_HOLDER = "holder:"
#: Seconds for which instances wait before it is looked whether all that have a slot are still there and know of it,
#: and between two such looks: one that was purged by force never gave its slot back, and the owner that asked for one
#: may have lost the instance before it was answered.
AUDIT = 5.0


class Holder(msgspec.Struct, frozen=True, gc=False):
    """What the key of one instance that has a slot holds."""

    start_id: str
    #: When the instance was created.
    created: int
    #: Of the newest `Acquire`.
    ask: int = 0


_FINISHED = frozenset(status.value for status in RuntimeStatus if status.finished)
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Holder).decode


def _key(instance_id: str) -> str:
    # With something behind the id: one that ends in digits would make it a numbered key.
    return f"{_HOLDER}{instance_id}:"


class Slots:
    """Implements `perdure.actors.host.ActorType`."""

    idle_timeout = 60.0

    def __init__(self, engine: WorkflowEngine, limit: Callable[[str], int | None]) -> None:
        """`limit`: how many instances of a workflow may be under way; None: nobody says so any more."""
        self.engine = engine
        self.name = slots_type(engine.namespace, engine.app_id)
        self.limit = limit

    def create(self, activation: Activation) -> SlotsBehaviour:
        return SlotsBehaviour(self, activation)

    def reminder(self, reminder: Reminder, answer: Answer) -> Message:
        raise CorruptState(f"actor {reminder.actor} has a reminder, but its type sets none")

    def changed(self) -> None:
        """A limit may be another now."""
        for actor, activation in self.engine.host.activations.items():
            if actor.type == self.name:
                activation.wake()


class SlotsBehaviour:
    """INVARIANT: whoever is told that it has a slot has a key in the store, and there are never more keys than the
    limit, but for those that a higher one left behind."""

    def __init__(self, kind: Slots, activation: Activation) -> None:
        self._kind = kind
        self._activation = activation
        self._holders: dict[str, Holder] = {}
        #: Messages that wait, by their instance and start: several, if it has moved since it asked first.
        self._waiting: dict[tuple[str, str], list[Message]] = {}
        #: The same by age; who waits no more stays until its turn comes.
        self._ages: list[tuple[int, str, str]] = []
        #: More keys than a snapshot has are to be read.
        self._rest = False
        self._audit_due: float | None = None
        #: Found to have a slot without being there.
        self._stale: list[tuple[str, Holder]] = []

    # --- Behaviour ---------------------------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot | None) -> None:
        self._holders.clear()
        self._stale.clear()
        self._rest = snapshot is not None and not snapshot.complete
        for key, value in snapshot.values.items() if snapshot is not None else ():
            self._read(key, value)

    def step(self) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        return self._read_rest() if self._rest else self._turn()

    def committed(self, turn: Turn) -> None:
        if not self._waiting:
            self._audit_due = None

    def rejected(self, turn: Turn, reason: str) -> None:
        for message in turn.messages:
            if message in self._activation.mailbox:
                self._activation.mailbox.remove(message)
            message.answer(StoreError(reason))

    def evictable(self) -> bool:
        return not self._waiting

    def close(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for messages in waiting.values():
            for message in messages:
                message.answer(Moved())

    # --- what is stored ----------------------------------------------------------------------------------------------

    def _read(self, key: str, value: bytes) -> None:
        if not key.startswith(_HOLDER):
            return
        try:
            self._holders[key[len(_HOLDER) : -1]] = _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptState(f"key {key}: not the holder of a slot: {error}") from error

    async def _read_rest(self) -> Turn | None:
        cursor: str | None = _HOLDER
        while cursor is not None:
            page = await self._kind.engine.store.keys(self._activation.actor, _HOLDER, cursor)
            for key, value in page.items:
                self._read(key, value)
            cursor = page.cursor
        self._rest = False
        return self._turn()

    # --- turns -------------------------------------------------------------------------------------------------------

    def _turn(self) -> Turn | None:
        mailbox = self._activation.mailbox
        turn = self._activation.begin([])
        put: dict[str, bytes] = {}
        gone: dict[str, None] = {}
        for instance_id, holder in self._stale:
            if self._holders.get(instance_id) == holder:
                log.warning("slot.taken_back", extra=fields(workflow=self._name, instance=instance_id))
                self._free(instance_id, put, gone)
        self._stale.clear()
        while mailbox:
            message = mailbox.popleft()
            if isinstance(message.body, Release):
                self._release(message.body, put, gone)
                self._answer(turn, message, True)
            elif isinstance(message.body, Acquire):
                self._acquire(message, turn, put, gone)
        self._grant(turn, put)
        turn.commit.put = put
        turn.commit.delete = [key for key in gone if key not in put]
        if self._waiting:
            self._audit_soon()
        return turn if turn.changes or turn.answers else None

    @property
    def _name(self) -> str:
        return self._activation.actor.id

    def _answer(self, turn: Turn, message: Message, value: bool) -> None:
        # Handled again, should the commit not pass; those that go on waiting are here all the same.
        turn.messages.append(message)
        turn.answers.append((message.answer, value))

    def _free(self, instance_id: str, put: dict[str, bytes], gone: dict[str, None]) -> None:
        del self._holders[instance_id]
        put.pop(_key(instance_id), None)
        gone[_key(instance_id)] = None

    def _release(self, body: Release, put: dict[str, bytes], gone: dict[str, None]) -> None:
        holder = self._holders.get(body.instance_id)
        if holder is not None and holder.start_id == body.start_id and holder.ask <= body.ask:
            self._free(body.instance_id, put, gone)
        key = body.instance_id, body.start_id
        waiting = self._waiting.pop(key, [])
        left = [message for message in waiting if message.body.ask > body.ask]
        if left:
            self._waiting[key] = left
        for message in waiting:
            if message.body.ask <= body.ask:
                message.answer(False)

    def _acquire(self, message: Message, turn: Turn, put: dict[str, bytes], gone: dict[str, None]) -> None:
        body: Acquire = message.body
        holder = self._holders.get(body.instance_id)
        if holder is None:
            self._wait(message)
        elif holder.start_id == body.start_id:
            # Late ones are of a time before it gave the slot back.
            if holder.ask < body.ask:
                self._hold(body, put)
            self._answer(turn, message, holder.ask <= body.ask)
        elif holder.created > body.created:
            # It comes late: another instance has that id.
            self._answer(turn, message, False)
        else:
            # An id is used again only when its former instance has ended.
            self._free(body.instance_id, put, gone)
            self._wait(message)

    def _wait(self, message: Message) -> None:
        body: Acquire = message.body
        key = body.instance_id, body.start_id
        if key not in self._waiting:
            heapq.heappush(self._ages, (body.created, *key))
        self._waiting.setdefault(key, []).append(message)

    def _hold(self, body: Acquire, put: dict[str, bytes]) -> None:
        holder = self._holders[body.instance_id] = Holder(body.start_id, body.created, body.ask)
        put[_key(body.instance_id)] = _encode(holder)

    def _grant(self, turn: Turn, put: dict[str, bytes]) -> None:
        most = self._kind.limit(self._name)
        while self._ages and (most is None or len(self._holders) < most):
            _, *key = heapq.heappop(self._ages)
            messages = self._waiting.pop((key[0], key[1]), None)
            if messages is None:
                continue
            newest = max((message.body for message in messages), key=lambda body: body.ask)
            # Another may have come to hold its id meanwhile: this one has ended.
            fits = newest.instance_id not in self._holders
            if fits:
                self._hold(newest, put)
            for message in messages:
                self._answer(turn, message, fits and message.body.ask == newest.ask)

    # --- whoever has a slot and is not there -------------------------------------------------------------------------

    def _audit_soon(self) -> None:
        clock = self._kind.engine.clock
        if self._audit_due is None:
            self._audit_due = clock.monotonic() + AUDIT
            clock.call_later(AUDIT, self._audit, self._audit_due)

    def _audit(self, due: float) -> None:
        if self._audit_due == due and self._waiting:
            self._kind.engine.clock.spawn(self._look(due), name="slots-audit")

    async def _look(self, due: float) -> None:
        """INVARIANT: an instance asks for a slot only when its row is in the store, so one without a row, or with one
        that says it has ended, needs none any more, unless it holds another slot by then."""
        engine = self._kind.engine
        stale = []
        try:
            for instance_id, holder in list(self._holders.items()):
                row = await engine.store.row(ActorId(engine.name, instance_id))
                if row is None or row.status in _FINISHED:
                    stale.append((instance_id, holder))
                elif row.status == RuntimeStatus.PENDING:
                    engine.router.send(row.actor, "granted", Granted(), _ignore)
        except StoreError as error:
            log.info("slots.audit_failed", extra=fields(workflow=self._name, reason=error))
        if self._audit_due == due:
            self._audit_due = None
            self._stale = stale
            # Which looks again later while somebody waits.
            self._activation.wake()


def _ignore(answer: object) -> None:
    """The next look sends it again."""


def slots_type(namespace: str, app_id: str) -> str:
    """The actor type that keeps the slots of an app's limited workflows."""
    return f"dapr.internal.{namespace}.{app_id}.slots"
