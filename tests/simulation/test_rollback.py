"""A store that loses what it acknowledged: nothing from before is believed, and everything goes on."""

from __future__ import annotations

from perdure.errors import Moved
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import TypePartition
from tests.simulation.actors import counter
from tests.simulation.directed import counters_at, play, until
from tests.simulation.world import World


def test_nothing_in_memory_survives_it() -> None:
    async def body(world: World) -> None:
        first, second = world.living()
        id = counters_at(first)[0]
        assert await second.call(counter(id), "add", {"token": "kept", "seconds": 0.0}) == 1
        state = world.server.memory.snapshot()
        assert await second.call(counter(id), "add", {"token": "lost", "seconds": 0.0}) == 2
        fences = {
            key: owned.fence for node in (first, second) for key, owned in node.runtime.host.owned.items()
        }
        world.server.roll_back(state, 0.1)
        world.checker.roll_back()
        # Asked before the node knows, and answered after that.
        asked = world.spawn(second.call(counter(id), "add", {"token": "next", "seconds": 0.0}))
        await until(world, lambda: all(not node.runtime.host.owned for node in (first, second)))
        await until(
            world,
            lambda: len(first.runtime.host.owned) + len(second.runtime.host.owned) == len(fences),
            within=10.0,
        )
        for node in (first, second):
            assert all(owned.fence > fences[key] for key, owned in node.runtime.host.owned.items())
        assert await asked == 2
        assert await first.call(counter(id), "read") == ["kept", "next"]

    play(body)


def test_a_turn_that_was_under_way_is_void() -> None:
    """It began on what is lost. It is done again, on what is there."""

    async def body(world: World) -> None:
        (first,) = world.living()
        state = world.server.memory.snapshot()
        assert await first.call(counter("c"), "add", {"token": "lost", "seconds": 0.0}) == 1
        adding = world.spawn(first.call(counter("c"), "add", {"token": "again", "seconds": 2.0}))
        await world.sleep(0.5)
        world.server.roll_back(state, 0.0)
        world.checker.roll_back()
        assert await adding == 1
        assert await first.call(counter("c"), "read") == ["again"]

    play(body, nodes=1)


def test_the_question_for_new_fences_may_be_lost() -> None:
    async def body(world: World) -> None:
        (first,) = world.living()
        key = TypePartition(counter("c").type, partition_of("c", world.partitions))
        before = first.runtime.host.owned[key].fence
        renew, asked = first.placement.renew, 0

        def lossy(held: object) -> None:
            nonlocal asked
            asked += 1
            if asked > 3:
                renew(held)  # type: ignore[arg-type]

        first.placement.renew = lossy  # type: ignore[method-assign]
        world.server.roll_back(world.server.memory.snapshot(), 0.0)
        world.checker.roll_back()
        await until(world, lambda: key not in first.runtime.host.owned)
        assert isinstance(first.runtime.host._moved(key), Moved)
        await until(world, lambda: key in first.runtime.host.owned, within=20.0)
        assert asked > 3
        assert first.runtime.host.owned[key].fence > before

    play(body, nodes=1)
