"""What workflow code asks for in a turn. The engine turns each command into a decision event and its effects."""

from __future__ import annotations

import msgspec

from perdure.payload import Payload
from perdure.workflow.events import Attempt, FailureDetails


class Command(msgspec.Struct, frozen=True, gc=False):
    """Base of all commands. `id` is the task id: numbers from 0 in the order in which the code asked, shared by all
    kinds, never used twice in one execution."""

    id: int


class ScheduleTask(Command, frozen=True, gc=False):
    name: str
    input: Payload
    #: The idempotency key; a retry has the key of the first attempt.
    key: str
    app_id: str = ""
    #: None: the first one, and nothing is to be known of it.
    attempt: Attempt | None = None


class CancelTask(Command, frozen=True, gc=False):
    """The activity or child workflow `id` is not waited for any more."""


class CreateTimer(Command, frozen=True, gc=False):
    fire_at: int
    origin: str = "timer"


class CancelTimer(Command, frozen=True, gc=False):
    """The timer `id` is no longer needed. Leaves no event: code that runs again cancels it again."""


class StartChild(Command, frozen=True, gc=False):
    name: str
    instance_id: str
    input: Payload
    app_id: str = ""


class StartDetached(Command, frozen=True, gc=False):
    name: str
    instance_id: str
    input: Payload
    app_id: str = ""
    scheduled: int | None = None


class SendEvent(Command, frozen=True, gc=False):
    instance_id: str
    name: str
    data: Payload
    app_id: str = ""


AnyCommand = ScheduleTask | CancelTask | CreateTimer | CancelTimer | StartChild | StartDetached | SendEvent


class Completed(msgspec.Struct, frozen=True):
    """The workflow function returned."""

    result: Payload


class Failed(msgspec.Struct, frozen=True):
    """The workflow function raised."""

    failure: FailureDetails


class Cancelled(msgspec.Struct, frozen=True):
    """The workflow was cancelled, and its function has come to an end by that."""

    failure: FailureDetails


class ContinuedAsNew(msgspec.Struct, frozen=True):
    """The workflow asked to begin again with a new input and an empty history."""

    input: Payload
    #: Events that were raised and not waited for go on to the next execution.
    save_events: bool


Outcome = Completed | Failed | Cancelled | ContinuedAsNew
