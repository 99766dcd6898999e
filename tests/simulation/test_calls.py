"""Calls of actors over nodes: how long they wait, and for whom they must not."""

from __future__ import annotations

import pytest

from perdure.actors.calls import DEPTH_LIMIT
from perdure.errors import ActorMethodFailed, DeadlineExceeded, PerdureError
from tests.simulation.actors import counter
from tests.simulation.directed import counters_at, play, until
from tests.simulation.world import World


def test_a_circle_of_calls_is_refused_at_once_and_shown() -> None:
    async def body(world: World) -> None:
        first, second = world.living()
        a, b = counters_at(first)[0], counters_at(second)[0]
        began = world.loop.now
        with pytest.raises(ActorMethodFailed) as caught:
            await first.call(counter(a), "relay", {"token": "x", "through": [b, a]})
        assert world.loop.now - began < 0.5
        assert f"Counter||{a} → Counter||{b} → Counter||{a}" in str(caught.value)
        for node, id in ((second, a), (first, b)):
            assert await node.call(counter(id), "read") == []

    play(body)


def test_calls_inside_of_calls_have_a_limit() -> None:
    async def body(world: World) -> None:
        node = world.living()[0]
        ids = [f"deep{n}" for n in range(DEPTH_LIMIT)]
        assert await node.call(counter("top"), "relay", {"token": "x", "through": ids[:-1]}) == 1
        with pytest.raises(ActorMethodFailed, match=f"{DEPTH_LIMIT} deep, from Counter..top to"):
            await node.call(counter("top"), "relay", {"token": "x", "through": ids})

    play(body)


def test_a_call_that_nobody_waits_for_is_not_executed() -> None:
    async def body(world: World) -> None:
        first, second = world.living()
        id = counters_at(first)[0]
        slow = world.spawn(second.call(counter(id), "add", {"token": "slow", "seconds": 2.0}))
        await world.sleep(0.1)
        late = [
            world.spawn(
                node.call(counter(id), "add", {"token": f"late-{node.id}", "seconds": 0.0}, timeout=0.5)
            )
            for node in (first, second)
        ]
        for call in late:
            with pytest.raises(DeadlineExceeded):
                await call
        patient = second.call(counter(id), "add", {"token": "patient", "seconds": 0.0}, timeout=5.0)
        assert await patient == 2
        assert await slow == 1
        assert await first.call(counter(id), "read") == ["slow", "patient"]

    play(body)


def test_a_call_from_a_turn_has_no_more_time_than_the_turn() -> None:
    async def body(world: World) -> None:
        first, second = world.living()
        a, b = counters_at(first)[0], counters_at(second)[0]
        slow = world.spawn(first.call(counter(b), "add", {"token": "slow", "seconds": 3.0}))
        await world.sleep(0.1)
        began = world.loop.now
        with pytest.raises(PerdureError):
            await second.call(counter(a), "relay", {"token": "relayed", "through": [b]}, timeout=0.5)
        # Its turn is over, too, although the inner call would have waited for longer by itself.
        await until(world, lambda: not first.runtime.host.busy)
        assert world.loop.now - began < 1.0
        await slow
        await world.sleep(1.0)
        assert await first.call(counter(b), "read") == ["slow"]

    play(body)


def test_a_message_that_waited_for_the_store_beyond_its_time_is_not_handled() -> None:
    async def body(world: World) -> None:
        first, second = world.living()
        id = counters_at(first)[0]
        world.server.crash(10.0)
        with pytest.raises(DeadlineExceeded):
            await second.call(counter(id), "add", {"token": "late", "seconds": 0.0}, timeout=2.0)
        await world.sleep(15.0)
        assert await second.call(counter(id), "read") == []

    play(body)
