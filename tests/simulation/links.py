"""Simulated links between nodes and the placement service."""

from __future__ import annotations

import random

from perdure.errors import Unavailable
from perdure.placement.leader import PlacementLeader
from perdure.placement.messages import Message
from perdure.placement.session import Receiver, Session
from tests.simulation.loop import SimLoop
from tests.simulation.network import Network, base
from tests.simulation.process import Process


class Links:
    """Opens links to whichever replica of placement lives."""

    def __init__(self, loop: SimLoop, seed: int, network: Network) -> None:
        self.loop = loop
        self.network = network
        self.rng = random.Random(f"{seed}-links")
        self.replicas: dict[str, tuple[PlacementLeader, Process]] = {}
        self.ends: list[End] = []
        #: Seconds by which what a machine is told is late.
        self.lag: dict[str, float] = {}

    async def connect(self, node: Process, address: str, receiver: Receiver) -> Session:
        await node.sleep(0.001 + self.rng.random() * 0.01)
        living = [name for name, (_, process) in self.replicas.items() if not process.dead]
        if address not in living:
            address = self.rng.choice(living) if living else ""
        if not address:
            raise Unavailable("no placement")
        leader, server = self.replicas[address]
        if not (self.network.passes(node, server) and self.network.passes(server, node)):
            raise Unavailable("placement cannot be reached")
        near, far = End(self, node), End(self, server)
        near.other, far.other = far, near
        near.receiver = receiver
        far.receiver = leader.accept(far)
        self.ends = [end for end in self.ends if end.open]
        self.ends += [near, far]
        return near

    def drop(self, chance: float) -> None:
        for end in list(self.ends):
            if end.open and self.rng.random() < chance:
                end.close()

    def died(self, process: Process) -> None:
        for end in list(self.ends):
            if end.process is process and end.open:
                end.close()


class End:
    """One end of a link."""

    other: End
    receiver: Receiver

    def __init__(self, links: Links, process: Process) -> None:
        self._links = links
        self.process = process
        self.open = True

    def send(self, message: Message) -> None:
        network = self._links.network
        if self.open and network.passes(self.process, self.other.process):
            loop = self._links.loop
            delay = network.delay() + self._links.lag.get(base(self.other.process), 0.0)
            loop.call_later(delay, self.other._arrive, message, context=self.other.process.context)

    def _arrive(self, message: Message) -> None:
        if self.open:
            self.receiver.received(message)

    def close(self) -> None:
        if not self.open:
            return
        self._close()
        # Across a cut the other end hears nothing, until it has heard nothing for too long.
        if self._links.network.passes(self.process, self.other.process):
            delay = 0.001 + self._links.rng.random() * 0.05
            self._links.loop.call_later(delay, self.other._close, context=self.other.process.context)

    def _close(self) -> None:
        if self.open:
            self.open = False
            self.process.call_soon(self.receiver.closed)
