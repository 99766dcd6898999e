"""A world without faults but those that a test makes itself: for one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from perdure.placement.hashing import partition_of
from tests.simulation.actors import counter
from tests.simulation.node import SimNode
from tests.simulation.run import quietly
from tests.simulation.world import World

#: Virtual seconds within which a test has to come to its end.
LONGEST = 600.0


def play(body: Callable[[World], Coroutine[Any, Any, None]], *, nodes: int = 2, seed: int = 1) -> World:
    """Runs a test in a world of its own, once its first nodes are ready."""
    world = World(seed)

    async def main() -> None:
        world.add_leader()
        for number in range(nodes):
            world.add_node(f"n{number}")
        await until(world, lambda: len(world.living()) == nodes)
        await body(world)

    try:
        with quietly():
            world.loop.run(main())
    finally:
        with quietly():
            world.close()
    return world


async def until(world: World, condition: Callable[[], Any], within: float = 60.0) -> Any:
    """The condition's value, as soon as it is true."""
    end = world.loop.now + within
    while not (value := condition()):
        assert world.loop.now < end, "it did not come true"
        await world.sleep(0.005)
    return value


def owner(world: World, actor_type: str, partition: int) -> SimNode | None:
    """The node that serves a partition now."""
    for node in world.living():
        if (actor_type, partition) in node.runtime.host.owned:
            return node
    return None


def counters_at(node: SimNode) -> list[str]:
    """Ids of counters that a node owns, one in each of its partitions."""
    found: dict[int, str] = {}
    host = node.runtime.host
    for number in range(200):
        partition = partition_of(f"c{number}", host.partitions)
        if (counter("").type, partition) in host.owned:
            found.setdefault(partition, f"c{number}")
    return list(found.values())
