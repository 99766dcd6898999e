"""The actors that a node reaches, as its edges ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.actors import operations
from perdure.actors.calls import Caller
from perdure.actors.ids import qualified
from perdure.actors.operations import Change, Named, ReminderRequest, TimerRequest
from perdure.runtime import Runtime
from perdure.statestore.contract import ActorId, Page, Reminder


class NodeActors:
    """Actors of all types, as the edges reach them."""

    def __init__(self, namespace: str, runtime: Runtime, caller: Caller) -> None:
        self._namespace = namespace
        self._runtime = runtime
        self._caller = caller

    def now(self) -> int:
        return self._runtime.clock.now()

    async def call(
        self,
        actor_type: str,
        actor_id: str,
        method: str,
        payload: bytes | None,
        *,
        idempotency_key: str | None = None,
    ) -> bytes | None:
        return await self._caller.call_actor(
            ActorId(actor_type, actor_id), method, payload, idempotency_key=idempotency_key
        )

    async def change_state(self, actor: ActorId, changes: Sequence[Change]) -> None:
        await self._ask(actor, operations.CHANGE_STATE, changes)

    async def set_reminder(self, actor: ActorId, reminder: ReminderRequest) -> None:
        await self._ask(actor, operations.SET_REMINDER, reminder)

    async def delete_reminder(self, actor: ActorId, name: str) -> None:
        await self._ask(actor, operations.DELETE_REMINDER, Named(name))

    async def set_timer(self, actor: ActorId, timer: TimerRequest) -> None:
        await self._ask(actor, operations.SET_TIMER, timer)

    async def delete_timer(self, actor: ActorId, name: str) -> None:
        await self._ask(actor, operations.DELETE_TIMER, Named(name))

    async def _ask(self, actor: ActorId, operation: str, request: object) -> None:
        await self._caller.call_actor(actor, operation, operations.encode(request))

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = 100
    ) -> Page[tuple[str, bytes]]:
        return await self._runtime.store.keys(self._stored(actor), prefix, start, limit)

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        return await self._runtime.store.reminders(self._stored(actor))

    def _stored(self, actor: ActorId) -> ActorId:
        return ActorId(qualified(self._namespace, actor.type), actor.id)
