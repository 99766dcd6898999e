"""The contract of a state store: what every backend promises and every layer above relies on.

A store keeps *actors*: each a set of keys with one version, changed only by whole commits. Beside the keys, and
changed by the same commits, it keeps the actor's reminders, its mark `recover`, and one index row for lists.

Rules shared by all methods
- Methods are coroutines, called on one event loop, and may be called concurrently.
- `StoreUnavailable`: no answer; a write may or may not have happened. `StoreError`: refused; nothing was written.
  `CorruptState`: a stored value cannot be read. No other exception leaves a store.
- Times are whole microseconds since 1970 UTC.
- Keys are text. A key that ends in a hyphen and six digits, or more without a leading zero, is *numbered*
  (`history-000012`): its family is the text up to and including the hyphen, and a family's keys are ordered by number,
  also beyond 999999.
- Nothing that a method returns may be changed by the caller, nor is it changed later by the store.

`perdure.testing.store_contract` runs this contract against any store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

T = TypeVar("T")

#: The partition count of a new store, unless it is given when the store is first used.
DEFAULT_PARTITIONS = 1024
#: The number of the newest state format that this release reads and writes.
FORMAT_VERSION = 1
#: How many keys of one numbered family (or plain keys) a `Snapshot` holds at most.
SNAPSHOT_LIMIT = 1000


class ActorId(NamedTuple):
    """Which actor: its type, and its id within that type."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}||{self.id}"


class Fence(NamedTuple):
    """(term, epoch) of the placement table by which a partition was taken. Ordered."""

    term: int
    epoch: int


class TypePartition(NamedTuple):
    """One partition of one actor type: what is owned, taken and fenced."""

    type: str
    partition: int


class Reminder(msgspec.Struct, frozen=True, gc=False):
    """A durable wake-up of one actor. Named uniquely within its actor."""

    actor: ActorId
    name: str
    #: When it is due.
    due: int
    #: The layers' own; the store does not look into it.
    data: bytes = b""


class InstanceRow(msgspec.Struct, frozen=True, gc=False):
    """What lists and status need of one actor, so that neither reads its keys."""

    actor: ActorId
    #: The workflow's name.
    name: str
    #: A short lower-case word; `InstanceFilter.statuses` matches it whole.
    status: str
    created: int
    updated: int
    #: The layers' own; the store does not look into it.
    details: bytes = b""


class InstanceFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which index rows: all conditions hold. Rows come newest `created` first, equal ones by id."""

    type: str
    statuses: Collection[str] = ()
    name: str | None = None
    id_prefix: str = ""
    #: created_from <= created < created_to
    created_from: int | None = None
    created_to: int | None = None


class Commit(msgspec.Struct, gc=False):
    """The one atomic write of a turn or a receive."""

    actor: ActorId
    partition: int
    fence: Fence
    #: The version that the actor must have now; None: it must not exist.
    expected: bytes | None
    #: Its version afterwards: 16 random bytes.
    version: bytes
    put: dict[str, bytes]
    #: Keys to delete. Deleting a key that is not there is no error. No key is both put and deleted.
    delete: Collection[str] = ()
    #: All keys of the actor are replaced by those of `put`, at a cost that does not depend on how many there were.
    #: Reminders, `recover` and the index row stay unless the commit says otherwise. A reset that puts no key removes
    #: the actor: `load` gives None afterwards, `expected` None is right, and its reminders, `recover` and row go too
    #: (those that the commit itself puts are not looked at). Removing an actor that does not exist is `Committed`, so
    #: that a removal can be tried again too.
    reset: bool = False
    reminders: Sequence[Reminder] = ()
    delete_reminders: Collection[str] = ()
    #: Deletes every timed reminder of the actor, before `reminders` are put.
    clear_reminders: bool = False
    #: True puts the mark `recover`, False deletes it, None leaves it as it is.
    recover: bool | None = None
    #: The index row to put; None leaves it as it is.
    row: InstanceRow | None = None
    delete_row: bool = False


class Committed(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Written, now or by an earlier try: the stored version is the commit's new version."""


