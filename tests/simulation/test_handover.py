"""Partitions that change hands: without a barrier, and without anybody who serves what another serves already."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.actors import handover
from perdure.actors.handover import RELEASE, Group, Release, Released
from perdure.actors.messages import Message
from perdure.errors import DeadlineExceeded, Moved
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import Fence, Taken, TypePartition
from tests.simulation.actors import Counter, counter
from tests.simulation.directed import counters_at, play, until
from tests.simulation.node import SimNode
from tests.simulation.world import World

TYPE = Counter.actor_type


def partition(world: World, id: str) -> TypePartition:
    return TypePartition(TYPE, partition_of(id, world.partitions))


def owned(node: SimNode) -> set[TypePartition]:
    return {key for key in node.runtime.host.owned if key.type == TYPE}


class Watch:
    """What becomes of a world's partitions: who takes them, and in which state they are found."""

    def __init__(self, world: World) -> None:
        self.took: list[tuple[float, str, TypePartition, Any]] = []
        self.questions: list[tuple[float, str, Any]] = []
        taken, sending = world.checker.taken, world.checker.sending

        def note(process: Any, held: Any, fence: Any, result: Any) -> None:
            self.took.append((world.loop.now, process.name, held, result))
            taken(process, held, fence, result)

        def asks(process: Any, body: object) -> None:
            if isinstance(body, Release):
                self.questions.append((world.loop.now, process.name, body))
            sending(process, body)

        world.checker.taken = note  # type: ignore[method-assign]
        world.checker.sending = asks  # type: ignore[method-assign]


def test_a_node_joins_and_gets_its_share_at_once() -> None:
    async def body(world: World) -> None:
        watch = Watch(world)
        joined = world.add_node("new")
        await until(world, lambda: joined.runtime.host.owned)
        began = watch.questions[0][0]
        await until(world, lambda: len(owned(joined)) == 2 and joined.runtime.ownership.taking == 0)
        assert world.loop.now - began < 0.05
        assert all(isinstance(result, Taken) and result.released for _, _, _, result in watch.took)
        # One question for each of the former owners, whatever it is asked for.
        assert len(watch.questions) == 2
        assert not joined.runtime.ownership.handovers

    play(body, nodes=2)


def test_a_turn_comes_to_its_end_before_its_partition_moves() -> None:
    async def body(world: World) -> None:
        (first,) = world.living()
        watch = Watch(world)
        ids = counters_at(first)
        adds = [
            world.spawn(first.call(counter(id), "add", {"token": id, "seconds": 0.3 + number / 50}))
            for number, id in enumerate(ids)
        ]
        await world.sleep(0.1)
        joined = world.add_node("new")
        await until(world, lambda: len(owned(joined)) == 4)
        assert await asyncio.gather(*adds) == [1] * len(ids)
        for id in ids:
            assert await joined.call(counter(id), "read") == [id]
        assert all(isinstance(result, Taken) and result.released for _, _, _, result in watch.took)

    play(body, nodes=1)


def test_a_slow_turn_delays_only_its_own_partition() -> None:
    """It takes longer than a hand-over waits: it is cut short, and done anew by the new owner."""

    async def body(world: World) -> None:
        (first,) = world.living()
        ids = counters_at(first)
        adds = {id: world.spawn(first.call(counter(id), "add", {"token": id, "seconds": 3.0})) for id in ids}
        await world.sleep(0.1)
        watch = Watch(world)
        joined = world.add_node("new")
        await until(world, lambda: joined.runtime.ownership.handovers)
        began = world.loop.now
        # Workflow partitions have nothing under way.
        await until(world, lambda: len(joined.runtime.host.owned) == 4)
        assert world.loop.now - began < 0.1
        await until(world, lambda: len(owned(joined)) == 4)
        assert 0.9 < world.loop.now - began < 1.1
        slow = [result.released for _, _, held, result in watch.took if held.type == TYPE]
        assert slow == [False] * 4
        assert [await add for add in adds.values()] == [1] * len(ids)
        for id in ids:
            assert await joined.call(counter(id), "read") == [id]

    play(body, nodes=1)


