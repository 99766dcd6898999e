"""What the key `metadata` of a workflow actor holds: everything about an instance but its events and messages."""

from __future__ import annotations

import msgspec

from perdure.actors.messages import Identity
from perdure.errors import CorruptState
from perdure.workflow.events import Parent

#: Microseconds after which what was accepted from an edge is forgotten: twice as long as edges retry.
EDGE_EXPIRY = 120_000_000
#: How edges' sender names begin; entries of all other senders do not expire.
EDGE_PREFIX = "edge:"


class Accepted(msgspec.Struct, omit_defaults=True):
    """Which numbers of one sender were accepted: those in `numbers`, and all below `floor`."""

    floor: int
    last: int
    numbers: list[int] = []


class Metadata(msgspec.Struct, omit_defaults=True):
    """Mutable: the behaviour changes it in a turn, and the turn's commit stores it whole."""

    name: str
    #: A `RuntimeStatus`, or "purged" in a tombstone.
    status: str
    start_id: str
    execution_id: str
    format: int = 1
    generation: int = 1
    version: str = ""
    #: Number of `history-` keys; they begin at 000000.
    history: int = 0
    #: `inbox-` keys: first <= number < next.
    inbox_first: int = 0
    inbox_next: int = 0
    #: The next `outbox-` key.
    outbox_next: int = 0
    created: int = 0
    started: int = 0
    completed: int = 0
    #: Time of the last turn.
    turn: int = 0
    parent: Parent | None = None
    tags: dict[str, str] = {}
    #: sender -> what was accepted of it.
    accepted: dict[str, Accepted] = {}
    #: Start ids that this instance id had before it was used again, and when that was.
    past: dict[str, int] = {}
    #: The last number given to a message of its own.
    number: int = 0
    #: Turns in a row that were under way when their process died.
    deaths: int = 0
    #: Task id -> how often in a row a process died while the activity ran.
    task_deaths: dict[int, int] = {}
    #: Why it is stalled or suspended.
    reason: str = ""
    #: What kind of stall: see `stall.py`.
    stall: str = ""
    attempts: int = 0
    #: How often it has given back a slot of its workflow before it started.
    slot: int = 0
    #: For which app or activity there is no node, as the index row says.
    waiting: str = ""
    #: When it was to begin, if that was said.
    scheduled: int = 0
    #: That time has not come: the reminder `start` is there, and what is in the inbox is not owed before.
    early: bool = False

    def knows(self, identity: Identity) -> bool:
        """Whether a message was accepted before."""
        entry = self.accepted.get(identity.sender)
        return entry is not None and (identity.number < entry.floor or identity.number in entry.numbers)

    def accept(self, identity: Identity, now: int) -> bool:
        """Whether a message is new. Remembers it."""
        entry = self.accepted.get(identity.sender)
        if entry is None:
            self._expire(now)
            entry = self.accepted[identity.sender] = Accepted(0, now)
        if self.knows(identity):
            return False
        number = identity.number
        if identity.floor > entry.floor:
            entry.floor = identity.floor
            entry.numbers = [n for n in entry.numbers if n >= identity.floor]
        entry.numbers.append(number)
        entry.last = now
        return True

    def past_with(self, start_id: str, now: int) -> dict[str, int]:
        """The start ids whose message may still come late, with this one."""
        past = {old: at for old, at in self.past.items() if now - at <= EDGE_EXPIRY}
        past[start_id] = now
        return past

    def _expire(self, now: int) -> None:
        for sender in [
            name
            for name, entry in self.accepted.items()
            if name.startswith(EDGE_PREFIX) and now - entry.last > EDGE_EXPIRY
        ]:
            del self.accepted[sender]


PURGED = "purged"

_decoder = msgspec.msgpack.Decoder(Metadata)
#: `encode(metadata) -> bytes`
encode = msgspec.msgpack.Encoder().encode


def decode(value: bytes) -> Metadata:
    """Reads the key `metadata`; `CorruptState` when it is none."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"metadata cannot be read: {error}") from error
