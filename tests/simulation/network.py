"""The simulated network between nodes: it delays, loses, repeats and reorders messages, and links are cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from perdure.actors.messages import Message
from perdure.errors import Moved, Unavailable
from tests.simulation.loop import SimLoop
from tests.simulation.process import Process

#: Takes a message that has arrived at a process, with the sender.
Arrive = Callable[[Message], None]


#: Seconds by which a message may be late.
LATEST = 5.0


class Network:
    """Knows every process that ever listened, by its node name."""

    def __init__(self, loop: SimLoop, seed: int) -> None:
        self.loop = loop
        self.rng = random.Random(f"{seed}-network")
        self.latency = 0.001
        #: Chances, per message.
        self.loss = 0.0
        self.duplication = 0.0
        #: Chance that a copy comes seconds late.
        self.lateness = 0.0
        #: One way: nothing gets from the first to the second (names without incarnation).
        self.cuts: set[tuple[str, str]] = set()
        self.listeners: dict[str, tuple[Process, Arrive]] = {}
        #: What a process has received and not answered.
        self.open: dict[Process, dict[Exchange, None]] = {}

    def listen(self, node: str, process: Process, arrive: Arrive) -> None:
        self.listeners[node] = process, arrive
        self.open[process] = {}

    def send(self, sender: Process, node: str, message: Message) -> None:
        if sender.dead:
            return  # it has ended in the midst of what it did
        exchange = Exchange(self, sender, message)
        found = self.listeners.get(node)
        if found is None or (found[0].dead and self.rng.random() < 0.5):
            exchange.fail(Moved(f"node {node} refuses connections"), self.latency)
            return
        process, arrive = found
        if not self.passes(sender, process):
            exchange.fail(Unavailable("the link is gone"), self.silence())
            return
        self._deliver(exchange, process, arrive)
        if message.repeatable and self.duplication and self.rng.random() < self.duplication:
            self._deliver(exchange, process, arrive)

    def passes(self, sender: Process, receiver: Process) -> bool:
        if self.cuts and (base(sender), base(receiver)) in self.cuts:
            return False
        return not self.loss or self.rng.random() >= self.loss

    def delay(self) -> float:
        delay = self.latency * (0.2 + self.rng.random() * 1.6)
        if self.lateness and self.rng.random() < self.lateness:
            delay += self.rng.random() * LATEST
        return delay

    def silence(self) -> float:
        """Seconds after which it is known that nothing gets through: often few, sometimes many."""
        return 0.002 + float(self.rng.random() ** 3)

    def _deliver(self, exchange: Exchange, process: Process, arrive: Arrive) -> None:
        def arrived() -> None:
            if process.dead:
                exchange.fail(Unavailable("the node has died"), 0.02)
                return
            self.open[process][exchange] = None
            message = exchange.message
            copy = Message(
                message.target,
                message.method,
                message.body,
                lambda value: exchange.answered(process, value),
                message.identity,
                message.repeatable,
                deadline=message.deadline,
                redelivered=message.redelivered,
                chain=message.chain,
                key=message.key,
                tickets=message.tickets,
            )
            process.call_soon(arrive, copy)

        self.loop.call_later(self.delay(), arrived, context=self.loop.world)

    def died(self, process: Process) -> None:
        """Every link to it closes, which its peers notice sooner or later."""
        for exchange in self.open.pop(process, {}):
            exchange.fail(Unavailable("the node has died"), self.rng.random() * 0.5)
        self.open[process] = {}


class Exchange:
    """One message and its answer. Only the first answer counts."""

    __slots__ = ("_done", "_network", "_sender", "message")

    def __init__(self, network: Network, sender: Process, message: Message) -> None:
        self._network = network
        self._sender = sender
        self.message = message
        self._done = False

    def answered(self, process: Process, value: Any) -> None:
        """The receiver's answer, on its way back."""
        network = self._network
        if process.dead:
            return
        network.open[process].pop(self, None)
        if not network.passes(process, self._sender):
            self.fail(Unavailable("the link is gone"), network.silence())
        else:
            self.fail(value, network.delay())

    def fail(self, value: Any, delay: float) -> None:
        loop = self._network.loop
        loop.call_later(delay, self._settle, value, context=self._sender.context)

    def _settle(self, value: Any) -> None:
        if not self._done:
            self._done = True
            self.message.answer(value)


class SimPeers:
    """Implements `perdure.actors.router.Peers` for one process."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process

    def send(self, node: str, message: Message) -> None:
        self._network.send(self._process, node, message)


def base(process: Process) -> str:
    """The machine's name: that of the process without its incarnation."""
    return process.name.partition(".")[0]
