"""What an instance waits for, for people: what its code says, and where its activities are. Changes nothing."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from perdure.actors.questions import NodeQuestions
from perdure.errors import InvalidInput, LoopBlocked, NotRegistered, PerdureError
from perdure.statestore.contract import ActorId
from perdure.workflow import metadata
from perdure.workflow.events import ExecutionStarted
from perdure.workflow.executor import NonDeterminism, Run
from perdure.workflow.metadata import Metadata
from perdure.workflow.orchestrator import WorkflowBehaviour
from perdure.workflow.rebuild import SLICE, STRIDE
from perdure.workflow.replay import Replay
from perdure.workflow.run import InProcessExecutor
from perdure.workflow.state import when

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

#: The name of the question about an instance.
EXPLAIN = "explain"
#: Answers that are remembered: replay gives the same for the same history.
REMEMBERED = 64
#: An instance that changes all the time is replayed for a look during one part in so many of the time.
SPARING = 20


class Waits(msgspec.Struct, frozen=True):
    """What the code waits for."""

    #: As `Run.waiting_for` says; None: not known.
    found: tuple[str, ...] | None = None
    #: Why it is not known.
    why: str = ""
    #: Ask again: it would have cost too much now.
    later: bool = False


class OpenTask(NamedTuple):
    """An activity without an answer."""

    task_id: int
    name: str
    app_id: str = ""


class Place(msgspec.Struct, frozen=True):
    """Where an activity request is. `state`: "running", "queued", "answered" (its answer is on the way), "sent" (a
    node took it), "expected" (the owner of the instance knows; by the table it is that node's), or "nobody" (no node
    has the activity)."""

    node: str
    state: str
    #: How many of the same activity run there before it, if it is queued on the node that was asked.
    ahead: int | None = None


class Explanation(msgspec.Struct, frozen=True):
    """What can be told of an active instance beside its state."""

    waits: Waits
    #: One for each activity that was asked about.
    places: list[Place]
    #: Whether it is in the memory of the node that tells.
    in_memory: bool = False


class _Question(msgspec.Struct, frozen=True):
    """Sent to the owner of an instance, as plain values."""

    type: str
    id: str
    metadata: bytes
    tasks: list[OpenTask]


class Explainer:
    """One per engine. Looks at the instance in memory, or else runs its code over its history, apart from it."""

    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine
        self._questions: NodeQuestions | None = None
        self._known: OrderedDict[tuple[ActorId, str, int], Waits] = OrderedDict()
        self._rest_until: dict[ActorId, float] = {}
        self._replaying = asyncio.Lock()

    def answer(self, questions: NodeQuestions) -> None:
        """Answers what other nodes ask about instances that this node owns, and asks them about theirs."""
        self._questions = questions
        questions.register(EXPLAIN, self._asked)

    async def explain(
        self, actor: ActorId, meta: Metadata, tasks: Sequence[OpenTask], owner: str
    ) -> Explanation:
        """What the owner of the instance knows, or, when it gives no answer, what can be known here. `meta` is of
        the instance's last commit."""
        if self._questions is not None and owner and owner != self._engine.node:
            question = _Question(actor.type, actor.id, metadata.encode(meta), list(tasks))
            answer = await self._questions.ask(
                owner, EXPLAIN, msgspec.to_builtins(question, builtin_types=(bytes,))
            )
            try:
                found = msgspec.convert(answer, Explanation)
            except msgspec.ValidationError:
                found = None
            if found is not None and len(found.places) == len(tasks):
                return found
        return await self._explain(actor, meta, tasks)

    async def _explain(self, actor: ActorId, meta: Metadata, tasks: Sequence[OpenTask]) -> Explanation:
        waits = await self.waits(actor, meta)
        return Explanation(waits, list(self.places(actor, meta, tasks)), self.in_memory(actor))

    async def _asked(self, body: Any) -> Any:
        try:
            question = msgspec.convert(body, _Question)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"not a question about an instance: {error}") from error
        actor = ActorId(question.type, question.id)
        if actor.type != self._engine.name:
            raise InvalidInput(f"this node has {self._engine.name}, not {actor.type}")
        return msgspec.to_builtins(
            await self._explain(actor, metadata.decode(question.metadata), question.tasks)
        )

    def in_memory(self, actor: ActorId) -> bool:
        """Whether the instance is in the memory of this node."""
        return actor in self._engine.host.activations

    async def waits(self, actor: ActorId, meta: Metadata) -> Waits:
        """What the code of an active instance waits for. `meta` is of its last commit. Never raises."""
        run = self._live(actor, meta.execution_id)
        if run is not None:
            return Waits(tuple(run.waiting_for()))
        if meta.stall or meta.deaths or meta.task_deaths:
            return Waits(why="its code is not run for a look: it is stalled, or a process died of it")
        if not meta.history:
            if meta.early:
                return Waits(why=f"it is to begin at {when(meta.scheduled).isoformat()}")
            return Waits(why=meta.reason or "it has not begun")
        if not isinstance(self._engine.executor, InProcessExecutor):
            return Waits(why="its code runs in a connected worker")
        key = (actor, meta.execution_id, meta.history)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        clock = self._engine.clock
        if clock.monotonic() < self._rest_until.get(actor, 0):
            return Waits(why="it changes too fast to be looked at", later=True)
        async with self._replaying:
            began = clock.monotonic()
            found = await self._replayed(actor, meta)
            self._rest(actor, clock.monotonic(), clock.monotonic() - began)
        if not found.later:
            self._known[key] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _rest(self, actor: ActorId, now: float, cost: float) -> None:
        self._rest_until = {one: until for one, until in self._rest_until.items() if until > now}
        self._rest_until[actor] = now + cost * SPARING

    def _live(self, actor: ActorId, execution_id: str) -> Run | None:
        activation = self._engine.host.activations.get(actor)
        behaviour = activation.behaviour if activation is not None else None
        if not isinstance(behaviour, WorkflowBehaviour) or behaviour.instance is None:
            return None
        same = behaviour.instance.meta.execution_id == execution_id
        return behaviour.run if same else None

    async def _replayed(self, actor: ActorId, meta: Metadata) -> Waits:
        run: Run | None = None
        try:
            replay: Replay | None = None
            clock = self._engine.clock
            began = clock.monotonic()
            async for number, event in self._engine.history(actor, limit=meta.history):
                if replay is None:
                    if not isinstance(event, ExecutionStarted) or event.execution_id != meta.execution_id:
                        return Waits(why="it has changed meanwhile", later=True)
                    run = self._engine.new_run(actor, event)
                    replay = Replay(run)
                replay.feed(event)
                if number % STRIDE == 0 and clock.monotonic() - began > SLICE:
                    await clock.sleep(0)
                    began = clock.monotonic()
            if replay is None:
                return Waits(why="it has changed meanwhile", later=True)
            replay.finish()
            assert run is not None
            return Waits(tuple(run.waiting_for()))
        except NotRegistered:
            return Waits(why=f"this node does not have the code of workflow {meta.name!r}")
        except NonDeterminism as error:
            return Waits(why=f"when its code is run over its history, {error.message}")
        except (PerdureError, LoopBlocked) as error:
            return Waits(why=f"its code cannot be run over its history: {error}")
        finally:
            if run is not None:
                run.close()

    def places(self, actor: ActorId, meta: Metadata, tasks: Iterable[OpenTask]) -> Sequence[Place]:
        """Where each of these activities is, as far as this node knows."""
        return [self._place(actor, meta, task) for task in tasks]

    def _place(self, actor: ActorId, meta: Metadata, task: OpenTask) -> Place:
        engine = self._engine
        node = engine.dispatcher.where(actor, meta.execution_id, task.task_id)
        if node == engine.node:
            return self._here(node, meta, task, "sent")
        if node:
            return Place(node, "sent")
        activity_id = f"{actor.id}::{task.task_id}::{meta.generation}"
        expected = engine.locator.activity_node(task.app_id or engine.app_id, task.name, activity_id)
        if expected is None:
            return Place("", "nobody")
        if expected == engine.node:
            return self._here(expected, meta, task, "expected")
        return Place(expected, "expected")

    def _here(self, node: str, meta: Metadata, task: OpenTask, otherwise: str) -> Place:
        activities = self._engine.activities
        state = activities.state(meta.execution_id, task.task_id)
        return Place(node, state or otherwise, activities.ahead(meta.execution_id, task.task_id))