class Conflict(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Not written: the actor's version is not the expected one."""

    stored: bytes | None


class Fenced(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Not written: the partition's fence is not the commit's. None: it was never taken."""

    stored: Fence | None


class Rejected(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Not written, and never will be: the commit itself cannot be stored."""

    reason: str


CommitResult = Committed | Conflict | Fenced | Rejected

COMMITTED = Committed()


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """An actor as its last commit left it."""

    version: bytes
    #: Its keys, each family in order of its numbers: at most SNAPSHOT_LIMIT `history-` keys (the first ones), all
    #: `inbox-` and `outbox-` keys, and at most SNAPSHOT_LIMIT others.
    values: Mapping[str, bytes]
    recover: bool
    #: False: there are more keys than `values` holds; `keys` gives them.
    complete: bool


class Taken(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The fence was raised. `released`: the last owner gave the partition back in good order, or there was none."""

    released: bool


class Refused(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The stored fence is not lower than the one given."""

    stored: Fence


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a longer answer. `cursor` gives the next one; None: this was the last."""

    items: Sequence[T]
    cursor: str | None = None


class Settings(msgspec.Struct, frozen=True):
    """What is fixed when a store is first used."""

    partitions: int = DEFAULT_PARTITIONS
    format_version: int = FORMAT_VERSION


@runtime_checkable
class Lease(Protocol):
    """A name that at most one holder has at a time, with a value that only the holder of the highest term writes."""

    async def acquire(self) -> int | None:
        """Tries once to take the lease. The new term, or None when another holds it. A term is
        max(stored term + 1, Unix time in ms) and is stored before it is returned. To the one that holds the lease
        already it gives a new term."""

    async def read(self) -> bytes | None:
        """The last value written, by whichever holder. Needs no lease."""

    async def write(self, value: bytes) -> None:
        """Stores the value under the acquired term. `StoreError` when a higher term was acquired since, or none. A
        write without an answer never takes effect after a later one of the same holder."""

    async def renew(self) -> None:
        """Proves that the lease stood when this was called: to be called every half second or so, as a lease that is
        not renewed may go to another. Cheap: writes no value. `StoreError` when it is lost, or the store has lost
        what `write` stored under the acquired term: then `acquire` anew."""

    async def release(self) -> None:
        """Gives the lease back, if held. Idempotent."""


@runtime_checkable
class ExpiringLease(Protocol):
    """An ability that a lease may have besides: it passes on only when its holder gives it back, or has not renewed
    it (by `acquire`, `write` or `renew`) for a time."""

    @property
    def life(self) -> float:
        """Seconds after its last renewal for which it surely stands."""


@runtime_checkable
class StateStore(Protocol):
    """See the module's docstring for the rules that all methods share."""

    @property
    def shared(self) -> bool:
        """Whether several processes may work on it at a time, each through a store of its own; if not, holding it is
        proof that no other does."""

    async def load(self, actor: ActorId) -> Snapshot | None:
        """The actor's last committed state, consistent in itself; None if it has none."""

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = SNAPSHOT_LIMIT
    ) -> Page[tuple[str, bytes]]:
        """The actor's keys that begin with `prefix`, plain keys first by text, then each family by number; from
        `start` (a key, inclusive, or a page's cursor). An unknown actor has no keys."""

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        """Writes many actors' commits in one round trip; a result for each, in order. Not all-or-nothing: each
        commit is applied whole or not at all. A commit passes when its partition's stored fence equals its fence and
        its actor's version equals `expected`, looked at in this order, after this: a commit whose new version is
        the stored one is `Committed` (so that a batch can be tried again). No actor is in a batch twice. When the
        call returns, what is `Committed` is durable to the degree that the store's settings promise.

        `StoreError`: nothing of the batch was written, and the batch as it is never will be (a smaller one may).
        `StoreUnavailable`: unknown what was written; the same batch may be tried again."""

    async def take(self, held: Sequence[TypePartition], fence: Fence) -> Sequence[Taken | Refused]:
        """Raises the fence of each partition; refused where the stored one is not lower. A result for each."""

    async def release(self, held: Sequence[TypePartition], fence: Fence) -> None:
        """Marks partitions whose stored fence is still `fence` as given back in good order. Idempotent."""

    async def owing(
        self, held: Sequence[TypePartition], cursor: str | None = None, limit: int = 1000
    ) -> Page[ActorId]:
        """The actors in these partitions that have the mark `recover`, in a stable order."""

    async def due(
        self, held: Sequence[TypePartition], until: int, cursor: str | None = None, limit: int = 1000
    ) -> Page[Reminder]:
        """The reminders of actors in these partitions with due <= until, ordered by (due, actor, name)."""

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        """The actor's timed reminders, ordered by name."""

    async def row(self, actor: ActorId) -> InstanceRow | None:
        """The actor's index row."""

    async def query(
        self, where: InstanceFilter, cursor: str | None = None, limit: int = 100
    ) -> Page[InstanceRow]:
        """Index rows, paged by value: rows that come or go in between neither repeat nor hide others."""

    async def types(self) -> Sequence[str]:
        """The actor types of which a partition was ever taken, ordered by name."""

    def lease(self, name: str) -> Lease:
        """A contender for the lease of this name: of all contenders, in this process and others, one has it."""

    async def settings(self) -> Settings:
        """What was fixed when the store was first used."""

    async def health(self) -> None:
        """Returns when the store can read and write now; `StoreUnavailable` otherwise."""

    async def close(self) -> None:
        """Finishes writes in progress and lets go of files and connections. Idempotent."""


@runtime_checkable
class QuickStore(Protocol):
    """An ability that a store may have besides: to write at once, on the caller's thread."""

    def commit_now(self, batch: Sequence[Commit]) -> Sequence[CommitResult] | None:
        """As `StateStore.commit`, but returns when it is written. None, and nothing was written: this would take
        long now; `commit` is the way. Raises as `commit`."""


@runtime_checkable
class Counting(Protocol):
    """An ability that a store may have besides: to count index rows without reading what is in them."""

    async def count(self, type: str, limit: int) -> Mapping[str, int]:
        """How many rows this actor type has of each status that it has any of, counted no further than `limit`: at a
        cost that does not grow with the number of rows beyond it."""


@runtime_checkable
class RollbackAware(Protocol):
    """An ability of a store whose server can lose what it acknowledged, as at a fail-over to a replica that lagged."""

    def on_rollback(self, callback: Callable[[str], None]) -> None:
        """Calls back on the event loop, with the reason for people, whenever acknowledged writes may be gone. Before
        that, no method gives an answer of the server that may have lost them."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody who looked at a store has to say of one thing."""

    #: "ok", "warning" (it works, and may not do so for long or not as one would think), or "error".
    level: str
    #: What was looked at, in a word or two.
    subject: str
    said: str
    #: What to do about it.
    advice: str = ""


@runtime_checkable
class Diagnosable(Protocol):
    """An ability of a store: to tell what its server or file is set to."""

    async def diagnose(self) -> Sequence[Finding]:
        """What concerns durability, and what will stop it from working. Changes nothing. Raises as `health`."""
