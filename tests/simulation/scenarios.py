"""What is done to a world while its stories go on: faults, seeded, until it is healed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.network import base
from tests.simulation.node import SimNode
from tests.simulation.world import World

Fault = Callable[[World, random.Random], None]


# --- nodes -------------------------------------------------------------------------------------------------------------


def kill(world: World, rng: random.Random) -> None:
    nodes = list(world.nodes.values())
    if nodes:
        node = rng.choice(nodes)
        world.kill(node)
        world.loop.call_later(rng.random() * 3.0, _back, world, node.name, context=world.loop.world)


def kill_other(world: World, rng: random.Random) -> None:
    for node in world.living("other"):
        world.kill(node)


def kill_all(world: World, rng: random.Random) -> None:
    for node in list(world.nodes.values()):
        world.kill(node)
        world.loop.call_later(rng.random() * 0.5, _back, world, node.name, context=world.loop.world)


def _back(world: World, name: str) -> None:
    if name not in world.nodes:
        world.add_node(name)


def pause(world: World, rng: random.Random) -> None:
    nodes = [node for node in world.nodes.values() if node.process.running]
    if nodes:
        node = rng.choice(nodes)
        world.trace(node.process, "paused")
        node.process.pause()
        seconds = rng.choice([0.1, 0.5, 2.0, 6.0]) * (0.5 + rng.random())
        world.loop.call_later(seconds, node.process.resume, context=world.loop.world)


def slow_node(world: World, rng: random.Random) -> None:
    """One node has a slow machine: everything that it does takes time."""
    nodes = list(world.nodes.values())
    for node in nodes:
        node.process.slowness = 0.0
    if nodes:
        rng.choice(nodes).process.slowness = rng.choice([0.0002, 0.001, 0.003])


def stop(world: World, rng: random.Random) -> None:
    nodes = [node for node in world.living(None) if not node.leaving and node.process.running]
    node = rng.choice(nodes) if nodes else None
    # Where nobody may be disturbed, others of its app must be there to take over.
    if node is not None and (not world.graceful or sum(node.app == other.app for other in nodes) > 1):
        world.trace(node.process, "stops")
        node.stop()
        world.loop.call_later(1.0 + rng.random() * 2.0, _back, world, node.name, context=world.loop.world)


def join(world: World, rng: random.Random) -> None:
    if len(world.nodes) < 5:
        _back(world, f"n{rng.randint(3, 5)}")


def join_other(world: World, rng: random.Random) -> None:
    _back(world, f"o{rng.randint(0, 1)}")


def set_aside(world: World, rng: random.Random) -> None:
    """Placement takes a node out although it lives."""
    nodes = world.living(None)
    for leader, process in world.links.replicas.values():
        if process.running and nodes:
            node = rng.choice(nodes)
            world.trace(node.process, "set aside")
            process.call_soon(leader.set_aside, node.id)


def evict(world: World, rng: random.Random) -> None:
    """Idle activations leave memory."""
    for node in world.living(None):
        if node.process.running:
            for activation in list(node.runtime.host.activations.values()):
                if rng.random() < 0.5:
                    node.process.call_soon(node.runtime.host.evict, activation)


# --- the store ---------------------------------------------------------------------------------------------------------


def store_fails(world: World, rng: random.Random) -> None:
    world.server.failing = rng.choice([0.0, 0.05, 0.2, 0.5])


def store_crashes(world: World, rng: random.Random) -> None:
    seconds = rng.choice([0.05, 0.5, 3.0])
    world.trace("store", "crashes", seconds)
    world.server.crash(seconds)


def store_slow(world: World, rng: random.Random) -> None:
    world.server.latency = rng.choice([0.001, 0.002, 0.02, 0.2])


# --- the network -------------------------------------------------------------------------------------------------------


def lossy(world: World, rng: random.Random) -> None:
    world.network.loss = rng.choice([0.0, 0.05, 0.2])


def repeating(world: World, rng: random.Random) -> None:
    world.network.duplication = rng.choice([0.0, 0.2, 0.5])
    world.network.lateness = rng.choice([0.0, 0.1, 0.3])


def slow(world: World, rng: random.Random) -> None:
    world.network.latency = rng.choice([0.0005, 0.001, 0.02])


def cut(world: World, rng: random.Random) -> None:
    places = sorted({base(process) for process in world.processes if not process.dead})
    pairs = [(a, b) for a in places for b in places if a != b]
    world.network.cuts = set(rng.sample(pairs, min(len(pairs), rng.randint(0, 3))))
    if rng.random() < 0.4:
        world.network.cuts |= {(b, a) for a, b in world.network.cuts}


def cut_nodes(world: World, rng: random.Random) -> None:
    """Nodes do not hear each other; placement hears them all."""
    names = sorted({node.name for node in world.nodes.values()})
    pairs = [(a, b) for a in names for b in names if a != b]
    world.network.cuts = set(rng.sample(pairs, min(len(pairs), rng.randint(0, 4))))
    if rng.random() < 0.5:
        world.network.cuts |= {(b, a) for a, b in world.network.cuts}


def lag(world: World, rng: random.Random) -> None:
    """Some nodes hear of everything late from placement."""
    names = sorted({node.name for node in world.nodes.values()})
    world.links.lag = {name: rng.random() * 0.8 for name in names if rng.random() < 0.5}


def drop_links(world: World, rng: random.Random) -> None:
    world.links.drop(rng.choice([0.2, 1.0]))


# --- placement ---------------------------------------------------------------------------------------------------------


def leader_dies(world: World, rng: random.Random) -> None:
    world.kill_leaders()
    world.loop.call_later(rng.random() * 2.0, _new_leader, world, context=world.loop.world)


def _new_leader(world: World) -> None:
    if not world.links.replicas:
        world.add_leader()


def leader_pauses(world: World, rng: random.Random) -> None:
    for _, process in world.links.replicas.values():
        if process.running:
            world.trace(process, "paused")
            process.pause()
            world.loop.call_later(rng.random() * 5.0, process.resume, context=world.loop.world)
    if len(world.links.replicas) < 2:
        world.add_leader()


def clock_jumps(world: World, rng: random.Random) -> None:
    nodes = list(world.nodes.values())
    if nodes:
        node = rng.choice(nodes)
        node.process.skew += rng.choice([-2_000_000, -100_000, 100_000, 3_000_000])


# --- scenarios ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    name: str
    faults: tuple[Fault, ...]
    #: Seconds between two faults, at most.
    pause: float = 0.8
    seconds: float = 6.0
    stories: int = 6
    nodes: int = 2
    #: Node's wall clocks differ.
    skewed: bool = False
    #: Seconds after which idle instances leave memory.
    idle: float = 60.0
    poison: bool = False
    rollback: bool = False
    #: Instances with more history events than one read of the store gives.
    long: int = 0
    #: What of one instance ends each process that runs it: "start", "turn" or "activity".
    lethal: str = ""
    #: Nodes of another app, which is called.
    others: int = 0
    #: Clients that count, and seconds that their turns take at most.
    counters: int = 2
    longest_turn: float = 0.3
    #: Clients of actors that are called back while they wait.
    rings: int = 0
    #: Seconds that activities take at most.
    longest_activity: float = 0.05
    #: Nothing fails: no call may fail, nor anything be done twice.
    graceful: bool = False
    #: Its stories want more "activities" or "workflows" than may run at a time.
    limited: str = ""
    #: Its stories are those of `tests.simulation.starts`.
    starts: bool = False
    #: Its stories are those of `tests.simulation.cancels`.
    cancels: bool = False
    #: Its stories are those of `tests.simulation.reruns`.
    reruns: bool = False


STORE = (store_fails, store_fails, store_crashes, store_slow)
NETWORK = (lossy, repeating, slow, cut, cut_nodes, lag, drop_links)
NODES = (kill, kill, kill_all, pause, pause, stop)
PLACEMENT = (join, stop, set_aside, drop_links, leader_dies, leader_pauses)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("calm", (), seconds=2.0, others=1),
        Scenario("idle", (evict,), pause=0.2, seconds=4.0, idle=1.0),
        Scenario("store", STORE),
        Scenario("network", NETWORK, nodes=3),
        Scenario("kills", NODES, nodes=2),
        Scenario(
            "apps",
            (kill, stop, join_other, join_other, kill_other, pause),
            nodes=2,
            others=2,
            counters=0,
            longest_activity=0.5,
        ),
        Scenario("moves", PLACEMENT, nodes=3, pause=1.2),
        Scenario("joins", (join, join, stop), nodes=3, counters=3, graceful=True, longest_activity=0.4),
        Scenario("splits", (cut_nodes, cut_nodes, lag, join, stop), nodes=3, counters=4),
        Scenario("slow", (slow_node, slow_node, pause, stop, join, slow), nodes=3, counters=3),
        Scenario(
            "long",
            (evict, kill, pause, join),
            nodes=2,
            stories=1,
            counters=1,
            long=1,
            idle=1.0,
            longest_activity=0.0,
        ),
        Scenario("clocks", (clock_jumps, pause, kill), skewed=True),
        Scenario(
            "actors",
            (kill, kill, *PLACEMENT, *STORE, cut, cut_nodes, repeating, evict),
            nodes=3,
            pause=0.4,
            stories=1,
            counters=0,
            rings=4,
        ),
        Scenario(
            "chaos",
            (*STORE, *NETWORK, *NODES, *PLACEMENT, slow_node, evict, clock_jumps),
            nodes=3,
            pause=0.5,
            idle=3.0,
            skewed=True,
            others=1,
        ),
        Scenario(
            "limits",
            (*NODES, *PLACEMENT, cut, cut, lossy, repeating, store_fails, evict),
            nodes=3,
            pause=1.0,
            seconds=12.0,
            counters=0,
            limited="activities",
        ),
        Scenario(
            "shares",
            (cut, drop_links, set_aside, leader_dies),
            nodes=3,
            pause=1.0,
            seconds=12.0,
            counters=0,
            limited="activities",
        ),
        Scenario(
            "silence",
            (cut, cut, pause, drop_links),
            nodes=3,
            pause=1.0,
            seconds=12.0,
            counters=0,
            limited="activities",
        ),
        Scenario(
            "slots",
            (*NODES, *PLACEMENT, cut, lossy, repeating, repeating, store_fails, evict),
            nodes=3,
            seconds=8.0,
            stories=10,
            counters=0,
            limited="workflows",
        ),
        Scenario(
            "starts",
            (*STORE, *NODES, *PLACEMENT, cut, lossy, repeating, repeating, evict, evict, clock_jumps),
            nodes=3,
            counters=0,
            idle=3.0,
            skewed=True,
            starts=True,
        ),
        Scenario(
            "cancels",
            (*STORE, *NODES, *PLACEMENT, cut, lossy, repeating, repeating, evict, evict),
            nodes=3,
            stories=10,
            counters=0,
            idle=3.0,
            cancels=True,
        ),
        Scenario(
            "reruns",
            (*STORE, *NODES, *PLACEMENT, cut, lossy, repeating, repeating, evict, evict, clock_jumps),
            nodes=3,
            seconds=8.0,
            counters=0,
            idle=3.0,
            skewed=True,
            reruns=True,
        ),
        Scenario("poison", (kill, store_fails, store_slow, pause), poison=True),
        Scenario("lethal-start", (evict,), nodes=3, counters=1, lethal="start"),
        Scenario("lethal-turn", (evict,), nodes=3, counters=1, lethal="turn"),
        Scenario("lethal-activity", (evict,), nodes=3, counters=1, lethal="activity"),
        Scenario("rollback", (kill, pause, store_fails), stories=4, rollback=True),
    )
}


async def disturb(world: World, scenario: Scenario, rng: random.Random) -> None:
    """Until the world is healed."""
    while scenario.faults and not world.healing:
        await world.sleep(rng.random() * scenario.pause)
        if world.healing:
            return
        fault = rng.choice(scenario.faults)
        world.trace("fault", fault.__name__)
        fault(world, rng)


def heal(world: World, names: list[str]) -> list[SimNode]:
    """Faults stop, and every node is back."""
    world.trace("healed")
    world.healing = True
    world.server.failing = 0.0
    world.server.down_until = min(world.server.down_until, world.loop.now)
    world.server.latency = 0.002
    world.network.loss = world.network.duplication = world.network.lateness = 0.0
    world.network.latency = 0.001
    world.network.cuts.clear()
    world.links.lag.clear()
    for process in world.processes:
        process.slowness = 0.0
        process.resume()
    if not world.links.replicas:
        world.add_leader()
    return [world.add_node(name) for name in names if name not in world.nodes]
