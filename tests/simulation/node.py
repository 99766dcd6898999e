"""One incarnation of a simulated node: the real runtime on a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from perdure import payload
from perdure.actors.messages import Message
from perdure.client import WorkflowClient
from perdure.errors import ConfigurationError, PerdureError
from perdure.placement.client import PlacementClient
from perdure.runtime import ActorSpec, Runtime, RuntimeOptions, member
from perdure.statestore.contract import ActorId
from tests.simulation.actors import Counter
from tests.simulation.ledger import LEDGER
from tests.simulation.network import SimPeers
from tests.simulation.process import Process
from tests.simulation.programs import REGISTRIES
from tests.simulation.store import SimStore

if TYPE_CHECKING:
    from tests.simulation.world import World


#: Seconds that nodes of an app must be there before it counts that none has a name.
GRACE = 3.0


class NodeLost(Exception):
    """The node died before it answered: whether it did what was asked is not known."""


class SimNode:
    """`name` stays over incarnations; `id` does not."""

    def __init__(self, world: World, name: str, incarnation: int, app: str) -> None:
        self.world = world
        self.name = name
        self.app = app
        self.id = f"{name}.{incarnation}"
        self.process = process = Process(world.loop, self.id, world.seed)
        process.task_failed = world.task_failed
        process.context.run(LEDGER.set, world.ledger)
        process.skew = world.skew()
        self.ready = False
        self.leaving = False
        self._asks: dict[asyncio.Future[Any], None] = {}
        registry = world.registries.get(name) or (world.registry if app == "sim" else REGISTRIES[app])
        # Only one of the apps has actors of users.
        actors = (ActorSpec(Counter, idle_timeout=world.idle), *world.more_actors) if app == "sim" else ()
        me = member(
            app_id=app,
            namespace="default",
            node=self.id,
            registry=registry,
            address=f"{name}:1",
            actor_types=tuple(spec.cls.actor_type for spec in actors),
        )
        self.placement = PlacementClient(
            me,
            process,
            lambda address, receiver: world.links.connect(process, address, receiver),
            options=world.placement_options,
        )
        self.runtime = Runtime(
            app_id=app,
            namespace="default",
            registry=registry,
            actors=actors,
            store=SimStore(world.server, process),
            partitions=world.partitions,
            clock=process,
            placement=self.placement,
            peers=SimPeers(world.network, process),
            options=RuntimeOptions(replay_check="off", workflow_idle=world.idle, unregistered_grace=GRACE),
        )
        self.runtime.ownership.handover = world.placement_options.word
        self._watch()
        process.spawn(self._start(), name="start")

    def _watch(self) -> None:
        """Has the checker look at every message that reaches an actor, and at every activity that is asked for."""
        checker, host, router = self.world.checker, self.runtime.host, self.runtime.router
        deliver, send_to = host.deliver, router.send_to

        def delivered(message: Message) -> None:
            deliver(checker.deliver(self.process, message))

        def sent_to(node: str, target: Any, method: str, body: Any, answer: Any, **options: Any) -> None:
            checker.sending(self.process, body)
            send_to(node, target, method, body, answer, **options)

        host.deliver = delivered  # type: ignore[method-assign]
        router.send_to = sent_to  # type: ignore[method-assign]
        fresh = host.fresh

        def is_fresh() -> bool:
            answer = fresh()
            if answer:
                checker.trusted(self.process, host.owned)
            return answer

        host.fresh = is_fresh
        self.world.network.listen(self.id, self.process, router.arrived)

    async def _start(self) -> None:
        self.placement.start()
        while True:
            try:
                await self.placement.joined()
                break
            except ConfigurationError:
                # The last incarnation is not known to be dead yet.
                await self.process.sleep(0.3)
        await self.runtime.start()
        self.ready = True

    async def ask(self, request: Callable[[WorkflowClient], Awaitable[Any]]) -> Any:
        """Has a client on this node do something. `NodeLost` when the node dies first."""
        return await self.have(lambda: request(self.runtime.client))

    async def call(
        self,
        actor: ActorId,
        method: str,
        input: Any = None,
        *,
        timeout: float = 60.0,  # noqa: ASYNC109
        idempotency_key: str | None = None,
    ) -> Any:
        """Calls a user actor through this node. `NodeLost` when the node dies first."""
        body = payload.encode(input)
        caller = self.runtime.caller
        answer = await self.have(
            lambda: caller.call_actor(actor, method, body, timeout=timeout, idempotency_key=idempotency_key)
        )
        return payload.decode(answer)

    async def have(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """What the request comes to, made in this node's process."""
        answer: asyncio.Future[Any] = self.world.loop.create_future()
        self._asks[answer] = None

        async def do() -> None:
            try:
                result = await request()
            except PerdureError as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self.process.spawn(do(), name="client")
        try:
            return await answer
        finally:
            self._asks.pop(answer, None)

    def kill(self) -> None:
        self.process.kill()
        self._lose_asks()

    def _lose_asks(self) -> None:
        for answer in list(self._asks):
            if not answer.done():
                answer.set_exception(NodeLost())

    def stop(self) -> None:
        """Stops in good order, as a deployment does."""
        self.leaving = True
        self.process.spawn(self._stop(), name="stop")

    async def _stop(self) -> None:
        if self.world.graceful or self.process.token(1)[0] < 128:
            await self._retire()
        await self.runtime.stop(drain=0.5)
        self.placement.leave()
        # Until all others know.
        await self.process.sleep(0.2)
        self.world.gone(self)

    async def _retire(self) -> None:
        """As `perdure.clustered.Clustered.retire`: others take over while this node still serves."""
        me = self.placement.member
        self.placement.announce(msgspec.structs.replace(me, weight=0, workflows=(), activities=()))
        until = self.process.monotonic() + 3.0
        while self.runtime.host.owned and self.process.monotonic() < until:
            await self.process.sleep(0.02)
