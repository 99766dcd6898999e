"""The seam between the engine and whatever runs workflow code: in this process, or a connected SDK worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from perdure.errors import PerdureError
from perdure.payload import Payload
from perdure.workflow.commands import AnyCommand, Outcome
from perdure.workflow.events import Arrival, EventRaised, ExecutionStarted


class NonDeterminism(PerdureError):
    """The workflow code does not do what its history says it did."""

    code = "ERR_NON_DETERMINISM"
    #: The two sides, in words.
    expected: str
    found: str


class Instance(msgspec.Struct, frozen=True):
    """Who is being run."""

    app_id: str
    namespace: str
    id: str


class Run(Protocol):
    """One execution of workflow code, kept in memory between turns. Synchronous, no I/O, no clock.

    The engine calls `apply` for each arrival in order and then takes the commands and looks at the outcome. A run
    that raised anything is broken: the engine closes it and makes another by replay.
    """

    #: Set once, when the code returned, raised or continued as new; no command comes afterwards.
    outcome: Outcome | None
    #: What the code last set; None: nothing.
    custom_status: Payload
    #: True while old events are applied.
    replaying: bool

    def apply(self, event: Arrival) -> None:
        """Hands one arrival to the code and runs the code until all of its branches wait. The code's own exceptions
        become the outcome. Raises `LoopBlocked` when the watchdog interrupted the code."""

    def take_commands(self) -> Sequence[AnyCommand]:
        """The commands since the last call, in the order in which the code gave them."""

    def unread_events(self) -> Sequence[EventRaised]:
        """Raised events that no wait has taken, in order of arrival."""

    def waiting_for(self) -> Sequence[str]:
        """What the code waits for now, for people: `activity charge (task 3)`, `event approval`, …"""

    def close(self) -> None:
        """Ends the code where it waits. Idempotent; nothing the code does in its `finally` has any effect."""


class Executor(Protocol):
    def knows(self, name: str) -> bool:
        """Whether a workflow of this name can be run here."""

    def run(self, instance: Instance, started: ExecutionStarted) -> Run:
        """A new run, to which nothing has been applied yet; the first event to apply is `started`. `NotRegistered`
        when the name is unknown."""
