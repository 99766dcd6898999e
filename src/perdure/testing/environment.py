"""A node for a test: its own store, time that the test moves, every history checked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from perdure.actors.actor import Actor
from perdure.app import App
from perdure.client import WorkflowClient
from perdure.errors import InstanceNotFound
from perdure.node import Node, NodeOptions
from perdure.runtime import RuntimeOptions
from perdure.sidecar.decoded import event_json
from perdure.statestore.contract import StateStore
from perdure.statestore.memory import MemoryStore
from perdure.testing.clock import VirtualClock
from perdure.testing.override import Override, override
from perdure.testing.time import Time
from perdure.workflow.client import EngineClient
from perdure.workflow.engine import WorkflowEngine
from perdure.workflow.executor import NonDeterminism
from perdure.workflow.state import WorkflowState

T = TypeVar("T")
A = TypeVar("A", bound=Actor)

Workflow = Callable[..., Any] | str

#: What time it is when a test begins, unless it says: the same each time, so that no test fails on the 29th of February.
START = datetime(2026, 1, 1, tzinfo=UTC)
#: Real seconds for which something may be waited for that time does not bring.
PATIENCE = 10.0
#: Of a store of the test's own: few, so that a node starts in no time.
PARTITIONS = 8


class Environment:
    """A node of the app whose time only the test moves.

        async with testing.Environment(app) as perdure:
            id = await perdure.start(trial, input="ada")
            await perdure.advance(days=30)
            assert (await perdure.wait(id)).output == "charged"

    Timers, retries, time limits, reminders and activities' time-outs go by this time; `asyncio.sleep`, the system's
    clocks and what activities do outside do not. Whoever waits for an instance, also by `client`, moves time to
    whatever is due next, until the instance is done. Every turn is replayed and compared with its history: leaving the
    block raises `NonDeterminism` when that found anything.
    """

    def __init__(
        self,
        app: App,
        *,
        store: str | StateStore | None = None,
        start: datetime = START,
        replay_check: str = "always",
        patience: float = PATIENCE,
        http_port: int | None = None,
        _alone: bool = False,
    ) -> None:
        """`store`: a URL or a store; None: a memory store of its own. `start`: what time it is, aware. `patience`:
        real seconds that activities may take, or that anybody else may take to bring what is waited for."""
        if start.tzinfo is None:
            raise ValueError("start has no time zone: give an aware time")
        self.app = app
        self.node: Node
        #: What replays of histories found, by instance.
        self.mismatches: dict[str, NonDeterminism] = {}
        self._store = MemoryStore(partitions=PARTITIONS) if store is None else store
        self._options = NodeOptions(
            store=self._store,
            http_port=http_port,
            drain_seconds=0,
            blocked_after=0,
            runtime=RuntimeOptions(replay_check=replay_check),
        )
        self._begins = start
        self._time = Time(patience=patience, alone=_alone)
        self._overrides = ExitStack()

    async def __aenter__(self) -> Self:
        await self._serve(int(self._begins.timestamp() * 1_000_000))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._overrides.close()
        await self.node.stop()
        if error is None and self.mismatches:
            raise next(iter(self.mismatches.values()))

    async def _serve(self, now: int) -> None:
        def make_clock() -> VirtualClock:
            self._time.clock = VirtualClock(now)
            return self._time.clock

        node = self.app.node(self._options)
        node.make_clock = make_clock
        await node.start()
        runtime = node.runtime
        runtime.engine.replay_check.on_mismatch = self.mismatches.setdefault
        runtime.workflows = MovingClient(runtime.engine, self._time)
        runtime.client = WorkflowClient(runtime.workflows)
        self.node = self._time.node = node

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """What time it is for workflows, to the millisecond."""
        return self._time.now

    async def advance(
        self,
        by: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        to: datetime | None = None,
        while_running: bool = False,
    ) -> None:
        """Moves time by so much (to the millisecond), or to a moment; what is due on the way happens at its time, one after another, and
        when this returns all that follows from it has happened.

        Activities that run are waited for (in real time) before time goes on; not so `while_running`, as for their
        time-outs."""
        delta = (by or timedelta()) + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if to is not None:
            delta += to - self.now
        await self._time.advance(delta, while_running=while_running)

    async def settle(self) -> None:
        """Returns when all that can happen without time going on has happened. `TimeStandsStill` when an activity, say,
        takes longer than the patience."""
        await self._time.settle()

    # --- workflows ---------------------------------------------------------------------------------------------------

    @property
    def client(self) -> WorkflowClient:
        """What a program would use. Its waits move time, and its time limits are of that time."""
        return self.node.client

    def actor(self, cls: type[A], actor_id: str) -> A:
        """A typed proxy of the actor with this id."""
        return self.node.actor(cls, actor_id)

    async def start(self, workflow: Workflow, input: Any = None, *, instance_id: str | None = None) -> str:
        """Starts an instance; returns its id when it has come as far as it can without time going on."""
        id = await self.client.schedule_new_workflow(workflow, input=input, instance_id=instance_id)
        await self.settle()
        return id

    async def wait(self, instance_id: str, *, timeout: float | timedelta | None = None) -> WorkflowState:  # noqa: ASYNC109
        """The instance when it has ended, with time moved as far as it takes. `TimeStandsStill`, which says what the
        instance waits for, when no time would bring that; `DeadlineExceeded` when it takes longer than `timeout`
        (of virtual time)."""
        return await self.client.wait_for_workflow_completion(instance_id, timeout=timeout)

    async def run(
        self,
        workflow: Workflow,
        input: Any = None,
        *,
        instance_id: str | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109
    ) -> WorkflowState:
        """Starts an instance, and waits until it has ended."""
        id = await self.client.schedule_new_workflow(workflow, input=input, instance_id=instance_id)
        return await self.wait(id, timeout=timeout)

    async def state(self, instance_id: str) -> WorkflowState:
        """The instance as it is now, when all that can happen has happened. `InstanceNotFound`."""
        await self.settle()
        state = await self.client.get_workflow_state(instance_id)
        if state is None:
            raise InstanceNotFound(f"there is no workflow instance {instance_id!r}")
        return state

    async def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Hands an event to the instance; returns when what follows has happened."""
        await self.client.raise_workflow_event(instance_id, name, data=data)
        await self.settle()

    async def history(self, instance_id: str) -> list[dict[str, Any]]:
        """The history of the instance as `perdure workflow history --json` prints it: for `testing.replay`."""
        found: list[dict[str, Any]] = []
        start: int | None = 0
        while start is not None:
            page = await self.client.history(instance_id, start=start)
            found += [{"number": number, **event_json(event)} for number, event in page.items]
            start = None if page.cursor is None else int(page.cursor)
        return found

    # --- what happens to it ------------------------------------------------------------------------------------------

    def override(self, activity: Callable[..., Any] | str, stand_in: Callable[..., Any]) -> Override:
        """As `testing.override`, until the environment ends."""
        return self._overrides.enter_context(override(self.app, activity, stand_in))

    async def restart(self) -> None:
        """Stops the node and starts another on the same store, which replays what goes on. Activities that run are
        begun anew there."""
        now = self._time.clock.now()
        self._time.node = None
        await self.node.stop()
        await self._serve(now)


