"""One actor in the memory of its owner: its mailbox, its turns one at a time, its one outstanding commit."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from perdure.actors.messages import Message
from perdure.actors.turn import Behaviour, Turn
from perdure.errors import (
    CorruptState,
    DeadlineExceeded,
    LoopBlocked,
    Moved,
    PerdureError,
    StoreError,
    Unavailable,
)
from perdure.logs import fields
from perdure.statestore.contract import (
    ActorId,
    Commit,
    CommitResult,
    Committed,
    Conflict,
    Fence,
    Fenced,
    Rejected,
    Snapshot,
)

if TYPE_CHECKING:
    from perdure.actors.host import ActorHost

log = logging.getLogger("perdure.actors")

#: Seconds before an activation whose code raised, or whose state cannot be read, is tried again: doubled per
#: failure in a row up to the last.
RETRY_FIRST = 0.1
RETRY_LAST = 30.0
#: Seconds between looks at a commit that has to settle before the actor can be read.
OUTSTANDING = 0.01


class Phase(enum.Enum):
    """Where an activation is. READY is the only phase in which a turn may begin."""

    LOADING = "loading"
    READY = "ready"
    TURN = "turn"  #: an asynchronous turn is running
    COMMITTING = "committing"
    BROKEN = "broken"  #: its state cannot be read: every message is refused with the reason
    GONE = "gone"


LOADING, READY, TURN, COMMITTING, BROKEN, GONE = Phase


class _Nobody:
    """The behaviour of an activation that is gone."""

    def restore(self, snapshot: Snapshot | None) -> None: ...
    def step(self) -> None: ...
    def committed(self, turn: Turn) -> None: ...
    def rejected(self, turn: Turn, reason: str) -> None: ...
    def evictable(self) -> bool:
        return True

    def close(self) -> None: ...


NOBODY = _Nobody()


class Activation:
    """INVARIANT: at most one turn or commit at a time; `version` is that of the last commit known to be durable."""

    __slots__ = (
        "_checkpoint",
        "_scheduled",
        "_turn",
        "_woken",
        "_work",
        "actor",
        "behaviour",
        "broken",
        "enter",
        "failures",
        "fence",
        "host",
        "mailbox",
        "partition",
        "phase",
        "recover",
        "retiring",
        "touched",
        "version",
    )

    def __init__(self, host: ActorHost, actor: ActorId, partition: int, fence: Fence) -> None:
        self.host = host
        self.actor = actor
        self.partition = partition
        self.fence = fence
        self.mailbox: deque[Message] = deque()
        self.phase = LOADING
        self.version: bytes | None = None
        #: Whether the store has the mark `recover` for this actor.
        self.recover = False
        self.broken: PerdureError | None = None
        #: Failures in a row of this actor's code or state.
        self.failures = 0
        #: The host's tick in which it was last used.
        self.touched = 0
        #: Its partition is being given away: what is under way comes to its end, and nothing else begins.
        self.retiring = False
        #: Takes messages that are part of what the running turn waits for; whether it did. None: there are none.
        self.enter: Callable[[Message], bool] | None = None
        self._turn: Turn | None = None
        #: The asynchronous turn that is running; any other that still runs belongs to a past that was restored away.
        self._work: Coroutine[Any, Any, Turn | None] | None = None
        #: Resumes the asynchronous turn that waits for its checkpoint.
        self._checkpoint: asyncio.Future[None] | None = None
        self._scheduled = False
        #: Whether `wake` was called during a turn or commit: the step comes after it.
        self._woken = False
        self.behaviour: Behaviour = host.types[actor.type].create(self)

    def __repr__(self) -> str:
        return f"<Activation {self.actor} {self.phase.value} mailbox={len(self.mailbox)}>"

    # --- from outside ------------------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """Queues a message; its answer comes after the commit that contains its effect."""
        host = self.host
        self.touched = host.tick
        message.arrived = host.clock.monotonic()
        if message.tickets and self.enter is not None and self.enter(message):
            return
        self.mailbox.append(message)
        if self.phase is READY:
            if not self._scheduled:
                self._scheduled = True
                host.clock.call_soon(self._step)
        elif self.phase is BROKEN:
            self._refuse_all(self.broken or CorruptState())

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, waiting, or about to be looked at."""
        return self.phase is READY and not self.mailbox and not self._scheduled

    def wake(self) -> None:
        """There may be something to do besides messages: calls `step` soon."""
        if self.phase is READY:
            if not self._scheduled:
                self._scheduled = True
                self.host.clock.call_soon(self._step)
        else:
            self._woken = True

    def load(self) -> None:
        """Reads the actor's state, then steps."""
        self.phase = LOADING
        self.host.clock.spawn(self._load())

    def retire(self, reason: PerdureError) -> bool:
        """As `drop`, but a turn that user code is in goes on to its commit. Whether anything is under way: the host
        is told (`retired`) when it has come to its end and is answered."""
        under_way = self.phase is TURN or self.phase is COMMITTING
        self.retiring = under_way
        if self.phase is TURN or self._checkpoint is not None:
            self._refuse_all(reason)
        else:
            self.drop(reason)
        return under_way

    def drop(self, reason: PerdureError) -> None:
        """Forgets the activation; whatever waits for it is answered with `reason`. A commit in flight is still
        answered when it turns out to be durable."""
        if self.phase is GONE:
            return
        self.phase = GONE
        # The behaviour knows its activation: were both to keep each other, only the garbage collector could free
        # them, and it would stop the loop for seconds when thousands are evicted.
        behaviour, self.behaviour = self.behaviour, NOBODY
        self.enter = None
        behaviour.close()
        self._refuse_all(reason)

    # --- what behaviours use -----------------------------------------------------------------------------------

    def expired(self, message: Message) -> bool:
        """Whether nobody waits for the answer of a message any more. It is told so, and not handled: whoever gave up
        counts on nothing, and may have asked anew."""
        if message.deadline is None or self.host.clock.monotonic() < message.deadline:
            return False
        message.answer(DeadlineExceeded(f"{message.target}: its time was over before it was its turn"))
        return True

    def begin(self, messages: list[Message]) -> Turn:
        """A new turn that consumes these messages."""
        commit = Commit(self.actor, self.partition, self.fence, self.version, self.host.clock.token(16), {})
        return Turn(commit, messages)

    async def checkpoint(self, turn: Turn) -> None:
        """Commits what the asynchronous turn that is running has decided so far; it goes on when that is durable.
        `StoreError`: the store will never take it. Does not return when the commit did not pass for another reason:
        the behaviour ends its turn when it is told to `restore` or `close`."""
        assert self.phase is TURN
        self._checkpoint = asyncio.get_running_loop().create_future()
        self._submit(turn)
        await self._checkpoint

    # --- loading -----------------------------------------------------------------------------------------------

    async def _load(self, then: Callable[[Snapshot | None], None] | None = None) -> None:
        attempt = 0
        while self.phase is LOADING:
            if self.host.committer.outstanding(self.actor):
                # The last activation's, from before this node lost the partition and got it back: what it comes to
                # is part of what is to be read, and the committer takes no second one beside it.
                await self.host.clock.sleep(OUTSTANDING)
                continue
            try:
                snapshot = await self.host.store.load(self.actor)
            except CorruptState as error:
                self._break(error)
            except Exception as error:  # noqa: BLE001 - whatever the store raises, this actor waits for it
                attempt += 1
                if attempt == 1:
                    log.warning("load.failed", extra=fields(actor=self.actor, reason=repr(error)))
                await self.host.clock.sleep(min(0.05 * 2 ** min(attempt, 8), 5.0))
            else:
                (then or self._loaded)(snapshot)
                return

    def _loaded(self, snapshot: Snapshot | None) -> None:
        if self.phase is LOADING and self._restored(snapshot):
            self.phase = READY
            for message in self.mailbox:
                if message.deadline is not None:
                    # The store may have been away for longer than anybody waits.
                    waiting, self.mailbox = self.mailbox, deque()
                    self.mailbox.extend([each for each in waiting if not self.expired(each)])
                    break
            self._step()

    def _restored(self, snapshot: Snapshot | None) -> bool:
        """Whether the behaviour could make something of what is stored."""
        self.version = snapshot.version if snapshot else None
        self.recover = snapshot.recover if snapshot else False
        self._woken = False
        try:
            self.behaviour.restore(snapshot)
        except CorruptState as error:
            self._break(error)
            return False
        except Exception as error:  # noqa: BLE001 - a value that nobody foresaw must not leave this actor
            self._break(CorruptState(f"the stored state cannot be read: {error!r}"))
            return False
        return True

    def _break(self, error: PerdureError) -> None:
        """INVARIANT: a value that cannot be read hurts this actor only, and says so to whoever asks."""
        log.error("state.unreadable", extra=fields(actor=self.actor, reason=error))
        self.phase = BROKEN
        self.broken = error
        self._refuse_all(error)

    # --- turns -------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._scheduled = False
        if self.phase is not READY:
            return
        try:
            turn = self.behaviour.step()
        except (Exception, LoopBlocked) as error:  # noqa: BLE001 - whatever it is, it must not leave this actor
            self._failed(error)
            return
        if turn is None:
            return
        if type(turn) is Turn:
            self._commit(turn)
        else:
            assert isinstance(turn, Coroutine)
            self.phase = TURN
            self._work = turn
            self.host.clock.spawn(self._run(turn))

    async def _run(self, work: Coroutine[Any, Any, Turn | None]) -> None:
        try:
            turn = await work
        except (Exception, LoopBlocked) as error:  # noqa: BLE001 - as in _step
            if self.phase is TURN and self._work is work:
                self._failed(error)
            return
        if self.phase is not TURN or self._work is not work:
            for message in turn.messages if turn else ():
                message.answer(Moved())
            return
        if self.retiring:
            self._run_retiring(turn)
            return
        self.phase = READY
        if turn is not None:
            self._commit(turn)
        else:
            # There may have been more to do than what this decided nothing about.
            self._woken = False
            self.wake()

    def _run_retiring(self, turn: Turn | None) -> None:
        """The last turn of an activation whose partition goes to another node. Placement's word is no longer about
        it, so a turn that changed nothing is committed too."""
        if turn is not None:
            self._submit(turn)
        self._retired(self.host.moved(self))

    def _retired(self, reason: PerdureError) -> None:
        under_way = self._turn is not None
        self.drop(reason)
        if not under_way:
            self.host.retired(self)

    def _failed(self, error: BaseException) -> None:
        """The behaviour itself raised: not user code, whose errors behaviours turn into answers. Its memory is not
        to be trusted; the messages get the error, and the store's state is read again after a pause."""
        log.error("turn.failed", extra=fields(actor=self.actor), exc_info=error)
        if self.retiring:
            self._retired(self.host.moved(self))
            return
        self.failures += 1
        self.phase = LOADING
        known = error if isinstance(error, PerdureError) else PerdureError(f"internal error: {error!r}")
        # What recognises its duplicates is sent again: nothing that somebody owes an answer for is lost by our fault.
        again = Unavailable(known.message)
        waiting, self.mailbox = self.mailbox, deque()
        for message in waiting:
            message.answer(again if message.repeatable else known)
        delay = min(RETRY_FIRST * 2**self.failures, RETRY_LAST)
        self.host.clock.call_later(delay, self._reload)

    def _reload(self) -> None:
        if self.phase is LOADING:
            self.host.clock.spawn(self._load())

    def _commit(self, turn: Turn) -> None:
        if not turn.changes and self.host.fresh():
            # Nothing to write, and placement's last word is so young that nobody else can own the partition.
            self.phase = READY
            self._finish(turn)
            return
        self._submit(turn)

    def _submit(self, turn: Turn) -> None:
        if self.version is None and not turn.changes:
            # Only a check: it must not bring an actor without keys into being.
            turn.commit.reset = True
        self.phase = COMMITTING
        self._turn = turn
        self.host.committer.submit(turn.commit, self._settled)

    def _settled(self, result: CommitResult) -> None:
        turn = self._turn
        assert turn is not None
        self._turn = None
        checkpoint, self._checkpoint = self._checkpoint, None
        if type(result) is Committed:
            self._durable(turn, checkpoint)
        elif self.phase is GONE:
            self._lost(turn)
        elif self.retiring and not isinstance(result, Rejected):
            self.drop(self.host.moved(self))
            self._lost(turn)
        elif isinstance(result, Conflict):
            log.warning("commit.conflict", extra=fields(actor=self.actor))
            self._again(turn)
            self.load()
        elif isinstance(result, Fenced):
            self._again(turn)
            self.host.fenced(self.actor.type, self.partition, self.fence, result.stored)
        elif isinstance(result, Rejected) and checkpoint is not None:
            self.phase = TURN
            _resume(checkpoint, StoreError(result.reason))
        elif isinstance(result, Rejected):
            log.error("commit.rejected", extra=fields(actor=self.actor, reason=result.reason))
            self._again(turn)
            self.phase = LOADING
            self.host.clock.spawn(
                self._load(lambda snapshot: self._loaded_rejected(snapshot, turn, result.reason))
            )

    def _loaded_rejected(self, snapshot: Snapshot | None, turn: Turn, reason: str) -> None:
        if self.phase is LOADING and self._restored(snapshot):
            self.phase = READY
            self.behaviour.rejected(turn, reason)
            self.wake()

    def _durable(self, turn: Turn, checkpoint: asyncio.Future[None] | None) -> None:
        commit = turn.commit
        removed = commit.reset and not commit.put
        self.version = None if removed else commit.version
        if commit.recover is not None or removed:
            self.recover = bool(commit.recover)
        if self.phase is GONE:
            # The new owner derives the effects from the store; the callers wait for this node's word.
            for answer, value in turn.answers:
                answer(value)
            if self.retiring:
                self.host.retired(self)
            return
        self.phase = READY if checkpoint is None else TURN
        self.failures = 0
        if (
            commit.reminders or commit.delete_reminders or commit.clear_reminders or removed
        ) and not self.retiring:
            self.host.reminders.committed(commit)
        self._finish(turn)
        if checkpoint is not None:
            _resume(checkpoint)

    def _finish(self, turn: Turn) -> None:
        self.behaviour.committed(turn)
        # First whoever waits is told: an effect may be what ends the process.
        for answer, value in turn.answers:
            answer(value)
        for effect, arguments in turn.effects:
            effect(*arguments)
        if (self.mailbox or self._woken) and self.phase is READY:
            self._woken = False
            self.wake()

    # --- messages that were not handled --------------------------------------------------------------------------

    def _lost(self, turn: Turn) -> None:
        """The commit did not pass, and the activation is gone."""
        for message in turn.messages:
            message.answer(self.host.moved(self))
        if self.retiring:
            self.host.retired(self)

    def _again(self, turn: Turn) -> None:
        self.mailbox.extendleft(reversed(turn.messages))

    def _refuse_all(self, reason: BaseException) -> None:
        waiting, self.mailbox = self.mailbox, deque()
        for message in waiting:
            message.answer(reason)


def _resume(checkpoint: asyncio.Future[None], error: StoreError | None = None) -> None:
    if checkpoint.done():
        return  # the turn was cancelled
    if error is None:
        checkpoint.set_result(None)
    else:
        checkpoint.set_exception(error)