def test_calls_wait_for_a_partition_on_its_way() -> None:
    """They are neither refused in a loop nor lost, and who does not want to wait for long does not have to."""

    async def body(world: World) -> None:
        (first,) = world.living()
        ids = counters_at(first)
        slow = [world.spawn(first.call(counter(id), "add", {"token": id, "seconds": 0.6})) for id in ids]
        await world.sleep(0.1)
        joined = world.add_node("new")
        await until(world, lambda: joined.runtime.ownership.handovers)
        mine = [id for id in ids if partition(world, id) in joined.runtime.host.coming]
        assert len(mine) == 4
        refused = _count_refusals(joined)
        calls = [world.spawn(node.call(counter(id), "read")) for node in (first, joined) for id in mine]
        late = world.spawn(joined.call(counter(mine[0]), "read", timeout=0.2))
        await world.sleep(0.1)
        assert not any(call.done() for call in calls)
        with pytest.raises(DeadlineExceeded):
            await late
        assert [await call for call in calls] == [[id] for _ in range(2) for id in mine]
        await asyncio.gather(*slow)
        assert not refused
        assert not joined.runtime.host.coming

    play(body, nodes=1)


def _count_refusals(node: SimNode) -> list[Message]:
    refused: list[Message] = []
    deliver = node.runtime.host.deliver

    def watched(message: Message) -> None:
        answer = message.answer

        def answered(value: Any) -> None:
            if isinstance(value, Moved):
                refused.append(message)
            answer(value)

        message.answer = answered
        deliver(message)

    node.runtime.host.deliver = watched  # type: ignore[method-assign]
    return refused


def test_who_cannot_be_asked_is_waited_out() -> None:
    """The former owner may answer reads from memory as long as it believes placement's last word."""

    async def body(world: World) -> None:
        (first,) = world.living()
        world.network.cuts = {("new", "n0"), ("n0", "new")}
        joined = world.add_node("new")
        await until(world, lambda: joined.runtime.ownership.taking)
        began = world.loop.now
        await until(world, lambda: len(owned(joined)) == 4)
        assert world.loop.now - began >= world.placement_options.word
        assert len(owned(first)) == 4

    play(body, nodes=1)


def test_a_late_question_takes_nothing() -> None:
    async def body(world: World) -> None:
        first, second = world.living()
        key = next(iter(owned(first)))
        fence = first.runtime.host.owned[key].fence

        async def ask(epoch: int) -> Released:
            held = {key: Fence(fence.term, epoch)}
            question = Release(handover.groups(held), 0.5)
            answer = await second.have(lambda: second.runtime.questions.ask(first.id, RELEASE, question))
            assert isinstance(answer, Released)
            return answer

        assert (await ask(fence.epoch)).groups == []
        assert (await ask(fence.epoch - 1)).groups == []
        assert key in first.runtime.host.owned
        # One from a table that this node has not seen yet is believed.
        newer = fence.epoch + 50
        assert (await ask(newer)).groups == [Group(key.type, fence.term, newer, [key.partition])]
        assert key not in first.runtime.host.owned
        # And should there be no such table, new fences are asked for: it is not without an owner for ever.
        await until(world, lambda: key in first.runtime.host.owned, within=100.0)
        assert first.runtime.host.owned[key].fence > fence

    play(body, nodes=2)


def test_a_fence_that_is_ahead_of_the_table_is_passed() -> None:
    """The table was rolled back, or the store holds a fence that no table names: a new one is asked for."""

    async def body(world: World) -> None:
        (first,) = world.living()
        id = counters_at(first)[0]
        key = partition(world, id)
        fence, released = world.server.memory.fences[key]
        ahead = Fence(fence.term, fence.epoch + 3)
        world.server.memory.fences[key] = ahead, released
        add = world.spawn(first.call(counter(id), "add", {"token": "a", "seconds": 0.0}))
        await until(world, lambda: key not in first.runtime.host.owned)
        await until(world, lambda: key in first.runtime.host.owned, within=10.0)
        assert first.runtime.host.owned[key].fence > ahead
        assert await add == 1

    world = play(body, nodes=1)
    assert world.checker.commits


def test_who_is_refused_waits_for_the_table_it_is_told_of() -> None:
    async def body(world: World) -> None:
        _, second = world.living()
        # The second hears nothing from placement: it goes by its old table.
        world.network.cuts = {("p1", "n1"), ("n1", "p1")}
        joined = world.add_node("new")
        await until(world, lambda: len(owned(joined)) >= 2)
        id = next(id for id in counters_at(joined))
        assert second.placement.table is not None
        assert second.placement.table.owner(*partition(world, id)) != joined.id
        call = world.spawn(second.call(counter(id), "read"))
        await world.sleep(0.5)
        assert not call.done()
        world.network.cuts = set()
        await until(world, lambda: call.done())
        assert await call == []

    play(body, nodes=2)
