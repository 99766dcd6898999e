"""What has something to do goes on: also when it was not told, or was interrupted on its way there."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.actors.activation import Activation
from perdure.actors.host import SWEEP_TICKS, TICK
from perdure.actors.messages import Message
from perdure.errors import LoopBlocked
from perdure.workflow import rebuild as rebuilding
from perdure.workflow.requests import Raise, Start
from perdure.workflow.state import RuntimeStatus
from perdure.workflow.work import Work
from tests.simulation.directed import play, until
from tests.simulation.node import SimNode
from tests.simulation.world import World

OPS = b'{"ops": [["act", 1], ["event", "go"]], "out": []}'


async def idle(world: World) -> SimNode:
    """An instance that waits for an event, and its node."""
    (node,) = world.living()
    await node.ask(lambda c: c.start("program", OPS, "i"))
    host, actor = node.runtime.host, node.runtime.engine.actor("i")
    await until(world, lambda: (record := world.server.memory.actors.get(actor)) and not record.recover)
    await until(world, lambda: host.activations[actor].idle)
    return node


async def finished(node: SimNode) -> Any:
    return await node.ask(lambda c: c.wait_for_workflow_completion("i"))


EVENT = Raise("go", b'{"t": "i:go:1", "v": "value of go"}')


def receive(node: SimNode) -> None:
    """Has the event be received into the inbox, as one whose earlier try is unknown."""
    message = Message(node.runtime.engine.actor("i"), "raise", EVENT, lambda _: None)
    message.redelivered = True
    node.process.call_soon(node.runtime.host.deliver, message)


def test_an_event_that_was_received_and_of_which_nobody_told_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(world: World) -> None:
        node = await idle(world)
        actor = node.runtime.engine.actor("i")
        wake = Activation.wake
        monkeypatch.setattr(Activation, "wake", lambda self: None)
        receive(node)
        await until(world, lambda: "inbox-000000" in world.server.memory.actors[actor].values)
        await world.sleep(0.1)
        monkeypatch.setattr(Activation, "wake", wake)
        assert world.server.memory.actors[actor].recover
        assert node.runtime.host.activations[actor].idle
        began = world.loop.now
        assert (await finished(node)).runtime_status is RuntimeStatus.COMPLETED
        assert world.loop.now - began <= SWEEP_TICKS * TICK + 1

    play(body, nodes=1)


def test_an_event_that_was_received_is_taken_at_once() -> None:
    async def body(world: World) -> None:
        node = await idle(world)
        began = world.loop.now
        receive(node)
        assert (await finished(node)).runtime_status is RuntimeStatus.COMPLETED
        assert world.loop.now - began < 0.5

    play(body, nodes=1)


def test_a_replay_that_is_interrupted_too_late_does_not_leave_its_instance_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watchdog's exception arrives when the code has just ended: in the engine."""

    async def body(world: World) -> None:
        node = await idle(world)
        host, actor = node.runtime.host, node.runtime.engine.actor("i")
        assert host.evict(host.activations[actor])
        rebuild = rebuilding.rebuild

        async def interrupted(*args: Any, **options: Any) -> Any:
            monkeypatch.setattr(rebuilding, "rebuild", rebuild)
            await rebuild(*args, **options)
            raise LoopBlocked

        monkeypatch.setattr(rebuilding, "rebuild", interrupted)
        await node.ask(lambda c: c.raise_event("i", EVENT.name, EVENT.data))
        row = world.server.memory.actors[actor].row
        await until(world, lambda: (row := world.server.memory.actors[actor].row) and row.status == "stalled")
        assert row is not None
        await node.ask(lambda c: c.resume_workflow("i"))
        assert (await finished(node)).runtime_status is RuntimeStatus.COMPLETED

    play(body, nodes=1)


def test_a_turn_that_is_interrupted_too_late_loses_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(world: World) -> None:
        node = await idle(world)
        close = Work.close

        def interrupted(self: Work) -> None:
            monkeypatch.setattr(Work, "close", close)
            raise LoopBlocked

        monkeypatch.setattr(Work, "close", interrupted)
        await node.ask(lambda c: c.raise_event("i", EVENT.name, EVENT.data))
        state = await node.ask(lambda c: c.get_workflow_state("i"))
        assert state.runtime_status is RuntimeStatus.STALLED
        await node.ask(lambda c: c.resume_workflow("i"))
        assert (await finished(node)).runtime_status is RuntimeStatus.COMPLETED

    play(body, nodes=1)


def test_an_event_wakes_an_instance_with_a_long_history_after_a_crash() -> None:
    """It comes before all of the history has been read: nobody knows yet what the instance owes."""

    async def body(world: World) -> None:
        (node,) = world.living()
        world.ledger.longest = 0.0
        numbers = ",".join(["1"] * 501)
        ops = f'{{"ops": [["all", {numbers}], ["event", "go"]], "out": []}}'.encode()
        await node.ask(lambda c: c.start("program", ops, "i"))
        actor = node.runtime.engine.actor("i")
        values = world.server.memory.actors
        await until(world, lambda: actor in values and "history-001002" in values[actor].values)
        await until(world, lambda: not values[actor].recover)
        world.kill(node)
        world.add_node("n0")
        await until(world, lambda: world.living())
        (node,) = world.living()
        await node.ask(lambda c: c.raise_event("i", EVENT.name, EVENT.data))
        began = world.loop.now
        assert (await finished(node)).runtime_status is RuntimeStatus.COMPLETED
        assert world.loop.now - began < 1.0

    play(body, nodes=1)


def test_an_event_that_comes_again_with_what_begins_the_workflow_anew_is_not_lost() -> None:
    """Both are there when the turn begins: the event is received, the timer's turn continues as new."""

    async def body(world: World) -> None:
        (node,) = world.living()
        ops = b'{"ops": [["timer", 500], ["again"], ["event", "go"]], "out": []}'
        await node.ask(lambda c: c.start("program", ops, "i"))
        actor = node.runtime.engine.actor("i")
        deliver = node.runtime.host.deliver

        def with_event(message: Message) -> None:
            deliver(message)
            if message.method == "timer":
                again = Message(actor, "raise", EVENT, lambda _: None)
                again.redelivered = True
                deliver(again)

        node.runtime.host.deliver = with_event  # type: ignore[method-assign]
        assert (await finished(node)).runtime_status is RuntimeStatus.COMPLETED

    play(body, nodes=1)


def test_an_id_is_used_again_in_the_turn_that_hears_of_the_last_thing_owed() -> None:
    """What the former instance had left behind has just ended: it is neither carried over nor deleted."""

    async def body(world: World) -> None:
        (node,) = world.living()
        world.ledger.longest = 2.0
        await node.ask(lambda c: c.start("program", b'{"ops": [["leave", 1]], "out": []}', "i"))
        assert (await finished(node)).runtime_status is RuntimeStatus.COMPLETED
        actor = node.runtime.engine.actor("i")
        record = world.server.memory.actors[actor]
        deliver = node.runtime.host.deliver
        start = Start("program", "another", b'{"ops": [], "out": []}')

        def after_start(message: Message) -> None:
            if message.method == "done":
                deliver(Message(actor, "start", start, lambda _: None))
            deliver(message)

        node.runtime.host.deliver = after_start  # type: ignore[method-assign]
        if "outbox-000000" in record.values:
            await until(world, lambda: b"another" in world.server.memory.actors[actor].values["metadata"])
            assert "outbox-000000" not in world.server.memory.actors[actor].values
            assert not world.server.memory.actors[actor].recover

    for seed in range(5):
        play(body, nodes=1, seed=seed)
