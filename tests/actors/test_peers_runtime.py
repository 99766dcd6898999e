"""Two whole runtimes in this process, over real links, with one store: what a cluster of two nodes is, but for its
processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from perdure.actors.actor import Actor
from perdure.actors.codec import Codec
from perdure.actors.peers import PeerLinks
from perdure.actors.proxy import ActorProxy
from perdure.clock import LoopClock
from perdure.errors import ActorMethodFailed, AlreadyExists, InstanceNotFound, InvalidState, NotFound
from perdure.links import LinkServer
from perdure.placement.client import PlacementClient
from perdure.placement.embedded import EmbeddedPlacement
from perdure.placement.hashing import partition_of
from perdure.runtime import ActorSpec, Runtime, member
from perdure.security import Security
from perdure.statestore.contract import ActorId
from perdure.statestore.memory import MemoryStore
from perdure.workflow.context import WorkflowContext
from perdure.workflow.registry import Registry
from perdure.workflow.state import RuntimeStatus
from perdure.workflow.wire import register_workflow
from tests.servers.proxy import CuttingProxy
from tests.waiting import eventually

PARTITIONS = 16
SECURITY = Security(token="of-this-test")


class Counter(Actor):
    async def increment(self, by: int) -> int:
        value: int = (await self.state.get("n", default=0)) + by
        self.state.set("n", value)
        return value

    async def fail(self) -> None:
        raise LookupError("nothing there")

    async def relay(self, to: str) -> int:
        """Calls another actor, wherever that is."""
        return await ActorProxy.create(Counter, to).increment(1)

    async def circle(self, through: str) -> int:
        """Has another actor call this one in the middle of its turn."""
        await self.increment(10)
        await ActorProxy.create(Counter, through).relay(self.id)
        return await self.increment(100)


class TwoNode:
    """One of the two."""

    def __init__(self, name: str, store: MemoryStore, ran: list[tuple[str, str]]) -> None:
        self.name = name
        self.store = store
        self.clock = LoopClock()
        self.server = LinkServer("127.0.0.1", 0, security=SECURITY, clock=self.clock)
        #: What the other node dials.
        self.proxy: CuttingProxy
        self.registry = Registry()
        self.peers: PeerLinks
        self.runtime: Runtime
        self._register(ran)

    def _register(self, ran: list[tuple[str, str]]) -> None:
        @self.registry.activity
        async def shout(_: Any, text: str) -> str:
            ran.append((self.name, text))
            return text.upper()

        @self.registry.activity
        async def refuse(_: Any, text: str) -> str:
            raise ValueError(f"not {text}")

        @self.registry.workflow
        async def fan_out(ctx: WorkflowContext, count: int) -> list[str]:
            texts = [ctx.call_activity(shout, input=f"item {i}") for i in range(count)]
            return [await text for text in texts]

        @self.registry.workflow
        async def refused(ctx: WorkflowContext) -> str:
            return await ctx.call_activity(refuse, input="this")

        @self.registry.workflow
        async def child(ctx: WorkflowContext, text: str) -> str:
            return f"child of {text}"

        @self.registry.workflow
        async def parent(ctx: WorkflowContext, count: int) -> list[str]:
            children = [
                ctx.call_child_workflow(child, input=str(i), instance_id=f"{ctx.instance_id}-{i}")
                for i in range(count)
            ]
            return [await one for one in children]

        @self.registry.workflow
        async def waits(ctx: WorkflowContext) -> Any:
            return await ctx.wait_for_external_event("go")

    def member(self) -> Any:
        return member(
            app_id="app",
            namespace="default",
            node=self.name,
            registry=self.registry,
            address=self.proxy.address,
            actor_types=("Counter",),
        )

    async def run(self, placement: PlacementClient) -> None:
        self.runtime = Runtime(
            app_id="app",
            namespace="default",
            registry=self.registry,
            actors=[ActorSpec(Counter, reentrant=True)],
            store=self.store,
            partitions=PARTITIONS,
            clock=self.clock,
            placement=placement,
        )
        codec = Codec()
        register_workflow(codec)

        def address(node: str) -> str | None:
            table = placement.table
            found = table.members.get(node) if table is not None else None
            return found.address if found is not None else None

        self.peers = PeerLinks(self.name, self.clock, self.runtime.router, address, codec, security=SECURITY)
        self.peers.attach(self.server)
        self.runtime.router.peers = self.peers
        placement.on_table(lambda _, __: self.peers.table_changed())
        await self.runtime.start()

    def owns(self, actor_type: str, actor_id: str) -> bool:
        placement = self.runtime.placement
        assert placement.table is not None
        return placement.table.owner(actor_type, partition_of(actor_id, PARTITIONS)) == self.name

    async def stop(self) -> None:
        await self.runtime.stop(drain=1)
        self.peers.close()
        await self.server.stop()


class Two:
    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.store = MemoryStore(partitions=PARTITIONS, shared=True)
        self.one = TwoNode("one", self.store, self.ran)
        self.two = TwoNode("two", self.store, self.ran)

    def id_of(self, node: TwoNode, actor_type: str, prefix: str = "id") -> str:
        """An id whose actor that node owns."""
        return next(f"{prefix}-{i}" for i in range(1000) if node.owns(actor_type, f"{prefix}-{i}"))

    @property
    def workflow_type(self) -> str:
        return self.one.runtime.engine.name


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    both = Two()
    for node in (both.one, both.two):
        await node.server.start()
        node.proxy = await CuttingProxy(node.server.address).__aenter__()
    placement = await EmbeddedPlacement.start(
        both.store.lease("placement"),
        both.one.member(),
        both.one.clock,
        PARTITIONS,
        exclusive=False,
    )
    await both.one.run(placement.client)
    second = await placement.join(both.two.member(), both.two.clock)
    await both.two.run(second)
    await eventually(lambda: both.one.owns("Counter", both.id_of(both.one, "Counter")))
    await eventually(
        lambda: len(both.one.runtime.host.owned) == len(both.two.runtime.host.owned) == PARTITIONS
    )
    try:
        yield both
    finally:
        await both.two.stop()
        await both.one.stop()
        await placement.stop()
        for node in (both.one, both.two):
            await node.proxy.__aexit__()


async def test_an_instance_of_the_other_node_is_started_and_awaited(two: Two) -> None:
    away = two.id_of(two.two, two.workflow_type)
    client = two.one.runtime.client
    assert await client.schedule_new_workflow("fan_out", input=40, instance_id=away) == away
    state = await client.wait_for_workflow_completion(away, timeout=60)
    assert state.runtime_status is RuntimeStatus.COMPLETED
    assert state.output == [f"ITEM {i}" for i in range(40)]
    assert state == await two.two.runtime.client.get_workflow_state(away)
    # Half of the activities, more or less, ran on each node; none twice.
    assert sorted(text for _, text in two.ran) == sorted(f"item {i}" for i in range(40))
    assert {name for name, _ in two.ran} == {"one", "two"}


async def test_many_instances_from_both_sides(two: Two) -> None:
    async def one(node: TwoNode, number: int) -> None:
        client = node.runtime.client
        await client.schedule_new_workflow("parent", input=3, instance_id=f"many-{node.name}-{number}")
        state = await client.wait_for_workflow_completion(f"many-{node.name}-{number}", timeout=60)
        assert state.output == ["child of 0", "child of 1", "child of 2"]

    await asyncio.gather(*(one(node, number) for node in (two.one, two.two) for number in range(50)))
    links = {**two.one.peers.describe(), **two.two.peers.describe()}
    assert {link["unanswered"] for link in links.values()} == {0}


async def test_links_that_are_cut_lose_nothing(two: Two) -> None:
    """Whatever was on its way is sent again, and takes effect once."""
    done: list[str] = []

    async def one(node: TwoNode, number: int) -> None:
        client = node.runtime.client
        instance = f"cut-{node.name}-{number}"
        await client.schedule_new_workflow("fan_out", input=10, instance_id=instance)
        state = await client.wait_for_workflow_completion(instance, timeout=60)
        assert state.output == [f"ITEM {i}" for i in range(10)]
        events = await client.history(instance)
        assert sum(type(event).__name__ == "TaskCompleted" for _, event in events.items) == 10
        done.append(instance)

    proxies = (two.one.proxy, two.two.proxy)

    def passed() -> int:
        return sum(sum(proxy.passed.values()) for proxy in proxies)

    def reached(count: int) -> bool:
        return passed() >= count

    async def cut() -> None:
        for _ in range(15):
            await eventually(partial(reached, passed() + 30_000))
            for proxy in proxies:
                proxy.cut()

    cutting = asyncio.create_task(cut())
    try:
        await asyncio.gather(*(one(node, number) for node in (two.one, two.two) for number in range(100)))
    finally:
        cutting.cancel()
    assert sum(proxy.connections for proxy in proxies) > 5


async def test_a_failure_crosses_with_its_details(two: Two) -> None:
    away = two.id_of(two.two, two.workflow_type, "refused")
    client = two.one.runtime.client
    await client.schedule_new_workflow("refused", instance_id=away)
    state = await client.wait_for_workflow_completion(away, timeout=60)
    assert state.runtime_status is RuntimeStatus.FAILED
    assert state.failure_details is not None
    assert "not this" in state.failure_details.message


async def test_steering_and_errors_cross(two: Two) -> None:
    away = two.id_of(two.two, two.workflow_type, "steered")
    client = two.one.runtime.client
    await client.schedule_new_workflow("waits", instance_id=away)
    with pytest.raises(AlreadyExists):
        await client.schedule_new_workflow("waits", instance_id=away)
    with pytest.raises(InvalidState, match="can be purged"):
        await client.purge_workflow(away)
    await client.pause_workflow(away, reason="lunch")
    state = await client.get_workflow_state(away)
    assert state is not None
    assert (state.runtime_status, state.reason) == (RuntimeStatus.SUSPENDED, "lunch")
    await client.resume_workflow(away)
    await client.raise_workflow_event(away, "go", data={"x": [1, "ü"]})
    state = await client.wait_for_workflow_completion(away, timeout=60)
    assert state.output == {"x": [1, "ü"]}
    await client.purge_workflow(away)
    with pytest.raises(InstanceNotFound):
        await client.terminate_workflow(away)


async def test_calls_of_user_actors(two: Two) -> None:
    here, away = two.id_of(two.one, "Counter"), two.id_of(two.two, "Counter")
    counter = ActorProxy.of(two.one.runtime.caller, Counter, away)
    values = await asyncio.gather(*(counter.increment(1) for _ in range(100)))
    assert sorted(values) == list(range(1, 101))
    # From the other node back to this one, within a turn there.
    assert await counter.relay(here) == 1
    with pytest.raises(ActorMethodFailed) as caught:
        await counter.fail()
    assert (caught.value.error_type, caught.value.error_message) == ("LookupError", "nothing there")
    with pytest.raises(NotFound, match="no method"):
        await two.one.runtime.caller.call_actor(ActorId("Counter", away), "unknown", None)


async def test_a_call_comes_back_over_the_link(two: Two) -> None:
    here, away = two.id_of(two.one, "Counter", "circle"), two.id_of(two.two, "Counter", "circle")
    for node in (two.one, two.two):
        counter = ActorProxy.of(node.runtime.caller, Counter, here)
        assert await counter.circle(away) % 111 == 0
    assert await ActorProxy.of(two.two.runtime.caller, Counter, here).increment(0) == 222


async def test_calls_with_keys_are_executed_once_however_often_links_are_cut(two: Two) -> None:
    away = two.id_of(two.two, "Counter", "keyed")
    proxies = (two.one.proxy, two.two.proxy)
    answered: set[int] = set()

    async def count(number: int) -> None:
        key = f"k{number}"
        counter = ActorProxy.of(two.one.runtime.caller, Counter, away, idempotency_key=key)
        answered.add(await counter.increment(1))

    def reached(number: int) -> bool:
        return len(answered) >= number

    async def cut() -> None:
        while True:
            await eventually(partial(reached, len(answered) + 20))
            for proxy in proxies:
                proxy.cut()

    cutting = asyncio.create_task(cut())
    try:
        for first in range(0, 400, 40):
            await asyncio.gather(*(count(number) for number in range(first, first + 40)))
    finally:
        cutting.cancel()
    # Each has an answer of its own: none was executed twice, and none is missing.
    assert answered == set(range(1, 401))
    assert sum(proxy.connections for proxy in proxies) > 3
