"""Everything of one simulated run: the loop, the store, the network, placement, nodes, and who looks on."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from perdure.placement.leader import PlacementLeader
from perdure.placement.options import PlacementOptions
from perdure.statestore.contract import Commit, Fence, Refused, Taken, TypePartition
from perdure.workflow.registry import Registry
from tests.simulation.checker import Checker
from tests.simulation.ledger import Ledger
from tests.simulation.links import Links
from tests.simulation.loop import PROCESS, SimLoop, Violation
from tests.simulation.network import Network
from tests.simulation.node import SimNode
from tests.simulation.process import Process
from tests.simulation.programs import LETHAL, registry
from tests.simulation.store import SimServer, SimStore

if TYPE_CHECKING:
    from perdure.runtime import ActorSpec

#: Seconds, long enough that virtual minutes cost little.
OPTIONS = PlacementOptions(
    link_grace=1.2,
    silence=2.5,
    takeover_grace=4.0,
    word=1.0,
    heartbeat=0.45,
    confirm=1.0,
    confirm_within=2.5,
    rejoin=1.0,
    tick=0.4,
)
#: Events of the trace that are kept.
TRACE = 400


class Counted(Protocol):
    """What is known from outside of a user's actor."""

    def check(self) -> None: ...

    def rolled_back(self) -> None:
        """The store has lost what a client was told."""


