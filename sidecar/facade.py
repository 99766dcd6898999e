"""What the edges need of a node. `perdure.node` implements it; the edges import nothing above themselves.

Payloads are bytes as they came in and as they are stored: JSON text. Errors are `perdure.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from perdure.actors.operations import Change, ReminderRequest, TimerRequest
from perdure.cluster_view import ClusterView
from perdure.statestore.contract import ActorId, Finding, Page, Reminder
from perdure.workflow.record import Record
from perdure.workflow.workflows import Workflows


class Actors(Protocol):
    """Actors of all types, wherever in the cluster they are."""

    def now(self) -> int:
        """The node's time, in microseconds since 1970 UTC."""

    async def call(
        self,
        actor_type: str,
        actor_id: str,
        method: str,
        payload: bytes | None,
        *,
        idempotency_key: str | None = None,
    ) -> bytes | None:
        """Calls a method with JSON and returns its JSON; executed once for each key. `NotRegistered` for an unknown
        type, `NotFound` for an unknown method, any other `PerdureError` when the method raised."""

    async def change_state(self, actor: ActorId, changes: Sequence[Change]) -> None:
        """Changes an actor's state: all of it or none. `NotRegistered`, `InvalidInput`, as those that follow."""

    async def set_reminder(self, actor: ActorId, reminder: ReminderRequest) -> None:
        """`AlreadyExists` where it is not to be replaced."""

    async def delete_reminder(self, actor: ActorId, name: str) -> None:
        """No error when there is none."""

    async def set_timer(self, actor: ActorId, timer: TimerRequest) -> None:
        """For as long as the actor is in memory. `NotFound` for a callback that is none."""

    async def delete_timer(self, actor: ActorId, name: str) -> None:
        """No error when there is none."""

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = 100
    ) -> Page[tuple[str, bytes]]:
        """The actor's state keys with the stored bytes, as `StateStore.keys` gives them. Any actor type."""

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        """The actor's timed reminders. Any actor type."""


class Transfers(Protocol):
    """Instances as they are stored, out of the store and into it."""

    async def export(self, instance_id: str) -> Record:
        """`InstanceNotFound`; `CorruptState`; `Unavailable` when it changes too fast to be read."""

    async def restore(self, record: Record, *, replace: bool = False) -> None:
        """`AlreadyExists` when its id is in use, and it is not to `replace` that. `InvalidInput`."""


class Facade(Protocol):
    """One node, as its edges see it."""

    @property
    def app_id(self) -> str: ...

    @property
    def namespace(self) -> str: ...

    @property
    def node_id(self) -> str: ...

    @property
    def workflows(self) -> Workflows: ...

    @property
    def transfers(self) -> Transfers: ...

    @property
    def actors(self) -> Actors: ...

    def ready(self) -> str | None:
        """Why the node does not serve now (starting, draining, …); None: it does."""

    async def healthy(self) -> str | None:
        """Why the node could not do its work now (the store gives no answer, …); None: it can."""

    async def cluster(self) -> ClusterView:
        """The cluster by this node's newest table. A node that gives no answer in time is shown as such.
        `Unavailable` before the first table."""

    async def examine(self) -> Sequence[Finding]:
        """What there is to say of the whole store, as `perdure.doctor.examine`."""

    async def metrics(self) -> bytes:
        """What a monitoring system reads, in Prometheus' text format."""

    def describe(self) -> dict[str, Any]:
        """The node in words and numbers, for people. The edges read the keys `workflows`, `activities` (names),
        `actor_types` (names) and `activations` (number by actor type), if present, and pass on the rest."""