class MovingClient(EngineClient):
    """A client whose waits move time."""

    def __init__(self, engine: WorkflowEngine, time: Time) -> None:
        super().__init__(engine)
        self._time = time

    async def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> WorkflowState:
        def what() -> str:
            return f"instance {instance_id!r} has not {until}{self._time.waits(instance_id)}"

        return await self._time.until(super().wait(instance_id, until=until), what, timeout)


class BlockingEnvironment:
    """`Environment` for plain test functions: the same names, and each call returns its result.

        with testing.blocking(app) as perdure:
            id = perdure.start(trial, input="ada")
            perdure.advance(days=30)
            assert perdure.wait(id).output == "charged"

    The node runs on an event loop of its own, only while a call is under way. `do` runs any coroutine there, such as
    those of `client` and of actors.
    """

    def __init__(self, app: App, **options: Any) -> None:
        """The options are those of `Environment`."""
        self._environment = Environment(app, _alone=True, **options)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        try:
            self.do(self._environment.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.do(self._environment.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    def do(self, awaitable: Awaitable[T]) -> T:
        """What the awaitable comes to, on the node's event loop."""
        return self._runner.run(_await(awaitable))

    @property
    def app(self) -> App:
        return self._environment.app

    @property
    def node(self) -> Node:
        return self._environment.node

    @property
    def client(self) -> WorkflowClient:
        """What a program would use; its methods are coroutines, for `do`."""
        return self._environment.client

    @property
    def mismatches(self) -> dict[str, NonDeterminism]:
        return self._environment.mismatches

    @property
    def now(self) -> datetime:
        return self._environment.now

    def advance(
        self,
        by: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        to: datetime | None = None,
        while_running: bool = False,
    ) -> None:
        self.do(
            self._environment.advance(
                by,
                days=days,
                hours=hours,
                minutes=minutes,
                seconds=seconds,
                to=to,
                while_running=while_running,
            )
        )

    def settle(self) -> None:
        self.do(self._environment.settle())

    def actor(self, cls: type[A], actor_id: str) -> A:
        """A typed proxy, whose methods are coroutines, for `do`."""
        return self._environment.actor(cls, actor_id)

    def start(self, workflow: Workflow, input: Any = None, *, instance_id: str | None = None) -> str:
        return self.do(self._environment.start(workflow, input, instance_id=instance_id))

    def wait(self, instance_id: str, *, timeout: float | timedelta | None = None) -> WorkflowState:
        return self.do(self._environment.wait(instance_id, timeout=timeout))

    def run(
        self,
        workflow: Workflow,
        input: Any = None,
        *,
        instance_id: str | None = None,
        timeout: float | timedelta | None = None,
    ) -> WorkflowState:
        return self.do(self._environment.run(workflow, input, instance_id=instance_id, timeout=timeout))

    def state(self, instance_id: str) -> WorkflowState:
        return self.do(self._environment.state(instance_id))

    def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        self.do(self._environment.raise_event(instance_id, name, data))

    def history(self, instance_id: str) -> list[dict[str, Any]]:
        return self.do(self._environment.history(instance_id))

    def override(self, activity: Callable[..., Any] | str, stand_in: Callable[..., Any]) -> Override:
        return self._environment.override(activity, stand_in)

    def restart(self) -> None:
        self.do(self._environment.restart())


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
