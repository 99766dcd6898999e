"""The workflow engine of one app on one node: what its workflow actors and activities share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from typing import Protocol

from perdure.actors.activation import Activation
from perdure.actors.calls import Caller
from perdure.actors.host import ActorHost
from perdure.actors.messages import Answer, Message
from perdure.actors.questions import NodeQuestions
from perdure.actors.router import Locator as ActorLocator
from perdure.actors.router import Router
from perdure.clock import Clock
from perdure.errors import StoreUnavailable
from perdure.placement.shares import Holder
from perdure.placement.table import Table
from perdure.statestore.contract import ActorId, Page, Reminder, StateStore
from perdure.workflow import events
from perdure.workflow.activity import ActivityHost
from perdure.workflow.admission import Admission
from perdure.workflow.dispatch import LOOK, Dispatcher
from perdure.workflow.events import Event, ExecutionStarted
from perdure.workflow.executor import Executor, Run
from perdure.workflow.executor import Instance as RunInstance
from perdure.workflow.explain import Explainer
from perdure.workflow.instance import named
from perdure.workflow.keys import FORGET, START
from perdure.workflow.limits import Queue
from perdure.workflow.monitor import Monitor
from perdure.workflow.orchestrator import WorkflowBehaviour
from perdure.workflow.receipts import KEEP
from perdure.workflow.recovery import RecoveryGate
from perdure.workflow.registry import Registry
from perdure.workflow.replay_check import ReplayCheck
from perdure.workflow.requests import Forget, StartDue, TimerDue
from perdure.workflow.slots import Slots, slots_type
from perdure.workflow.tracing import Tracing
from perdure.workflow.whereabouts import Whereabouts


class Locator(ActorLocator, Protocol):
    """Where things are, by the newest placement table."""

    def activity_node(
        self, app_id: str, name: str, activity_id: str, missed: Collection[str] = (), near: str = ""
    ) -> str | None:
        """The node that runs this activity, of the app's nodes that registered the name, but for those in `missed`:
        `near` if that is among them and no limit of the cluster is for the name, else the first in rendezvous order of
        the activity's id. None while there is none."""

    def workflow_limit(self, app_id: str, name: str) -> int | None:
        """How many instances of a workflow may be under way in the cluster: what its nodes say, the fewest."""

    def activities(self, app_id: str) -> list[str]:
        """The names of the activities that nodes of the app have registered."""

    def has_workflow(self, app_id: str, name: str) -> bool:
        """Whether any node of the app has registered the workflow."""

    def app_present(self, app_id: str) -> bool:
        """Whether any node of the app is in the table, other than those that retire."""

    def nodes(self) -> list[str]:
        """Every node in the table, of whatever app."""

    def present(self, node: str) -> bool:
        """Whether this incarnation is in the table."""


