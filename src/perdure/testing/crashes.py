"""A scenario, with the process killed at each commit in turn: the outcome has to be that of an undisturbed run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from perdure.actors.messages import Identity
from perdure.app import App
from perdure.client import WorkflowClient
from perdure.errors import ConfigurationError, PerdureError
from perdure.statestore.contract import Commit, Page
from perdure.statestore.memory import MemoryStore
from perdure.testing.environment import PATIENCE, START
from perdure.testing.lives import PARTITIONS, Life, MortalLoop, Witness
from perdure.testing.time import Time
from perdure.workflow.client import EngineClient, check_id
from perdure.workflow.engine import WorkflowEngine
from perdure.workflow.state import WorkflowState

T = TypeVar("T")

#: What is done with the app, and what came of it.
Scenario = Callable[[WorkflowClient], Coroutine[Any, Any, Any]]
When = Literal["before", "after"]

#: Commits of a scenario at most: each is the end of two runs.
MOST = 1000


class CrashMattered(AssertionError):
    """A crash changed the outcome."""


class CrashReport(msgspec.Struct, frozen=True):
    """Of a scenario whose outcome no crash changed."""

    outcome: Any
    #: Commits of the undisturbed run.
    commits: int
    #: Runs in which the process was killed.
    crashes: int


class Result(msgspec.Struct, frozen=True):
    """What came of one run."""

    outcome: Any
    #: Each instance's status.
    instances: Mapping[str, str]
    commits: int
    crashed: bool


class Crash(msgspec.Struct, frozen=True):
    """Where the process is killed: at its commit with this number, from 1."""

    number: int
    when: When

    def __str__(self) -> str:
        return f"killed {self.when} commit {self.number}"


def crash_everywhere(
    app: App,
    scenario: Scenario,
    *,
    start: datetime = START,
    same: Callable[[Any, Any], bool] | None = None,
    patience: float = PATIENCE,
) -> CrashReport:
    """Runs the scenario once undisturbed, and then again and again, the process killed before and after each commit in
    turn and started again on the same store.

        async def scenario(client: WorkflowClient) -> object:
            bank.clear()
            id = await client.schedule_new_workflow(order, input=order_1)
            return (await client.wait_for_workflow_completion(id)).output, bank.charged

        crash_everywhere(app, scenario)

    What the scenario returns, and the status of each instance, must be the same each time: `CrashMattered` says at
    which commit it was not. `same(undisturbed, crashed)` compares what is returned, if `==` is not right. The scenario
    is not in the process that is killed: its client goes on with the next one. It begins each time with an empty store;
    whatever else it changes it has to set back itself. Ids of instances that it does not choose are the same each time.
    Activities that ran at a crash run again, so what they do must bear that: that is what this is for.

    Time is virtual, as in `Environment`, and waits move it. Not inside workflow code, and not for actors. Plain
    activities run in threads, which a crash cannot stop: what one is in the middle of it does to the end.
    """
    if not _in_loop():
        return _crash_everywhere(app, scenario, start, same, patience)
    # A loop runs here already; another thread has another one.
    return _in_thread(lambda: _crash_everywhere(app, scenario, start, same, patience))


def _crash_everywhere(
    app: App,
    scenario: Scenario,
    start: datetime,
    same: Callable[[Any, Any], bool] | None,
    patience: float,
) -> CrashReport:
    undisturbed = _Run(app, scenario, start, patience, None).result()
    if undisturbed.commits > MOST:
        raise ConfigurationError(
            f"the scenario takes {undisturbed.commits} commits, and each would be the end of two runs; "
            f"{MOST} are enough for anybody: make it smaller"
        )
    crashes = 0
    for number in range(1, undisturbed.commits + 1):
        for when in ("before", "after"):
            crash = Crash(number, when)
            run = _Run(app, scenario, start, patience, crash)
            try:
                result = run.result()
            except Exception as error:
                where = f"{crash} of {undisturbed.commits} ({run.where})"
                raise CrashMattered(f"{where}, the scenario failed: {error!r}") from error
            if result.crashed:
                crashes += 1
            _compare(undisturbed, result, f"{crash} of {undisturbed.commits} ({run.where})", same)
    return CrashReport(undisturbed.outcome, undisturbed.commits, crashes)


def _compare(
    undisturbed: Result, result: Result, where: str, same: Callable[[Any, Any], bool] | None
) -> None:
    alike = same(undisturbed.outcome, result.outcome) if same else undisturbed.outcome == result.outcome
    if not alike:
        raise CrashMattered(
            f"{where}, the outcome was {result.outcome!r}; undisturbed it is {undisturbed.outcome!r}"
        )
    if undisturbed.instances != result.instances:
        changed = dict(undisturbed.instances.items() ^ result.instances.items())
        id = min(changed)
        was, now = undisturbed.instances.get(id, "not there"), result.instances.get(id, "not there")
        raise CrashMattered(f"{where}, instance {id!r} was {now} in the end; undisturbed it is {was}")


class _Run:
    """The scenario once, over one life or two."""

    def __init__(
        self, app: App, scenario: Scenario, start: datetime, patience: float, crash: Crash | None
    ) -> None:
        self._app = app
        self._scenario = scenario
        self._start = int(start.timestamp() * 1_000_000)
        self._crash = crash
        self._patience = patience
        self._store = MemoryStore(partitions=PARTITIONS)
        self._commits = 0
        self._failure: asyncio.Future[None]
        #: What the commit was at which the process was killed.
        self.where = "never"
        self._crashed = False
        self._life: Life | None = None
        self._lives: list[Life] = []
        self._serving = asyncio.Event()
        self._time: Time

    def result(self) -> Result:
        loop = MortalLoop()
        loop.set_exception_handler(_only_the_living)
        try:
            return loop.run_until_complete(self._world())
        finally:
            for life in self._lives:
                life.bury()
            _bury(loop)
            loop.close()

    async def _world(self) -> Result:
        self._time = Time(patience=self._patience)
        keeper = asyncio.create_task(self._keep_alive())
        scenario = asyncio.create_task(self._play())
        try:
            await asyncio.wait((scenario, keeper), return_when=asyncio.FIRST_COMPLETED)
            if not scenario.done():
                keeper.result()
            outcome = scenario.result()
            # What nobody waits for comes to its end, too, as far as it needs no time.
            await self._settle()
            return Result(outcome, await self._instances(), self._commits, self._crashed)
        finally:
            for task in (scenario, keeper):
                task.cancel()
                with suppress(BaseException):
                    await task
            if self._life is not None:
                self._life.kill()

    async def _play(self) -> Any:
        life = await self._serve()
        client = SurvivingClient(life.node.runtime.engine, self._serve, self._time)
        return await self._scenario(WorkflowClient(client))

    async def _settle(self) -> None:
        while True:
            life = await self._serve()
            await self._time.settle()
            if not life.ended.done():
                return

    async def _serve(self) -> Life:
        """The life that serves, as soon as there is one."""
        await self._serving.wait()
        assert self._life is not None
        return self._life

    async def _keep_alive(self) -> None:
        """Starts the process, and starts it again."""
        now = self._start
        while True:
            life = Life(self._app, self._store, now, witness=Witness(self._store, self._commit))
            self._life = life
            self._lives.append(life)
            await life.start()
            if not life.ended.done():
                self._time.node, self._time.clock = life.node, life.clock
                self._serving.set()
                await asyncio.wait((life.ended,))
            self._serving.clear()
            self._time.node = None
            now = life.clock.now()

    def _commit(self, commit: Commit, write: Callable[[], None]) -> None:
        self._commits += 1
        crash = self._crash
        if self._crashed or crash is None or crash.number != self._commits:
            write()
            return
        if crash.when == "after":
            write()
        self._crashed = True
        self.where = _described(commit)
        assert self._life is not None
        self._life.kill()

    async def _instances(self) -> dict[str, str]:
        return {
            actor.id: record.row.status
            for actor, record in self._store.actors.items()
            if record.row is not None
        }


class SurvivingClient(EngineClient):
    """A client outside of the process that dies: what it asks, it asks the next one again, as the same request."""

    def __init__(
        self, engine: WorkflowEngine, serve: Callable[[], Coroutine[Any, Any, Life]], time: Time
    ) -> None:
        super().__init__(engine)
        self._serve = serve
        self._time = time
        self._started = 0

    async def _ask(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        while True:
            life = await self._serve()
            self._engine = life.node.runtime.engine
            asking = asyncio.ensure_future(ask())
            await asyncio.wait((asking, life.ended), return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            asking.cancel()

    async def start(
        self, name: str, payload: bytes | None, instance_id: str | None = None, **options: Any
    ) -> str:
        # The same ids in each run, so that their outcomes can be compared. A key makes one by itself.
        self._started += 1
        options.setdefault("start_id", f"scenario-{self._started}")
        if instance_id is None and options.get("idempotency_key") is None:
            instance_id = f"scenario-{self._started}"
        return await super().start(name, payload, instance_id, **options)

    async def get(self, instance_id: str) -> WorkflowState | None:
        return await self._ask(lambda: EngineClient.get(self, instance_id))

    async def list(self, **where: Any) -> Page[WorkflowState]:
        return await self._ask(lambda: EngineClient.list(self, **where))

    async def history(self, instance_id: str, *, start: int = 0, limit: int = 1000) -> Any:
        return await self._ask(lambda: EngineClient.history(self, instance_id, start=start, limit=limit))

    async def wait(
        self,
        instance_id: str,
        *,
        until: Literal["started", "finished"] = "finished",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> WorkflowState:
        def what() -> str:
            return f"instance {instance_id!r} has not {until}{self._time.waits(instance_id)}"

        await self._serve()
        return await self._time.until(
            self._ask(lambda: EngineClient.wait(self, instance_id, until=until)), what, timeout
        )

    async def _request(self, instance_id: str, method: str, body: msgspec.Struct) -> Any:
        check_id(instance_id)
        self._number += 1
        number = self._number

        async def ask() -> Any:
            target = self._engine.actor(instance_id)
            pending = self._pending.setdefault(target, set())
            pending.add(number)
            identity = Identity(self._sender, number, min(pending))
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            def answered(value: Any) -> None:
                if not answer.done():
                    answer.set_result(value)

            self._engine.router.send(target, method, body, answered, identity=identity)
            value = await answer
            pending.discard(number)
            if isinstance(value, PerdureError):
                raise value
            return value

        return await self._ask(ask)


def _described(commit: Commit) -> str:
    keys = sorted(commit.put)
    shown = ", ".join(keys[:4]) + (", …" if len(keys) > 4 else "")
    return f"{commit.actor.id}: {shown or 'no keys'}"


def _in_loop() -> bool:
    return asyncio._get_running_loop() is not None


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            errors.append(error)

    thread = threading.Thread(target=work, name="perdure-crashes")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _only_the_living(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What is left of the dead says that it was not waited for."""
    if not str(context.get("message", "")).startswith("Task was destroyed"):
        loop.default_exception_handler(context)


def _bury(loop: asyncio.AbstractEventLoop) -> None:
    """Ends what the dead were in the middle of: nothing of it has any effect any more, and nobody is told."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        with suppress(BaseException):
            coroutine = task.get_coro()
            assert coroutine is not None
            coroutine.close()