class World:
    def __init__(self, seed: int, *, partitions: int = 8, idle: float = 60.0) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}-world")
        self.loop = SimLoop(seed)
        self.loop.complain = self.complained
        self.partitions = partitions
        #: Seconds after which idle instances leave memory.
        self.idle = idle
        self.placement_options = OPTIONS
        #: What its nodes run.
        self.registry = registry
        self.lines: deque[tuple[Any, ...]] = deque(maxlen=TRACE)
        self._hash = hashlib.blake2b(digest_size=16)
        self.checker = Checker(self.loop, seed, partitions, self.trace)
        self.server = SimServer(self.loop, seed, partitions, self)
        self.checker.memory = self.server.memory
        self.network = Network(self.loop, seed)
        self.links = Links(self.loop, seed, self.network)
        self.ledger = Ledger(random.Random(f"{seed}-ledger"), self.checker.began, self.checker.turn_began)
        self.checker.ended_runs = self.ledger.ended
        self.nodes: dict[str, SimNode] = {}
        #: What a node registers, by its name, where that is not what its app has.
        self.registries: dict[str, Registry] = {}
        self.skewed = False
        #: Nothing fails: nodes only come and go.
        self.graceful = False
        self.counts: list[Counted] = []
        #: What the nodes of the app with users' actors host besides counters.
        self.more_actors: tuple[ActorSpec, ...] = ()
        self.healing = False
        #: Everything has come to its end.
        self.resting = False
        #: Processes that ended by what they ran.
        self.deaths = 0
        self._incarnations = 0
        self._replicas = 0
        self.processes: list[Process] = []

        LETHAL.kill, LETHAL.wait = self._die, self._wait

    def _die(self) -> None:
        """What runs now is the end of its process, which somebody starts again."""
        process = self.loop.process
        for node in list(self.nodes.values()):
            if node.process is process:
                self.deaths += 1
                self.kill(node)
                self.loop.call_later(0.2 + self.rng.random(), self._back, node.name, context=self.loop.world)

    def _back(self, name: str) -> None:
        if name not in self.nodes:
            self.add_node(name)

    async def _wait(self, seconds: float) -> None:
        process = self.loop.process
        assert process is not None
        await process.sleep(seconds)

    # --- Observer of the store ---------------------------------------------------------------------------------------

    def committed(self, process: Process, commit: Commit) -> None:
        self.checker.committed(process, commit)

    def taken(self, process: Process, held: TypePartition, fence: Fence, result: Taken | Refused) -> None:
        self.checker.taken(process, held, fence, result)
        if self.graceful:
            released = isinstance(result, Taken) and result.released
            self.checker.require(released, "taken from whoever has not released it", process, held, result)

    def fenced(self, process: Process, commit: Commit) -> None:
        """The store refuses a commit because somebody else owns the partition."""
        if self.graceful:
            self.checker.violated(f"a turn was lost although nothing fails: {commit.actor}")

    def acknowledged(self, process: Process, commits: Sequence[Commit]) -> None:
        self.checker.acknowledged(process, commits)

    # --- the trace ---------------------------------------------------------------------------------------------------

    def trace(self, who: object, *what: object) -> None:
        line = (round(self.loop.now, 6), str(who), *what)
        self.lines.append(line)
        self._hash.update(repr(line).encode())

    def digest(self) -> str:
        """Two runs with the same one did the same."""
        return self._hash.hexdigest()

    # --- what must not happen ------------------------------------------------------------------------------------------

    def task_failed(self, process: Process, error: BaseException) -> None:
        if process.running and self.loop.failure is None:
            failure = Violation(f"a task of {process} failed: {error!r}")
            failure.__cause__ = error
            self.loop.failure = failure

    def complained(self, process: Process | None, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if process is not None and process.running and error is not None and self.loop.failure is None:
            self.loop.failure = Violation(f"{context.get('message')}: {error!r}")

    # --- processes ---------------------------------------------------------------------------------------------------

    def skew(self) -> int:
        return self.rng.randint(-300_000, 300_000) if self.skewed else 0

    def add_node(self, name: str) -> SimNode:
        self._incarnations += 1
        app = "other" if name.startswith("o") else "sim"
        node = self.nodes[name] = SimNode(self, name, self._incarnations, app)
        self.processes.append(node.process)
        self.trace(node.process, "starts")
        return node

    def kill(self, node: SimNode) -> None:
        if node.process.dead:
            return
        self.trace(node.process, "killed")
        node.kill()
        self._bury(node)

    def gone(self, node: SimNode) -> None:
        """A node that stopped in good order."""
        self.trace(node.process, "stopped")
        node.kill()
        self._bury(node)
        if self.healing:
            # Whoever was to bring it back may have found it still there.
            self.add_node(node.name)

    def _bury(self, node: SimNode) -> None:
        self.network.died(node.process)
        self.links.died(node.process)
        if self.nodes.get(node.name) is node:
            del self.nodes[node.name]

    def add_leader(self) -> None:
        self._replicas += 1
        name = f"p{self._replicas}"
        process = Process(self.loop, name, self.seed)
        process.task_failed = self.task_failed
        self.processes.append(process)
        lease = SimStore(self.server, process).lease("placement")
        leader = PlacementLeader(
            lease, process, self.partitions, address=name, options=self.placement_options
        )
        self.links.replicas[name] = leader, process
        process.spawn(leader.run(), name="leader")
        self.trace(process, "starts")

    def kill_leaders(self) -> None:
        for name, (_, process) in list(self.links.replicas.items()):
            if not process.dead:
                self.trace(process, "killed")
                process.kill()
                self.links.died(process)
                del self.links.replicas[name]

    def living(self, app: str | None = "sim") -> list[SimNode]:
        """The nodes of an app that can be asked; None: of all."""
        return [
            node
            for node in self.nodes.values()
            if node.ready and not node.process.dead and app in (None, node.app)
        ]

    async def sleep(self, seconds: float) -> None:
        future = self.loop.create_future()
        self.loop.call_later(seconds, _wake, future, context=self.loop.world)
        await future

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        """A task of the world outside."""
        return self.loop.create_task(coroutine, context=self.loop.world)

    def close(self) -> None:
        """Lets go of every task without a trace."""
        self.loop.complain = lambda process, context: None
        self.checker.require = lambda *_: None  # type: ignore[method-assign]
        for process in self.processes:
            process.task_failed = lambda process, error: None
            process.running = True
            process.go_on()
        self.server.down_until = float("inf")
        LETHAL.kill = lambda: None
        self.loop.drain(lambda: [task for process in self.processes for task in list(process.tasks)])


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class TraceLog(logging.Handler):
    """Writes the engine's own log into the trace of a run."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get()
        extra = getattr(record, "fields", {})
        error = record.exc_info[1] if record.exc_info else None
        self._world.lines.append(
            (
                round(self._world.loop.now, 6),
                str(process),
                "log",
                record.getMessage(),
                str(extra),
                repr(error),
            )
        )