class WorkflowEngine:
    """Implements `perdure.actors.host.ActorType` for the app's workflow actors."""

    def __init__(
        self,
        *,
        app_id: str,
        namespace: str,
        registry: Registry,
        executor: Executor,
        clock: Clock,
        store: StateStore,
        host: ActorHost,
        router: Router,
        locator: Locator,
        questions: NodeQuestions,
        caller: Caller | None = None,
        replay_check: str = "sampled",
        idle_timeout: float = 60.0,
        shares: Holder,
        max_activities: int | None = None,
        max_workflows: int | None = None,
        keep_keys: float = KEEP / 1e6,
    ) -> None:
        """`shares`: how many of each activity the cluster lets this node run. `max_activities`, `max_workflows`: how
        many run, or are under way, of all names. `keep_keys`: seconds for which a caller's key is
        known."""
        self.app_id = app_id
        self.namespace = namespace
        self.registry = registry
        self.executor = executor
        self.clock = clock
        self.store = store
        self.host = host
        self.router = router
        self.locator = locator
        #: What `ActorProxy.create` calls through in activities.
        self.caller = caller
        self.idle_timeout = idle_timeout
        #: In microseconds.
        self.keep_keys = int(keep_keys * 1e6)
        self.name = workflow_type(namespace, app_id)
        #: What this node has done, for those who watch it.
        self.monitor = Monitor()
        #: What is told of each instance; None: nothing is.
        self.tracing: Tracing | None = None
        self.gate = RecoveryGate(clock)
        self.dispatcher = Dispatcher(self, Whereabouts(self, questions))
        #: Instances that have not begun because only other nodes have their workflow, with its name.
        self.unregistered: dict[ActorId, str] = {}
        self.activities = ActivityHost(self, shares, most=max_activities)
        self.replay_check = ReplayCheck(self, replay_check)
        self.explainer = Explainer(self)
        #: None: every instance may start at once.
        self.admission: Admission | None = None
        self._slots: Slots | None = None
        limited = [
            definition
            for definition in registry.workflows.values()
            if definition.max_concurrent is not None or definition.global_max_concurrent is not None
        ]
        if limited or max_workflows is not None:
            self.admission = Admission(self, limited, max_workflows)
            host.on_owned = self.admission.owned
        if any(definition.global_max_concurrent is not None for definition in limited):
            self._slots = Slots(self, lambda name: locator.workflow_limit(app_id, name))
            host.register(self._slots)
        host.register(self)
        router.stateless(activity_type(namespace, app_id), self.activities.receive)

    @property
    def node(self) -> str:
        return self.router.node

    def start(self) -> None:
        self.clock.call_later(LOOK, self._look)

    def _look(self) -> None:
        if not self.router.closed:
            self.dispatcher.look()
            self.monitor.settle()
            self.clock.call_later(LOOK, self._look)

    def table_changed(self, old: Table | None, new: Table) -> None:
        """A node may have left that had activities of instances that live here, or one come that can have them."""
        if not self.router.closed:
            members = old.members if old is not None else {}
            # Before it leaves, a node that stops announces that it takes nothing any more.
            retired = {n for n, m in members.items() if n not in new.members and not m.activities}
            self.dispatcher.table_changed(retired)
            for actor, name in list(self.unregistered.items()):
                if not self.elsewhere(name):
                    del self.unregistered[actor]
                    self._try_again(actor)
            if self._slots is not None:
                self._slots.changed()

    def elsewhere(self, workflow: str) -> bool:
        """Whether a node of the app has registered this workflow, which this one has not."""
        return self.locator.has_workflow(self.app_id, workflow)

    def _try_again(self, actor: ActorId) -> None:
        activation = self.host.activations.get(actor)
        if activation is not None and isinstance(activation.behaviour, WorkflowBehaviour):
            activation.behaviour.resumed()
            activation.wake()

    def disowned(self, lost: Callable[[ActorId], bool]) -> None:
        """Other nodes own these actors now."""
        self.dispatcher.disowned(lost)
        if self.admission is not None:
            self.admission.disowned(lost)
        for actor in [actor for actor in self.unregistered if lost(actor)]:
            del self.unregistered[actor]

    # --- ActorType ---------------------------------------------------------------------------------------------------

    def create(self, activation: Activation) -> WorkflowBehaviour:
        return WorkflowBehaviour(self, activation)

    @staticmethod
    def reminder(reminder: Reminder, answer: Answer) -> Message:
        """The message of a due reminder: a timer, a scheduled start, or the end of a tombstone."""
        if reminder.name == FORGET:
            return Message(reminder.actor, "forget", Forget(), answer)
        if reminder.name == START:
            return Message(reminder.actor, "begin", StartDue(reminder.data.decode(), reminder.due), answer)
        task_id = int(reminder.name.removeprefix("timer-"))
        body = TimerDue(reminder.data.decode(), task_id, reminder.due)
        return Message(reminder.actor, "timer", body, answer)

    def accounted(self, actor: ActorId) -> bool:
        """Whether what this actor owes is under way although it may not be in memory."""
        waits = self.admission is not None and self.admission.waits(actor)
        return waits or self.dispatcher.accounted(actor)

    def queues(self) -> dict[str, dict[str, Queue]]:
        """What runs and waits on this node: "activities" and "workflows", each by name, where anything is limited or
        waits."""
        workflows = self.admission.queues() if self.admission is not None else {}
        return {"activities": self.activities.queues(), "workflows": workflows}

    # --- names -------------------------------------------------------------------------------------------------------

    def workflow_type(self, app_id: str) -> str:
        return workflow_type(self.namespace, app_id) if app_id else self.name

    def activity_type(self, app_id: str) -> str:
        return activity_type(self.namespace, app_id or self.app_id)

    def slots(self, workflow: str) -> ActorId:
        """Who keeps the slots of a workflow that is limited in the cluster."""
        return ActorId(slots_type(self.namespace, self.app_id), workflow)

    def actor(self, instance_id: str) -> ActorId:
        return ActorId(self.name, instance_id)

    # --- what behaviours share -----------------------------------------------------------------------------------------

    def new_run(self, actor: ActorId, started: ExecutionStarted) -> Run:
        """`NotRegistered` when the workflow is unknown here."""
        return self.executor.run(RunInstance(self.app_id, self.namespace, actor.id), started)

    async def page(self, actor: ActorId, start: str, limit: int = 1000) -> Page[tuple[str, bytes]]:
        """A page of history keys, as soon as the store can give it."""
        delay = 0.05
        while True:
            try:
                return await self.store.keys(actor, "history-", start, limit)
            except StoreUnavailable:
                await self.clock.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def history(
        self, actor: ActorId, *, start: int = 0, limit: int | None = None
    ) -> AsyncIterator[tuple[int, Event]]:
        """The stored events, in order, with their numbers. `CorruptState` at one that cannot be read."""
        cursor: str | None = f"history-{start:06d}"
        while cursor is not None and (limit is None or start < limit):
            page = await self.page(actor, cursor)
            for key, value in page.items:
                number = int(key.removeprefix("history-"))
                if limit is not None and number >= limit:
                    return
                yield number, named(key, events.decode, value)
            cursor = page.cursor


def workflow_type(namespace: str, app_id: str) -> str:
    """The actor type of an app's workflow instances."""
    return f"dapr.internal.{namespace}.{app_id}.workflow"


def activity_type(namespace: str, app_id: str) -> str:
    """The actor type of an app's activities."""
    return f"dapr.internal.{namespace}.{app_id}.activity"


def is_internal(actor_type: str) -> bool:
    """Whether the type is the runtime's own: user code cannot register it."""
    return actor_type.startswith("dapr.internal.")
