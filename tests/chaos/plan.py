"""What breaks when: decided by a seed, so that a run can be repeated."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from tests.chaos.cluster import Cluster, Server

Fault = Callable[[], Awaitable[None]]

#: Nodes at most, and at least so many that are not being stopped or killed.
MOST_NODES = 5
LEAST_NODES = 1


class Plan:
    """Breaks one thing after the other, with pauses, several at a time; each fault mends itself after a while."""

    def __init__(self, cluster: Cluster, seed: int, tell: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._chance = random.Random(f"{seed}-plan")
        self._tell = tell
        self._under_way: set[asyncio.Task[None]] = set()
        #: What somebody breaks now.
        self._busy: set[str] = set()
        self.done: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Breaks things for so long; returns when all of it is mended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        kinds = self._kinds()
        while loop.time() < end:
            await asyncio.sleep(self._chance.uniform(0.2, 1.6))
            name = self._chance.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
            task = asyncio.create_task(kinds[name][1](), name=name)
            self._under_way.add(task)
            task.add_done_callback(self._ended)
            for other in [task for task in self._under_way if task.done()]:
                if (error := other.exception()) is not None:
                    self._tell(f"{other.get_name()} failed: {error}")
                    raise error
        while self._under_way:
            await asyncio.gather(*self._under_way)
        self._cluster.net.mend_all()

    def _ended(self, task: asyncio.Task[None]) -> None:
        # One that failed stays, for whoever looks next.
        if task.cancelled() or task.exception() is None:
            self._under_way.discard(task)

    def _kinds(self) -> dict[str, tuple[float, Fault]]:
        kinds: dict[str, tuple[float, Fault]] = {
            "kill node": (4, self._kill_node),
            "pause node": (3, self._pause_node),
            "stop node": (1, self._stop_node),
            "add node": (1, self._add_node),
            "cut": (3, self._cut),
            "cut one way": (2, self._cut_one_way),
            "kill store": (0.7, self._kill_store),
            "pause store": (0.7, self._pause_store),
        }
        if self._cluster.placement:
            kinds["kill placement"] = (1.5, self._kill_placement)
            kinds["pause placement"] = (1.5, self._pause_placement)
        return kinds

    # --- nodes and placement -----------------------------------------------------------------------------------------

    async def _kill_node(self) -> None:
        if (node := self._pick(self._cluster.nodes.values(), spare=LEAST_NODES)) is not None:
            await self._kill(node, self._chance.uniform(0.1, 3.0))

    async def _kill_placement(self) -> None:
        if (replica := self._pick(self._cluster.placement.values())) is not None:
            await self._kill(replica, self._chance.uniform(0.1, 3.0))

    async def _kill(self, server: Server, away: float) -> None:
        with _Hold(self._busy, server.name):
            self._say("kill", server.name)
            server.kill()
            await asyncio.sleep(away)
            await server.start()

    async def _pause_node(self) -> None:
        if (node := self._pick(self._cluster.nodes.values())) is not None:
            await self._pause(node)

    async def _pause_placement(self) -> None:
        if (replica := self._pick(self._cluster.placement.values())) is not None:
            await self._pause(replica)

    async def _pause(self, server: Server) -> None:
        with _Hold(self._busy, server.name):
            seconds = self._chance.choice([0.3, 1.0, 2.5, 5.0]) * self._chance.uniform(0.7, 1.3)
            self._say("pause", f"{server.name} for {seconds:.1f} s")
            server.pause()
            await asyncio.sleep(seconds)
            server.resume()

    async def _stop_node(self) -> None:
        if (node := self._pick(self._cluster.nodes.values(), spare=LEAST_NODES)) is not None:
            with _Hold(self._busy, node.name):
                self._say("stop", node.name)
                await node.stop()
                await asyncio.sleep(self._chance.uniform(0.1, 2.0))
                await node.start()

    async def _add_node(self) -> None:
        """One more for a while."""
        name = f"n{len(self._cluster.nodes) + 1}"
        if len(self._cluster.nodes) >= MOST_NODES or name in self._busy:
            return
        with _Hold(self._busy, name):
            self._say("add", name)
            await self._cluster.add_node(name).start()

    # --- the network -------------------------------------------------------------------------------------------------

    async def _cut(self) -> None:
        await self._cut_between(both=True)

    async def _cut_one_way(self) -> None:
        await self._cut_between(both=False)

    async def _cut_between(self, *, both: bool) -> None:
        one, two = self._chance.sample(sorted(self._cluster.net.hosts), 2)
        seconds = self._chance.choice([0.5, 2.0, 6.0]) * self._chance.uniform(0.7, 1.3)
        self._say(
            "cut" if both else "cut one way", f"{one} {'and' if both else 'to'} {two} for {seconds:.1f} s"
        )
        net = self._cluster.net
        net.cut(one, two)
        if both:
            net.cut(two, one)
        await asyncio.sleep(seconds)
        net.mend(one, two)
        if both:
            net.mend(two, one)

    # --- the store ---------------------------------------------------------------------------------------------------

    async def _kill_store(self) -> None:
        if "store" not in self._busy:
            with _Hold(self._busy, "store"):
                self._say("kill", "store")
                await asyncio.to_thread(self._cluster.store.kill)
                await asyncio.sleep(self._chance.uniform(0.1, 2.0))
                await asyncio.to_thread(self._cluster.store.start)

    async def _pause_store(self) -> None:
        if "store" not in self._busy:
            with _Hold(self._busy, "store"):
                seconds = self._chance.uniform(0.3, 3.0)
                self._say("pause", f"store for {seconds:.1f} s")
                self._cluster.store.pause()
                await asyncio.sleep(seconds)
                self._cluster.store.resume()

    # --- choosing ----------------------------------------------------------------------------------------------------

    def _pick(self, servers: Iterable[Server], *, spare: int = 0) -> Server | None:
        free = [server for server in servers if server.name not in self._busy and server.running]
        return self._chance.choice(free) if len(free) > spare else None

    def _say(self, kind: str, what: str) -> None:
        self.done[f"{kind} {what.split()[0].rstrip('0123456789')}"] += 1
        self._tell(f"{kind} {what}")


class _Hold:
    """Nobody else breaks it meanwhile."""

    def __init__(self, busy: set[str], name: str) -> None:
        self._busy, self._name = busy, name

    def __enter__(self) -> None:
        self._busy.add(self._name)

    def __exit__(self, *_: object) -> None:
        self._busy.discard(self._name)
