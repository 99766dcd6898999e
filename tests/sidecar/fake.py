"""A node in memory, just real enough for its edges: instances change state when told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import msgspec

from perdure.cluster_view import ClusterView, NodeFigures, heard, view
from perdure.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InstanceNotFound,
    InvalidInput,
    InvalidState,
    NotFound,
    NotRegistered,
    PerdureError,
)
from perdure.placement.member import Member
from perdure.placement.table import assign
from perdure.sidecar import HttpServer
from perdure.statestore.contract import ActorId, Finding, Page, Reminder
from perdure.workflow import events
from perdure.workflow.events import Event, FailureDetails
from perdure.workflow.record import Record
from perdure.workflow.state import RuntimeStatus, WorkflowState

T = TypeVar("T")

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
MICROSECONDS = 1767323045678901


class FakeWorkflows:
    """`echo` completes with its input, `broken` fails, an unknown name fails; `waiter` runs until `go` is raised."""

    def __init__(self) -> None:
        self.states: dict[str, WorkflowState] = {}
        self.events: dict[str, list[Event]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.changed = asyncio.Condition()
        self._recorded = asyncio.Event()
        #: Raised by the next call.
        self.error: Exception | None = None

    async def seen(self, *call: Any) -> None:
        """Returns once this call has come."""
        async with asyncio.timeout(30):
            while call not in self.calls:
                self._recorded.clear()
                await self._recorded.wait()

    def _record(self, *call: Any) -> None:
        self.calls.append(call)
        self._recorded.set()

    def _called(self, *call: Any) -> None:
        self._record(*call)
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    async def _set(self, id: str, *, event: Event | None = None, **changes: Any) -> None:
        self.states[id] = msgspec.structs.replace(self.states[id], **changes)
        if event is not None:
            self.events[id].append(event)
        async with self.changed:
            self.changed.notify_all()

    def _known(self, id: str) -> WorkflowState:
        if id not in self.states:
            raise InstanceNotFound(f"there is no workflow instance {id!r}")
        return self.states[id]

    async def start(
        self,
        name: str,
        payload: bytes | None,
        instance_id: str | None = None,
        *,
        start_id: str | None = None,
        **options: Any,
    ) -> str:
        self._called("start", name, payload, instance_id, *sorted(options.items()))
        id = instance_id or f"made-{len(self.states)}"
        if id in self.states and not self.states[id].runtime_status.finished:
            raise AlreadyExists(f"the instance {id!r} exists and is running; terminate it or use another id")
        self.states[id] = WorkflowState(
            instance_id=id,
            name=name,
            runtime_status=RuntimeStatus.RUNNING,
            created_at=NOW + timedelta(seconds=len(self.states)),
            last_updated_at=NOW + timedelta(seconds=len(self.states)),
            started_at=NOW,
            serialized_input=None if payload is None else payload.decode(),
            execution_id="e0",
        )
        self.events[id] = [
            events.ExecutionStarted(
                at=MICROSECONDS, name=name, start_id="s0", execution_id="e0", input=payload
            )
        ]
        await self._begin(id, name, payload)
        return id

    async def _begin(self, id: str, name: str, payload: bytes | None) -> None:
        if name == "waiter":
            timer = events.TimerCreated(at=MICROSECONDS, id=0, fire_at=MICROSECONDS + 60_000_000)
            await self._set(id, event=timer, serialized_custom_status='{"step":1}')
        elif name == "echo":
            await self._finish(id, RuntimeStatus.COMPLETED, payload)
        else:
            failure = FailureDetails("NotRegistered", f"no workflow {name!r}", "line 1\nline 2")
            await self._finish(id, RuntimeStatus.FAILED, None, failure)

    async def _finish(
        self, id: str, status: RuntimeStatus, output: bytes | None, failure: FailureDetails | None = None
    ) -> None:
        event = events.ExecutionCompleted(
            at=MICROSECONDS + 1, status=status.value, result=output, failure=failure
        )
        await self._set(
            id,
            event=event,
            runtime_status=status,
            serialized_output=None if output is None else output.decode(),
            failure_details=failure,
            completed_at=NOW,
            reason="",
        )

    async def rerun(self, instance_id: str, **options: Any) -> str:
        self._called("rerun", instance_id, *sorted(options.items()))
        if not self._known(instance_id).runtime_status.finished:
            raise InvalidState(f"{instance_id!r} has not finished")
        return options["new_instance_id"] or "made"

    async def get(self, instance_id: str) -> WorkflowState | None:
        self._called("get", instance_id)
        return self.states.get(instance_id)

    async def wait(
        self,
        instance_id: str,
        *,
        until: str = "finished",
        timeout: float | None = None,  # noqa: ASYNC109 - the protocol's
    ) -> WorkflowState:
        self._called("wait", instance_id, until, timeout)
        state = self._known(instance_id)
        if until == "started" or state.runtime_status.finished:
            return state
        try:
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(lambda: self._known(instance_id).runtime_status.finished)
        except TimeoutError:
            raise DeadlineExceeded from None
        except asyncio.CancelledError:
            self._record("wait cancelled", instance_id)
            raise
        return self.states[instance_id]

    async def raise_event(
        self, instance_id: str, name: str, payload: bytes | None, *, event_id: str | None = None
    ) -> None:
        self._called("raise_event", instance_id, name, payload, *([] if event_id is None else [event_id]))
        if self._known(instance_id).runtime_status.finished:
            raise InvalidState(f"{instance_id!r} has finished: nobody will take the event")
        if name == "go":
            await self._finish(instance_id, RuntimeStatus.COMPLETED, payload)

    async def pause(self, instance_id: str, reason: str = "") -> None:
        self._called("pause", instance_id, reason)
        if self._known(instance_id).runtime_status.finished:
            raise InvalidState(f"{instance_id!r} has finished")
        await self._set(instance_id, runtime_status=RuntimeStatus.SUSPENDED, reason=reason)

    async def resume(self, instance_id: str, reason: str = "") -> None:
        self._called("resume", instance_id, reason)
        if self._known(instance_id).runtime_status.finished:
            raise InvalidState(f"{instance_id!r} has finished")
        await self._set(instance_id, runtime_status=RuntimeStatus.RUNNING, reason="")

    async def cancel(self, instance_id: str, reason: str = "") -> None:
        self._called("cancel", instance_id, reason)
        if not self._known(instance_id).runtime_status.finished:
            await self._finish(instance_id, RuntimeStatus.TERMINATED, None)

    async def terminate(
        self, instance_id: str, payload: bytes | None = None, *, reason: str = "", recursive: bool = True
    ) -> None:
        self._called("terminate", instance_id, payload, reason, recursive)
        if not self._known(instance_id).runtime_status.finished:
            await self._finish(instance_id, RuntimeStatus.TERMINATED, payload)

    async def purge(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> None:
        self._called("purge", instance_id, recursive, force)
        if not self._known(instance_id).runtime_status.finished and not force:
            raise InvalidState(f"{instance_id!r} has not finished; terminate it first, or use force")
        del self.states[instance_id], self.events[instance_id]

    async def list(
        self,
        *,
        statuses: Any = (),
        name: str | None = None,
        id_prefix: str = "",
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[WorkflowState]:
        self._called("list", statuses, name, id_prefix, cursor, limit)
        found = [
            state
            for id, state in reversed(self.states.items())
            if (not statuses or state.runtime_status.value in statuses)
            and name in (None, state.name)
            and id.startswith(id_prefix)
            and (created_from is None or state.created_at >= created_from)
            and (created_to is None or state.created_at < created_to)
        ]
        try:
            first = int(cursor or 0)
        except ValueError:
            raise InvalidInput("the cursor is none that a list gave") from None
        end = first + limit
        return Page(found[first:end], str(end) if end < len(found) else None)

    async def history(
        self, instance_id: str, *, start: int = 0, limit: int = 1000
    ) -> Page[tuple[int, Event]]:
        self._called("history", instance_id, start, limit)
        self._known(instance_id)
        found = list(enumerate(self.events[instance_id]))
        end = start + limit
        return Page(found[start:end], str(end) if end < len(found) else None)


class FakeTransfers:
    """Exports what the workflows have, as records of nothing but an id; keeps what is imported."""

    def __init__(self, workflows: FakeWorkflows) -> None:
        self._workflows = workflows
        self.imported: list[tuple[Record, bool]] = []

    async def export(self, instance_id: str) -> Record:
        if instance_id not in self._workflows.states:
            raise InstanceNotFound(f"there is no workflow instance {instance_id!r}")
        return Record(format=1, type="dapr.internal.default.shop.workflow", id=instance_id, values={})

    async def restore(self, record: Record, *, replace: bool = False) -> None:
        if record.id in self._workflows.states and not replace:
            raise AlreadyExists(f"there is an instance {record.id!r}")
        self.imported.append((record, replace))


class FakeActors:
    """A `Counter` whose methods do what their names say; state keys and reminders are those put here."""

    def __init__(self) -> None:
        self.values: dict[ActorId, dict[str, bytes]] = {}
        self.wakes: dict[ActorId, list[Reminder]] = {}
        #: What was asked for, with the request as it came; and the idempotency keys of calls.
        self.asked: list[tuple[str, ActorId, Any]] = []
        self.keys_given: list[str | None] = []

    def now(self) -> int:
        return MICROSECONDS

    async def call(
        self,
        actor_type: str,
        actor_id: str,
        method: str,
        payload: bytes | None,
        *,
        idempotency_key: str | None = None,
    ) -> bytes | None:
        self.keys_given.append(idempotency_key)
        if actor_type != "Counter":
            raise NotRegistered(f"no node has the actor type {actor_type!r}; there are: Counter")
        if method == "echo":
            return payload
        if method == "fail":
            raise PerdureError("Counter.fail raised ValueError: no")
        raise NotFound(f"Counter has no method {method!r}; there are: echo, fail")

    async def keys(
        self, actor: ActorId, prefix: str = "", start: str | None = None, limit: int = 100
    ) -> Page[tuple[str, bytes]]:
        found = [
            (key, value)
            for key, value in sorted(self.values.get(actor, {}).items())
            if key.startswith(prefix) and key >= (start or "")
        ]
        return Page(found[:limit], found[limit][0] if len(found) > limit else None)

    async def reminders(self, actor: ActorId) -> Sequence[Reminder]:
        return self.wakes.get(actor, [])

    async def _ask(self, what: str, actor: ActorId, request: Any) -> None:
        if actor.type != "Counter":
            raise NotRegistered(f"no node has the actor type {actor.type!r}; there are: Counter")
        self.asked.append((what, actor, request))

    async def change_state(self, actor: ActorId, changes: Any) -> None:
        await self._ask("change_state", actor, changes)

    async def set_reminder(self, actor: ActorId, reminder: Any) -> None:
        await self._ask("set_reminder", actor, reminder)

    async def delete_reminder(self, actor: ActorId, name: str) -> None:
        await self._ask("delete_reminder", actor, name)

    async def set_timer(self, actor: ActorId, timer: Any) -> None:
        await self._ask("set_timer", actor, timer)

    async def delete_timer(self, actor: ActorId, name: str) -> None:
        await self._ask("delete_timer", actor, name)


class FakeNode:
    app_id = "shop"
    namespace = "default"
    node_id = "node-1"

    def __init__(self) -> None:
        self.workflows = FakeWorkflows()
        self.actors = FakeActors()
        self.transfers = FakeTransfers(self.workflows)
        self.unready: str | None = None
        self.unhealthy: str | None = None
        #: Nodes of the cluster that give no answer.
        self.silent: list[str] = []

    def ready(self) -> str | None:
        return self.unready

    async def healthy(self) -> str | None:
        return self.unhealthy

    async def cluster(self) -> ClusterView:
        me = Member("node-1", "", "shop", "default", ("Counter",), activities=("charge",))
        others = [Member(name, "", "shop", "default", ()) for name in self.silent]
        table = assign([me, *others], None, 1, 1, 16)
        figures = NodeFigures("node-1", MICROSECONDS, MICROSECONDS, activations={"Counter": 2})
        return view(table, "node-1", {"node-1": heard(figures, MICROSECONDS, MICROSECONDS)})

    async def metrics(self) -> bytes:
        return b"# HELP fake A number.\n# TYPE fake gauge\nfake 1\n"

    async def examine(self) -> list[Finding]:
        return [
            Finding("ok", "durability", "it is on disk"),
            Finding("error", "reminders", "one is overdue", "start a node"),
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "workflows": ["waiter", "echo"],
            "activities": ["charge"],
            "actor_types": ["Counter"],
            "activations": {"Counter": 2},
            "store": "memory://",
            "pending": 0,
        }


class ServedNode:
    """A node on a port, its event loop in a thread of its own: for clients that block. `serve` makes the node; it is
    a fake one unless told otherwise."""

    def __init__(
        self, serve: Callable[[], AbstractAsyncContextManager[tuple[Any, str]]] | None = None
    ) -> None:
        self._make = serve or serve_fake
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._make() as (self.node, self.url):
            self._ready.set()
            await self._stop.wait()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, run in the node's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


@asynccontextmanager
async def serve_fake(port: int = 0) -> AsyncIterator[tuple[FakeNode, str]]:
    node = FakeNode()
    server = HttpServer(node, port=port, drain_seconds=1)
    await server.start()
    yield node, server.url
    await server.stop()
