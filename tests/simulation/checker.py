"""Looks on at every write, message and answer, and says at once what must never happen.

What holds of a partition, a commit, a message and a run is here; what holds of a history in `history_rules`, of what is
owed to others in `outbox_rules`, of all keys of an instance in `whole_rules`, of one that is run again in `kept`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from perdure.actors.ids import is_reserved
from perdure.actors.messages import Message
from perdure.errors import AlreadyExists, InstanceNotFound, InvalidState, PerdureError, Unavailable
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, Commit, Fence, Refused, Taken, TypePartition
from perdure.statestore.memory import MemoryStore
from perdure.workflow import metadata, stall
from perdure.workflow.events import (
    TaskCompleted,
    TaskFailed,
)
from perdure.workflow.requests import (
    ActivityDone,
    ActivityRequest,
    ChildDone,
    Raise,
    Restore,
    Start,
    Terminate,
)
from tests.simulation import history_rules, kept, outbox_rules, whole_rules
from tests.simulation.ledger import TaskKey
from tests.simulation.loop import SimLoop, Violation
from tests.simulation.process import Process
from tests.simulation.shadow import Change, Shadow, token_of

#: One in how many commits has its history replayed.
REPLAYED = 10

Trace = Callable[..., None]


class Asked:
    """One message on one activation, until it is answered: exactly once."""

    __slots__ = ("_answered", "_checker", "message", "process", "since")

    def __init__(self, checker: Checker, process: Process, message: Message) -> None:
        self._checker = checker
        self._answered = False
        self.process = process
        self.message = message
        self.since = checker.loop.now

    def __call__(self, value: Any) -> None:
        if self._answered:
            self._checker.violated(f"{self.message.method} for {self.message.target.id} was answered twice")
        self._answered = True
        self._checker.answered(self, value)
        self.message.answer(value)


class Checker:
    """The numbers in the comments are those of the design's invariants."""

    def __init__(self, loop: SimLoop, seed: int, partitions: int, trace: Trace) -> None:
        self.loop = loop
        self.partitions = partitions
        self.memory: MemoryStore
        self.trace = trace
        self.rng = random.Random(f"{seed}-checker")
        self.shadows: dict[ActorId, Shadow] = {}
        self.versions: set[bytes] = set()
        #: Who took each partition last, under which fence.
        self.takers: dict[TypePartition, tuple[Process, Fence]] = {}
        self._took: dict[tuple[TypePartition, Fence], Process] = {}
        #: Not taken since the store was rolled back.
        self._void: set[TypePartition] = set()
        #: What was committed: activity tasks; starts that parents ask for; events that workflows send; cascades.
        self.scheduled: set[TaskKey] = set()
        #: Where each ran last.
        self.begun: dict[TaskKey, Process] = {}
        #: Nothing fails.
        self.graceful = False
        #: Increments that were begun.
        self.turns: set[str] = set()
        #: Those of a name that nobody has.
        self.nowhere: set[TaskKey] = set()
        self.starts: set[str] = set()
        self.sent: set[str] = set()
        self.cascades: set[str] = set()
        #: Start ids of instances that were created; results of those that ended.
        self.created: set[str] = set()
        self.results: dict[str, list[bytes | None]] = {}
        #: Tasks whose completion is committed, and for each process those it was told are.
        self.completed: set[tuple[str, int]] = set()
        self.known_completed: dict[Process, set[tuple[str, int]]] = {}
        self.asked: dict[Asked, None] = {}
        #: When each event first reached an activation.
        self.first_seen: dict[str, float] = {}
        #: Instances that clients terminate; tokens that clients raise.
        self.terminated: set[str] = set()
        #: Instances that clients cancel; start ids of children that workflows cancel.
        self.cancelled: set[str] = set()
        self.let_go: set[str] = set()
        #: Tasks of which no run needs to come to its end.
        self.dropped: set[TaskKey] = set()
        #: Instances that clients purge by force.
        self.forced: set[str] = set()
        #: Instances of which the code or an activity came to the limit of deaths.
        self.crashed: set[str] = set()
        #: Those that were set aside for it, or that had an activity that was.
        self.convicted: set[str] = set()
        #: What clients want to be run again, and those of them that have begun.
        self.reruns: dict[ActorId, kept.Rerun] = {}
        self.run_again: set[ActorId] = set()
        self.ended_runs: set[TaskKey] = set()
        #: By version: tasks of which this commit says that they need no further run.
        self._settles: dict[bytes, list[tuple[str, int]]] = {}
        #: Actors of which a value was made unreadable: nothing can be said of what is written there.
        self.corrupted: set[ActorId] = set()
        #: The versions of user actors.
        self.user_versions: dict[ActorId, bytes | None] = {}
        self.commits = 0
        #: Acknowledged writes may be lost: what follows from having seen one does not hold.
        self.rolled_back = False

    def violated(self, text: str) -> NoReturn:
        error = Violation(text)
        if self.loop.failure is None:
            self.loop.failure = error
        raise error

    def require(self, condition: object, text: str, *values: object) -> None:
        if not condition:
            self.violated(text + (": " + ", ".join(map(repr, values)) if values else ""))

    # --- partitions --------------------------------------------------------------------------------------------------

    def taken(self, process: Process, held: TypePartition, fence: Fence, result: Taken | Refused) -> None:
        self.trace(process, "take", held.partition, tuple(fence), type(result).__name__)
        last = self.takers.get(held)
        if isinstance(result, Taken):
            if last is not None:
                self.require(fence > last[1], "a fence was lowered", held, fence, last[1])
            self._void.discard(held)
            self.takers[held] = process, fence
            self._took[held, fence] = process

    def trusted(self, process: Process, owned: Iterable[TypePartition]) -> None:  # 5
        """A node is about to answer from memory, because placement says that nobody else can own what it owns."""
        for held in owned:
            if held not in self._void:
                self.require(self.takers[held][0] is process, "a node trusts what it has lost", process, held)

    # --- commits -----------------------------------------------------------------------------------------------------

    def committed(self, process: Process, commit: Commit) -> None:
        """The store has just made this write."""
        self.commits += 1
        actor = commit.actor
        self.trace(
            process,
            "commit",
            actor.id,
            commit.version[:3].hex(),
            "reset" if commit.reset else "",
            tuple(commit.put),
            tuple(commit.delete),
        )
        self._one_writer(process, commit)
        if not is_reserved(actor.type) or actor.type.endswith(".slots"):
            self._user_committed(commit)
            return
        if actor in self.corrupted:
            return
        shadow = self.shadows.get(actor)
        if commit.reset and not commit.put:
            self.require(shadow is None or not shadow.outbox, "an actor that owes was removed", actor)
            self.shadows.pop(actor, None)
            return
        if shadow is None:
            shadow = self.shadows[actor] = Shadow(actor)
        self.require(commit.expected == shadow.version, "the chain of versions is broken", actor)  # 5
        shadow.version = commit.version
        change = Change(commit)
        self._note_settled(shadow, commit, change)
        self._apply(shadow, commit, change)
        record = self.memory.actors[actor]
        whole_rules.whole(self, shadow, record)
        self.require(
            record.recover == shadow.owes, "`recover` is not what is owed", actor, record.recover
        )  # 4
        if shadow.history and self.rng.randrange(REPLAYED) == 0:
            whole_rules.replay(self, shadow)

    def _user_committed(self, commit: Commit) -> None:
        removal = commit.reset and not commit.put
        known = self.user_versions.get(commit.actor)
        self.require(commit.expected == known, "the chain of versions is broken", commit.actor)  # 5
        self.user_versions[commit.actor] = None if removal else commit.version

    def _one_writer(self, process: Process, commit: Commit) -> None:  # 5
        taker = self.takers.get(TypePartition(commit.actor.type, commit.partition))
        self.require(taker is not None, "a partition was written that nobody took", commit.actor)
        assert taker is not None
        self.require(
            taker == (process, commit.fence),
            "somebody else than the owner wrote",
            process,
            commit.fence,
            *taker,
            commit.actor,
        )
        self.require(
            commit.version not in self.versions or self.rolled_back, "a version was used twice", commit.actor
        )
        self.require(partition_of(commit.actor.id, self.partitions) == commit.partition, "wrong partition")
        self.versions.add(commit.version)

    def _apply(self, shadow: Shadow, commit: Commit, change: Change) -> None:
        old = shadow.meta
        kept_inbox = dict(shadow.inbox)
        if commit.reset:
            self._reset(shadow, change)
        elif not commit.put and not commit.delete:
            return
        meta = change.meta
        self.require(meta is not None, "a commit without metadata", commit.actor)
        assert meta is not None
        shadow.meta = meta
        self._accepted(shadow, commit, change)
        for number in change.deleted_inbox:
            shadow.inbox.pop(number, None)
        for number in change.settled_outbox:
            self.require(number in shadow.outbox, "an outbox key was deleted twice", commit.actor, number)
            outbox_rules.settled(self, shadow, shadow.outbox.pop(number))
        rerun = self.reruns.get(commit.actor)
        again = rerun is not None and meta.start_id not in self.created
        if again:
            self.require(commit.actor not in self.run_again, "run again twice under one id", commit.actor)
            self.run_again.add(commit.actor)
        if again and rerun is not None and rerun.number is not None:
            kept.check(self, rerun, shadow, change)
        else:
            history_rules.history(self, shadow, change, kept_inbox, old.turn if old is not None else 0)
        for number, body in change.inbox:
            history_rules.received(self, shadow, number, body)
        for number, entry in change.outbox:
            self.require(
                commit.reset or number not in shadow.outbox, "an outbox key was written twice", number
            )
            shadow.outbox[number] = entry
            outbox_rules.outgoing(self, entry.body)
        self._life(shadow, old)

    def _accepted(self, shadow: Shadow, commit: Commit, change: Change) -> None:
        """What callers sent with keys of theirs is known for longer than any run takes."""
        if change.receipts is None:
            kept = not commit.reset or not (shadow.starts or shadow.events)
            self.require(kept, "the keys of callers are forgotten", shadow.actor)
            return
        for known, now in zip((shadow.starts, shadow.events), change.receipts.kept(), strict=True):
            for key, receipt in known.items():
                self.require(now.get(key) == receipt, "a key of a caller was taken twice", shadow.actor, key)
        shadow.receive(change.receipts)

    def _reset(self, shadow: Shadow, change: Change) -> None:
        kept = {number for number, _ in change.outbox}
        for number, entry in shadow.outbox.items():
            if number not in kept:
                outbox_rules.settled(self, shadow, entry)
        shadow.clear()
        shadow.reset_at = self.loop.now

    def _life(self, shadow: Shadow, old: Any) -> None:
        meta = shadow.meta
        assert meta is not None
        if meta.status == "purged":
            shadow.exists_since = shadow.active_since = None
            return
        if old is None or old.start_id != meta.start_id or shadow.exists_since is None:
            self._begins(shadow)
            shadow.exists_since = self.loop.now
        if shadow.finished:
            shadow.active_since = None
        elif shadow.active_since is None:
            shadow.active_since = self.loop.now
        if meta.stall == stall.CRASHED:
            self.convicted.add(shadow.actor.id)
        if meta.deaths >= 3 or any(deaths >= 3 for deaths in meta.task_deaths.values()):
            self.crashed.add(shadow.actor.id)

    def _begins(self, shadow: Shadow) -> None:  # 3
        meta = shadow.meta
        assert meta is not None
        self.require(
            meta.start_id not in self.created or self.rolled_back, "a start took effect twice", shadow.actor
        )
        self.created.add(meta.start_id)
        if meta.parent is not None or shadow.actor.id.startswith("detached-"):
            self.require(meta.start_id in self.starts, "started before it was decided", shadow.actor)

    def roll_back(self) -> None:
        """The store lost writes: follows what it has now, as if nothing else had been."""
        self.rolled_back = True
        self._void = set(self.takers)
        old, self.shadows = self.shadows, {}
        self.takers = {
            held: (self._took[held, fence], fence) for held, (fence, _) in self.memory.fences.items()
        }
        self.user_versions.clear()
        for actor, record in self.memory.actors.items():
            if not is_reserved(actor.type):
                self.user_versions[actor] = record.version
                continue
            shadow = self.shadows[actor] = Shadow(actor)
            shadow.read(record)
            shadow.exists_since = None if shadow.purged else self.loop.now
            shadow.active_since = None if shadow.purged or shadow.finished else self.loop.now
            if actor in old:
                shadow.gone = old[actor].gone | set(old[actor].tokens)

    # --- messages ----------------------------------------------------------------------------------------------------

    def deliver(self, process: Process, message: Message) -> Message:
        """A copy of a message that is about to reach its actor, with an answer that is checked."""
        asked = Asked(self, process, message)
        if isinstance(message.body, Raise):
            self.first_seen.setdefault(token_of(message.body.data), self.loop.now)
        self.asked[asked] = None
        return Message(
            message.target,
            message.method,
            message.body,
            asked,
            message.identity,
            message.repeatable,
            deadline=message.deadline,
            redelivered=message.redelivered,
            chain=message.chain,
            key=message.key,
            tickets=message.tickets,
        )

    def answered(self, asked: Asked, value: Any) -> None:
        self.asked.pop(asked, None)
        message = asked.message
        if not asked.process.running or isinstance(value, Unavailable):
            return
        self.trace(asked.process, "answer", message.target.id, message.method, _short(value))
        if self.rolled_back or message.target in self.corrupted:
            return
        shadow = self.shadows.get(message.target)
        if isinstance(value, PerdureError):
            self._refused(asked, shadow, value)
            return
        body = message.body  # 1
        match body:
            case Start():
                known = shadow is not None and (body.key in shadow.starts or body.if_exists == "return")
                self.require(
                    body.start_id in self.created or known,
                    "a start was acknowledged and is not stored",
                    message.target,
                )
            case Restore():
                start_id = metadata.decode(body.record.values["metadata"]).start_id
                stored = start_id in self.created
                self.require(stored, "a rerun was acknowledged and is not stored", message.target)
            case Raise():
                token = token_of(body.data)
                stored = shadow is not None and (token in shadow.tokens or token in shadow.gone)
                # An event that continues the workflow as new in the turn that takes it is in no history.
                stored = stored or (shadow is not None and shadow.reset_at >= self.first_seen[token])
                self.require(stored, "an event was acknowledged and is not stored", message.target, token)
            case ActivityDone() | ChildDone():
                self._done_acknowledged(message.target, shadow, body)
            case Terminate():
                active = shadow is not None and shadow.active_since is not None
                mine = (
                    shadow is not None
                    and shadow.meta is not None
                    and body.start_id in ("", shadow.meta.start_id)
                )
                since = shadow.active_since if shadow is not None else None
                self.require(
                    not (active and mine and since is not None and since < asked.since),
                    "a terminate was acknowledged, and the instance goes on",
                    message.target,
                )

    def _done_acknowledged(
        self, target: ActorId, shadow: Shadow | None, body: ActivityDone | ChildDone
    ) -> None:
        if shadow is None or shadow.meta is None or shadow.meta.execution_id != body.execution_id:
            return
        task = shadow.open.get(body.task_id)
        received = any(
            isinstance(other, ActivityDone | ChildDone) and other.task_id == body.task_id
            for other in shadow.inbox.values()
        )
        lost = task is not None and task.nonce == body.nonce and not received
        self.require(not lost, "a completion was acknowledged and is not stored", target, body)

    def _refused(self, asked: Asked, shadow: Shadow | None, error: PerdureError) -> None:
        """A refusal must be true of some moment since the message came: no reads from an owner that was (5)."""
        since = None
        if isinstance(error, AlreadyExists) and asked.message.method == "restore":
            self.require(shadow is not None, "refused for what is not there", asked.message.target)
        elif isinstance(error, InstanceNotFound):
            since = shadow.exists_since if shadow is not None else None
        elif isinstance(error, InvalidState) and asked.message.method == "raise":
            since = shadow.active_since if shadow is not None else None
        self.require(
            since is None or since >= asked.since,
            "a refusal from what is no longer so",
            asked.message.target,
            error,
        )

    def sending(self, process: Process, body: object) -> None:
        """A node asks for an activity."""
        if isinstance(body, ActivityRequest) and not self.rolled_back:
            known = (body.execution_id, body.task_id) in self.known_completed.get(process, ())
            self.require(
                not known, "an activity was asked for again after its result", body.instance_id, body.task_id
            )

    def acknowledged(self, process: Process, commits: Sequence[Commit]) -> None:
        """A process was told that its commits are durable."""
        known = self.known_completed.setdefault(process, set())
        for commit in commits:
            known.update(self._settles.get(commit.version, ()))

    def _note_settled(self, shadow: Shadow, commit: Commit, change: Change) -> None:
        meta = change.meta
        if meta is None:
            return
        settled = [
            (meta.execution_id, e.id) for _, e in change.history if isinstance(e, TaskCompleted | TaskFailed)
        ]
        for number in change.settled_outbox:
            entry = shadow.outbox.get(number)
            if entry is not None and isinstance(entry.body, ActivityRequest):
                settled.append((entry.body.execution_id, entry.body.task_id))
        if settled:
            self._settles[commit.version] = settled

    def turn_began(self, process: Process, token: str) -> None:
        """An increment of a counter begins."""
        twice = self.graceful and token in self.turns
        self.require(not twice, "a turn ran twice although nothing fails", process, token)
        self.turns.add(token)

    def began(self, process: Process, key: TaskKey) -> None:  # 3
        """An activity begins to run."""
        self.trace(process, "run", key.instance, key.task_id)
        self.require(key in self.scheduled, "an activity ran before it was decided", key)
        twice = self.graceful and key in self.begun
        self.require(not twice, "an activity ran twice although nothing fails", key, self.begun.get(key))
        self.begun[key] = process


def _short(value: Any) -> str:
    return type(value).__name__ if isinstance(value, PerdureError) else str(value)[:60]
