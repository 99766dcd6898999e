"""What workflow actors are sent: the bodies of their messages, also as they wait in `inbox-` and `outbox-` keys."""

from __future__ import annotations

import msgspec

from perdure.errors import CorruptState
from perdure.payload import Payload
from perdure.workflow.events import Attempt, FailureDetails, Parent, TraceContext
from perdure.workflow.record import Record


class Start(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """Begin an instance. The same start id again changes nothing."""

    name: str
    start_id: str
    input: Payload = None
    parent: Parent | None = None
    version: str = ""
    trace: TraceContext | None = None
    tags: dict[str, str] = {}
    #: When it is to begin; None, or a time that is over: at once.
    scheduled: int | None = None
    #: What if an instance has the id that has not been purged: "" (refused while it is active, else it takes the
    #: place of the finished one), "return" (nothing changes), "replace" (it takes the place of that one, which is
    #: terminated if it is active) or "refuse" (refused also when that one has finished).
    if_exists: str = ""
    #: The caller's: the same key again changes nothing.
    key: str = ""


class Raise(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    """Hand over an external event."""

    name: str
    data: Payload = None
    #: The caller's: the same again changes nothing.
    id: str = ""


class ActivityDone(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """An activity has a result or failed. Matches only the execution, task and nonce that asked for it."""

    execution_id: str
    task_id: int
    nonce: bytes
    result: Payload = None
    failure: FailureDetails | None = None
    #: What its last heartbeat said, if it failed.
    details: Payload = None


class ChildDone(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """A child workflow has a result, failed, was terminated, or could not start."""

    execution_id: str
    task_id: int
    nonce: bytes
    result: Payload = None
    failure: FailureDetails | None = None


class TimerDue(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    """A timer's reminder is due."""

    execution_id: str
    task_id: int
    due: int


class StartDue(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The time of a scheduled start has come."""

    start_id: str
    due: int


class Suspend(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    reason: str = ""


class Resume(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    reason: str = ""


class Terminate(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    """End it from outside. With a start id (from a parent): only the instance of that start, and where there is
    none yet, its start is refused when it comes."""

    reason: str = ""
    output: Payload = None
    recursive: bool = True
    start_id: str = ""


class Cancel(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    """Let it come to an end: `WorkflowCancelled` is raised where its code waits. `start_id` as for `Terminate`."""

    reason: str = ""
    start_id: str = ""


class Purge(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    """Delete what is left of a finished instance. `start_id` as for `Terminate`."""

    recursive: bool = True
    force: bool = False
    start_id: str = ""


class Restore(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """Be the instance of an export. `replace`: whatever is there gives way."""

    record: Record
    replace: bool = False


class Wait(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Answer when it has started, or finished. Changes nothing."""

    until: str = "finished"


class Forget(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A tombstone's time is over."""


class Acquire(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Give an instance a slot of its workflow. Answered True when it has one, however long that takes; the same again
    gives no second one. False: it is known not to need one any more."""

    instance_id: str
    start_id: str
    #: When the instance was created: the oldest goes first.
    created: int
    #: Grows whenever the instance gives a slot back.
    ask: int = 0


class Release(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, gc=False):
    """The instance needs the slot of this or an earlier `Acquire` no more."""

    instance_id: str
    start_id: str
    ask: int = 0


class Granted(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The instance has a slot and has not started: whoever asked for it is perhaps not its owner any more."""


class ActivityRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """Run an activity and send its `ActivityDone` to the instance."""

    #: The workflow actor that waits for the answer.
    actor_type: str
    instance_id: str
    workflow: str
    execution_id: str
    generation: int
    task_id: int
    nonce: bytes
    name: str
    key: str
    input: Payload = None
    app_id: str = ""
    trace: TraceContext | None = None
    attempt: Attempt | None = None

    @property
    def activity_id(self) -> str:
        return f"{self.instance_id}::{self.task_id}::{self.generation}"


class CancelActivity(msgspec.Struct, frozen=True, tag=True):
    """Nobody wants the answer of this request any more: let the function come to an end."""

    execution_id: str
    task_id: int
    nonce: bytes
    reason: str = ""


Waiting = Start | Raise | ActivityDone | ChildDone | TimerDue | Cancel
Sent = Start | Raise | ChildDone | Terminate | Cancel | Purge | ActivityRequest | Release


class Outgoing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an `outbox-` key holds: a message that was decided and is not known to be acknowledged."""

    type: str
    id: str
    body: Sent
    #: The sender's number of this message, where the receiver keeps accepted numbers; 0: it needs none.
    number: int = 0


_encoder = msgspec.msgpack.Encoder()
_waiting: msgspec.msgpack.Decoder[Waiting] = msgspec.msgpack.Decoder(Waiting)
_outgoing = msgspec.msgpack.Decoder(Outgoing)

encode = _encoder.encode


def decode_inbox(value: bytes) -> Waiting:
    """Reads an `inbox-` key; `CorruptState` when it is none."""
    try:
        return _waiting.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"not an inbox message: {error}") from error


def decode_outbox(value: bytes) -> Outgoing:
    """Reads an `outbox-` key; `CorruptState` when it is none."""
    try:
        return _outgoing.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"not an outbox message: {error}") from error
