"""The layers of one node put together, without edges: what a process, a test and the simulation all run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from perdure.actors.actor import Actor
from perdure.actors.calls import RouterCaller
from perdure.actors.host import ActorHost
from perdure.actors.ownership import Ownership
from perdure.actors.questions import NodeQuestions
from perdure.actors.replies import KEEP
from perdure.actors.router import Peers, Router
from perdure.actors.user_type import IDLE_TIMEOUT, UserActorType
from perdure.client import WorkflowClient
from perdure.clock import Clock
from perdure.placement.client import PlacementClient
from perdure.placement.member import Limit, Member
from perdure.placement.table import Table
from perdure.statestore.committer import Committer
from perdure.statestore.contract import RollbackAware, StateStore
from perdure.workflow.client import EngineClient
from perdure.workflow.engine import WorkflowEngine, workflow_type
from perdure.workflow.limits import check_limit
from perdure.workflow.locator import TableLocator
from perdure.workflow.registry import Registry
from perdure.workflow.run import InProcessExecutor
from perdure.workflow.slots import slots_type
from perdure.workflow.transfers import Transfers


class ActorSpec(NamedTuple):
    """One actor class of an app."""

    cls: type[Actor]
    #: None: the class's name.
    name: str | None = None
    #: Seconds without a message after which an actor leaves memory.
    idle_timeout: float = IDLE_TIMEOUT
    #: Whether what a turn of it calls may call it back.
    reentrant: bool = False
    #: For how long replies of calls with an idempotency key are kept.
    keep_replies: timedelta = KEEP


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set per node."""

    #: "always": after every turn the history is replayed and compared; "sampled": after one in a thousand; "off".
    replay_check: str = "sampled"
    #: Activations kept in memory at most, beyond those that are busy.
    max_active: int = 10_000
    #: Seconds after which an idle workflow instance leaves memory.
    workflow_idle: float = 60.0
    #: Seconds that nodes of an app must be present without one that knows an activity before its calls fail.
    unregistered_grace: float = 0.0
    #: How many activities run at a time, of all names and kinds; None: 1000 on the event loop, and 64 in threads.
    max_concurrent_activities: int | None = None
    #: How many workflow instances are under way at a time, without those that are children; None: any number.
    max_concurrent_workflows: int | None = None
    #: Seconds for which the keys with which callers may send something again are known.
    keep_keys: float = 86_400.0


class Runtime:
    """Made for one placement client, so for one incarnation of a node."""

    def __init__(
        self,
        *,
        app_id: str,
        namespace: str,
        registry: Registry,
        actors: Sequence[ActorSpec] = (),
        store: StateStore,
        partitions: int,
        clock: Clock,
        placement: PlacementClient,
        peers: Peers | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        options = options or RuntimeOptions()
        self.clock = clock
        self.store = store
        self.placement = placement
        self.committer = Committer(store, clock)
        self.host = ActorHost(
            clock=clock,
            store=store,
            committer=self.committer,
            partitions=partitions,
            fresh=placement.fresh,
            max_active=options.max_active,
        )
        locator = TableLocator(placement, namespace)
        self.router = Router(node=placement.node, clock=clock, host=self.host, locator=locator, peers=peers)
        #: What nodes ask each other.
        self.questions = NodeQuestions(self.router, clock)
        #: Calls user actors from here.
        self.caller = RouterCaller(self.router, clock, namespace)
        for spec in actors:
            self.host.register(
                UserActorType(
                    spec.cls,
                    self.caller,
                    name=spec.name,
                    idle_timeout=spec.idle_timeout,
                    reentrant=spec.reentrant,
                    keep_replies=spec.keep_replies,
                    namespace=namespace,
                )
            )
        self.engine = WorkflowEngine(
            app_id=app_id,
            namespace=namespace,
            registry=registry,
            executor=InProcessExecutor(registry),
            clock=clock,
            store=store,
            host=self.host,
            router=self.router,
            locator=locator,
            questions=self.questions,
            caller=self.caller,
            replay_check=options.replay_check,
            idle_timeout=options.workflow_idle,
            shares=placement.shares,
            max_activities=check_limit("max_concurrent_activities", options.max_concurrent_activities),
            max_workflows=check_limit("max_concurrent_workflows", options.max_concurrent_workflows),
            keep_keys=options.keep_keys,
        )
        placement.counts = self.engine.activities.counts
        placement.on_shares = self.engine.activities.share_changed
        self.engine.explainer.answer(self.questions)
        self.engine.dispatcher.unregistered_grace = options.unregistered_grace
        self.host.accounted = self.engine.accounted
        self.host.on_disowned = self.engine.disowned
        self.host.on_taken = self.engine.dispatcher.taken
        self.ownership = Ownership(self.host, placement, self.questions)
        #: What edges ask, and users.
        self.workflows = EngineClient(self.engine)
        self.client = WorkflowClient(self.workflows)
        self.transfers = Transfers(self.engine)

    async def start(self) -> None:
        """Serves what the newest table gives this node, and follows the tables to come."""
        if isinstance(self.store, RollbackAware):
            self.store.on_rollback(self.ownership.rolled_back)
        self.placement.on_table(self._table_changed)
        self.host.start()
        self.engine.start()
        if self.placement.table is not None:
            self._table_changed(None, self.placement.table)
            await self.ownership.settled()

    def _table_changed(self, old: Table | None, new: Table) -> None:
        # In this order: what waited for the table may be for an actor that is here now.
        self.ownership.applied(old, new)
        self.engine.table_changed(old, new)
        self.router.table_changed(new.name)

    async def stop(self, *, drain: float, together: Callable[[], Awaitable[None]] | None = None) -> None:
        """No new work; the activities that run have `drain` seconds to end, and their answers are committed; then
        every partition is given back. Whatever did not end is done again by the next owner.

        `together`: returns when the other nodes that stop at the same time have no activities either. Until then,
        or until the drain time is over, this one commits the answers of theirs."""
        self.engine.activities.stop_starting()
        deadline = self.clock.monotonic() + drain
        while self.engine.activities.known and self.clock.monotonic() < deadline:
            await self.clock.sleep(0.01)
        if together is not None:
            others = asyncio.ensure_future(together())
            while not others.done() and self.clock.monotonic() < deadline:
                await self.clock.sleep(0.01)
            others.cancel()
        self.host.stop_turns()
        while (self.host.busy or self.committer.pending) and self.clock.monotonic() < deadline + 1:
            await self.clock.sleep(0.005)
        self.router.close()
        await self.ownership.release_all()
        await self.engine.activities.close()
        self.host.close()


def member(
    *,
    app_id: str,
    namespace: str,
    node: str,
    registry: Registry,
    address: str = "",
    actor_types: tuple[str, ...] = (),
    weight: int = 1,
    http: str = "",
) -> Member:
    """What a node of this app says of itself."""
    workflow_limits = tuple(
        Limit(name, definition.global_max_concurrent)
        for name, definition in sorted(registry.workflows.items())
        if definition.global_max_concurrent is not None
    )
    if workflow_limits:
        actor_types = (slots_type(namespace, app_id), *actor_types)
    return Member(
        node=node,
        address=address,
        app_id=app_id,
        namespace=namespace,
        actor_types=(workflow_type(namespace, app_id), *actor_types),
        workflows=tuple(sorted(registry.workflows)),
        activities=tuple(sorted(registry.activities)),
        limits=tuple(
            Limit(name, definition.global_max_concurrent, definition.global_grace)
            for name, definition in sorted(registry.activities.items())
            if definition.global_max_concurrent is not None
        ),
        workflow_limits=workflow_limits,
        weight=weight,
        http=http,
    )
