"""Activities and children over nodes: with whom they are, what is sent again, and what waits for whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.actors.codec import Codec
from perdure.placement.hashing import partition_of
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.context import WorkflowContext
from perdure.workflow.dispatch import LOOK
from perdure.workflow.registry import Registry
from perdure.workflow.state import RuntimeStatus, WorkflowState
from perdure.workflow.whereabouts import (
    ActivitiesOf,
    KnownActivities,
    Request,
    UnknownActivities,
    WhichUnknown,
)
from perdure.workflow.wire import register_workflow
from tests.simulation.directed import play, until
from tests.simulation.ledger import LEDGER
from tests.simulation.loop import PROCESS
from tests.simulation.node import GRACE, SimNode
from tests.simulation.world import World


class Runs:
    """An activity that runs until a test lets it end, and where it was begun."""

    def __init__(self) -> None:
        self.at: list[str] = []
        self.open = False

    async def __call__(self, ctx: ActivityContext) -> str:
        process = PROCESS.get()
        assert process is not None
        self.at.append(process.name)
        with LEDGER.get().noted(ctx, process):
            while not self.open:
                await process.sleep(0.05)
        return process.name


def app(runs: Runs) -> Registry:
    registry = Registry()

    @registry.activity(name="long")
    async def long(ctx: ActivityContext) -> str:
        return await runs(ctx)

    @registry.activity(name="short")
    async def short(ctx: ActivityContext) -> None:
        with LEDGER.get().noted(ctx, PROCESS.get()):
            return

    @registry.workflow(name="one")
    async def one(ctx: WorkflowContext) -> Any:
        # The first runs beside its workflow, the second on any node.
        first = ctx.call_activity(short)
        result = await ctx.call_activity(long)
        await first
        return result

    @registry.workflow(name="alone")
    async def alone(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity(long)

    return registry


def owner(world: World, id: str) -> SimNode | None:
    for node in world.living():
        if node.runtime.engine.actor(id) in node.runtime.host.activations:
            return node
    return None


async def result(node: SimNode, id: str) -> WorkflowState:
    state: WorkflowState = await node.ask(lambda c: c.wait_for_workflow_completion(id))
    return state


async def start_apart(world: World, runs: Runs, nodes: list[str]) -> tuple[str, SimNode, SimNode]:
    """Starts instances until one has its activity on another node than its own: its id, and the two nodes."""
    for name in nodes:
        world.registries[name] = app(runs)
        world.add_node(name)
    await until(world, lambda: len(world.living()) == len(nodes))
    for number in range(50):
        id = f"one-{number}"
        client = world.living()[0]
        await client.ask(lambda c, id=id: c.schedule_new_workflow("one", instance_id=id))
        await until(world, lambda number=number: len(runs.at) == number + 1)
        mine = owner(world, id)
        assert mine is not None
        if runs.at[-1] != mine.id:
            runs.at = runs.at[-1:]
            return id, mine, next(node for node in world.living() if node.id == runs.at[0])
    raise AssertionError("all activities are where their instances are")


def test_what_runs_elsewhere_does_not_run_again_when_its_instance_moves() -> None:
    runs = Runs()

    async def body(world: World) -> None:
        id, mine, runner = await start_apart(world, runs, ["n0", "n1", "n2"])
        world.kill(mine)
        await until(world, lambda: owner(world, id))
        await world.sleep(2 * LOOK)
        assert runs.at == [runner.id]
        runs.open = True
        state = await result(runner, id)
        assert state.serialized_output == f'"{runner.id}"'

    play(body, nodes=0)


def test_what_is_alone_runs_beside_its_workflow() -> None:
    runs = Runs()
    runs.open = True

    async def body(world: World) -> None:
        for name in ("n0", "n1", "n2"):
            world.registries[name] = app(runs)
            world.add_node(name)
        await until(world, lambda: len(world.living()) == 3)
        client = world.living()[0]
        for number in range(20):
            id = f"alone-{number}"
            await client.ask(lambda c, id=id: c.schedule_new_workflow("alone", instance_id=id))
            await result(client, id)
            mine = owner(world, id)
            assert mine is not None
            assert runs.at[-1] == mine.id
        assert len(set(runs.at)) == 3

    play(body, nodes=0)


def test_what_a_killed_node_ran_runs_on_another() -> None:
    runs = Runs()

    async def body(world: World) -> None:
        id, mine, runner = await start_apart(world, runs, ["n0", "n1", "n2"])
        world.kill(runner)
        await until(world, lambda: len(runs.at) == 2)
        assert runs.at[1] != runner.id
        runs.open = True
        assert (await result(mine, id)).runtime_status is RuntimeStatus.COMPLETED

    play(body, nodes=0)


def test_a_node_that_has_forgotten_a_request_gets_it_again() -> None:
    runs = Runs()

    async def body(world: World) -> None:
        id, mine, runner = await start_apart(world, runs, ["n0", "n1"])
        runner.runtime.engine.activities._known.clear()
        began = world.loop.now
        await until(world, lambda: len(runs.at) == 2)
        assert world.loop.now - began <= 2 * LOOK + 1
        assert runs.at == [runner.id] * 2
        runs.open = True
        assert (await result(mine, id)).runtime_status is RuntimeStatus.COMPLETED

    play(body, nodes=0)


def test_a_node_that_stops_takes_nothing_more_and_nobody_waits_for_its_end() -> None:
    runs = Runs()

    async def body(world: World) -> None:
        _, mine, runner = await start_apart(world, runs, ["n0", "n1"])
        runner.runtime.engine.activities.stop_starting()
        for number in range(20):
            await mine.ask(lambda c, n=number: c.schedule_new_workflow("one", instance_id=f"next-{n}"))
        began = world.loop.now
        # Those of the stopping node's own instances have the same way to go.
        await until(world, lambda: len(runs.at) == 21)
        assert world.loop.now - began < 1.0
        assert set(runs.at[1:]) == {mine.id}
        runs.open = True
        for number in range(20):
            await result(mine, f"next-{number}")

    play(body, nodes=0)


def test_a_node_that_cannot_be_reached_is_not_waited_for_for_ever() -> None:
    runs = Runs()

    async def body(world: World) -> None:
        _, mine, runner = await start_apart(world, runs, ["n0", "n1"])
        world.network.cuts = {(mine.name, runner.name), (runner.name, mine.name)}
        owned = {key.partition for key in mine.runtime.host.owned if key.type == mine.runtime.engine.name}
        ids = [f"cut-{n}" for n in range(60) if partition_of(f"cut-{n}", world.partitions) in owned]
        for id in ids:
            await mine.ask(lambda c, id=id: c.schedule_new_workflow("one", instance_id=id))
        await until(world, lambda: len(runs.at) == 1 + len(ids), within=30.0)
        assert set(runs.at[1:]) == {mine.id}

    play(body, nodes=0)


# --- apps ----------------------------------------------------------------------------------------------------------------


def calling() -> Registry:
    registry = Registry()

    @registry.workflow(name="activity")
    async def activity(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity("remote", input=2, app_id="other")

    @registry.workflow(name="child")
    async def child(ctx: WorkflowContext) -> Any:
        ops = {"ops": [["timer", 60_000]], "out": []}
        return await ctx.call_child_workflow("program", input=ops, instance_id="away", app_id="other")

    @registry.workflow(name="nobody")
    async def nobody(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity("nowhere", app_id="other")

    @registry.workflow(name="no-child")
    async def no_child(ctx: WorkflowContext) -> Any:
        return await ctx.call_child_workflow("nowhere", app_id="other")

    return registry


async def started(world: World, workflow: str) -> SimNode:
    (node,) = world.living()
    await node.ask(lambda c: c.schedule_new_workflow(workflow, instance_id="i"))
    return node


async def reason(world: World, node: SimNode, wanted: str) -> None:
    """Until the status of the instance says so."""
    for _ in range(2000):
        state = await node.ask(lambda c: c.get_workflow_state("i"))
        if state is not None and state.reason == wanted:
            return
        await world.sleep(0.01)
    raise AssertionError(f"the status never said {wanted!r} but {state.reason!r}")


@pytest.mark.parametrize("workflow", ["activity", "child"])
def test_an_app_that_is_not_there_is_waited_for_and_the_status_says_so(workflow: str) -> None:
    async def body(world: World) -> None:
        world.registries["n0"] = calling()
        world.add_node("n0")
        await until(world, lambda: world.living())
        node = await started(world, workflow)
        await reason(world, node, "waiting for app 'other'")
        await world.sleep(2 * GRACE)
        state = await node.ask(lambda c: c.get_workflow_state("i"))
        assert state.runtime_status is RuntimeStatus.RUNNING
        commits = world.checker.commits
        await world.sleep(20.0)
        assert world.checker.commits == commits
        # It is still so when another node looks.
        world.kill(node)
        world.add_node("n0")
        await until(world, lambda: world.living())
        (node,) = world.living()
        await world.sleep(5.0)
        state = await node.ask(lambda c: c.get_workflow_state("i"))
        assert state.reason == "waiting for app 'other'"
        world.add_node("o0")
        if workflow == "activity":
            assert (await result(node, "i")).serialized_output == "6"
        else:
            await reason(world, node, "")
            await result(node, "i")
        state = await node.ask(lambda c: c.get_workflow_state("i"))
        assert state.reason == ""

    play(body, nodes=0)


def test_an_activity_that_no_node_of_its_app_has_fails_after_a_while() -> None:
    async def body(world: World) -> None:
        world.registries["n0"] = calling()
        world.add_node("n0")
        world.add_node("o0")
        await until(world, lambda: world.living() and world.living("other"))
        node = await started(world, "nobody")
        await reason(world, node, "waiting for activity 'nowhere' of app 'other'")
        state = await result(node, "i")
        assert state.failure_details is not None
        assert state.failure_details.message.endswith(
            "activity 'nowhere' is not registered in app 'other'; registered are: broken, double, flaky, remote"
        )

    play(body, nodes=0)


def test_a_child_that_its_app_does_not_have_fails_there() -> None:
    async def body(world: World) -> None:
        world.registries["n0"] = calling()
        world.add_node("n0")
        world.add_node("o0")
        await until(world, lambda: world.living() and world.living("other"))
        node = await started(world, "no-child")
        state = await result(node, "i")
        assert state.failure_details is not None
        assert "registered are: program" in state.failure_details.message
        (other,) = world.living("other")
        assert other.runtime.engine.actor("i:1:0000") in world.server.memory.actors

    play(body, nodes=0)


@pytest.mark.parametrize("purge", [False, True])
def test_children_in_another_app_are_terminated_and_purged_with_their_parent(purge: bool) -> None:
    async def body(world: World) -> None:
        world.registries["n0"] = calling()
        world.add_node("n0")
        world.add_node("o0")
        await until(world, lambda: world.living() and world.living("other"))
        node = await started(world, "child")
        (other,) = world.living("other")
        away = other.runtime.engine.actor("away")
        await until(world, lambda: away in world.server.memory.actors)
        # Its app is gone for a while: the message waits for it.
        world.kill(other)
        world.checker.terminated.add("i")
        await node.ask(lambda c: c.terminate_workflow("i"))
        if purge:
            await node.ask(lambda c: c.purge_workflow("i"))
        await world.sleep(5.0)
        world.add_node("o0")
        await until(
            world,
            lambda: (row := world.server.memory.actors[away].row) is None or row.status == "terminated",
        )
        if purge:
            await until(world, lambda: world.server.memory.actors[away].row is None)
        await until(world, lambda: not world.server.memory.actors[node.runtime.engine.actor("i")].recover)

    play(body, nodes=0)


# --- names ---------------------------------------------------------------------------------------------------------------


def test_a_workflow_that_only_other_nodes_have_waits_for_one_that_has_it() -> None:
    """As in a rolling deployment that brings a new workflow."""

    async def body(world: World) -> None:
        runs = Runs()
        runs.open = True
        world.registries["n0"] = Registry()
        world.registries["n1"] = app(runs)
        world.add_node("n0")
        world.add_node("n1")
        await until(world, lambda: len(world.living()) == 2)
        old = next(node for node in world.living() if node.name == "n0")
        new = next(node for node in world.living() if node.name == "n1")
        owned = {key.partition for key in old.runtime.host.owned if key.type == old.runtime.engine.name}
        ids = [f"i{n}" for n in range(40) if partition_of(f"i{n}", world.partitions) in owned][:2]
        for id in ids:
            await new.ask(lambda c, id=id: c.schedule_new_workflow("one", instance_id=id))
        for id in ids:
            state = await until_stalled(world, new, id)
            assert state.reason.endswith("; other nodes of the app have it")
        # The old one goes: another node has them then, and can run them.
        old.stop()
        for id in ids:
            assert (await result(new, id)).runtime_status is RuntimeStatus.COMPLETED

    play(body, nodes=0)


def test_a_workflow_that_nobody_has_any_more_fails() -> None:
    async def body(world: World) -> None:
        world.registries["n0"] = Registry()
        world.registries["n1"] = app(Runs())
        world.add_node("n0")
        world.add_node("n1")
        await until(world, lambda: len(world.living()) == 2)
        old = next(node for node in world.living() if node.name == "n0")
        new = next(node for node in world.living() if node.name == "n1")
        owned = {key.partition for key in old.runtime.host.owned if key.type == old.runtime.engine.name}
        id = next(f"i{n}" for n in range(40) if partition_of(f"i{n}", world.partitions) in owned)
        await new.ask(lambda c: c.schedule_new_workflow("one", instance_id=id))
        await until_stalled(world, new, id)
        world.kill(new)
        state = await result(old, id)
        assert state.runtime_status is RuntimeStatus.FAILED
        assert state.failure_details is not None
        assert state.failure_details.type == "WorkflowNotRegistered"

    play(body, nodes=0)


async def until_stalled(world: World, node: SimNode, id: str) -> WorkflowState:
    for _ in range(1000):
        state: WorkflowState | None = await node.ask(lambda c: c.get_workflow_state(id))
        if state is not None and state.runtime_status is RuntimeStatus.STALLED:
            return state
        await world.sleep(0.01)
    raise AssertionError("it never stalled")


def test_structs_cross_links() -> None:
    """What is asked between nodes is what their links can carry."""
    codec = Codec()
    register_workflow(codec)
    request = Request("t", "i", "e", 1, b"nonce")
    for body in (
        ActivitiesOf("t", [1, 2]),
        KnownActivities([request]),
        WhichUnknown([request]),
        UnknownActivities([0]),
    ):
        encoded = codec.encode_body("dapr.internal.node", body)
        raw = msgspec.Raw(msgspec.msgpack.encode(encoded))
        assert codec.decode_body("dapr.internal.node", raw) == body
