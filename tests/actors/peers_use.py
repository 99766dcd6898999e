"""Nodes that talk to each other over real links, and one who only pretends to be a node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure.actors.codec import Codec
from perdure.actors.messages import Message
from perdure.actors.peers import PATH, PeerLinks
from perdure.clock import LoopClock
from perdure.errors import Moved
from perdure.links import Link, LinkOptions, LinkServer
from perdure.security import Security
from perdure.statestore.contract import ActorId
from tests.waiting import eventually

MB = 1024 * 1024


TARGET = ActorId("Counter", "1")


class Answer:
    """Takes the answer of one message, exactly once."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, value: Any) -> None:
        self.values.append(value)
        assert len(self.values) == 1

    async def get(self) -> Any:
        await eventually(lambda: self.values)
        return self.values[0]


class Node:
    """One incarnation of a node: its links, and what arrives."""

    def __init__(self, cluster: Cluster, name: str, security: Security, options: LinkOptions) -> None:
        self.name = name
        self.clock = LoopClock()
        self.server = LinkServer("127.0.0.1", 0, security=security, clock=self.clock, options=options)
        self.links = PeerLinks(
            name,
            self.clock,
            self,
            cluster.table.get,
            Codec(),
            security=security,
            apps=cluster.apps.get if cluster.apps else None,
            options=options,
        )
        self.links.attach(self.server)
        self.messages: list[Message] = []
        #: What is done with what arrives: by default it is answered with its body.
        self.handle: Callable[[Message], object] = lambda message: message.answer(message.body)

    def arrived(self, message: Message) -> None:
        self.messages.append(message)
        self.handle(message)

    def send(self, node: str, body: Any = b"body", method: str = "do", **options: Any) -> Answer:
        answer = Answer()
        self.links.send(node, Message(options.pop("target", TARGET), method, body, answer, **options))
        return answer

    async def stop(self) -> None:
        self.links.close()
        await self.server.stop()

    def keep(self) -> list[Message]:
        """Answers nothing from here on."""
        kept: list[Message] = []
        self.handle = kept.append
        return kept


class Cluster:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        #: What the placement table says, to all.
        self.table: dict[str, str] = {}
        self.apps: dict[str, str] = {}

    async def node(
        self, name: str, *, security: Security | None = None, options: LinkOptions | None = None
    ) -> Node:
        node = Node(self, name, security or Security(), options or LinkOptions())
        await node.server.start()
        self.nodes.append(node)
        self.table[name] = node.server.address
        return node

    async def two(self, **options: Any) -> tuple[Node, Node]:
        return await self.node("a", **options), await self.node("b", **options)


def events(caplog: pytest.LogCaptureFixture, name: str = "perdure.peers") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]


async def retried(node: Node, other: str) -> Any:
    """As a router does with `Moved`."""
    while True:
        answer = await node.send(other).get()
        if not isinstance(answer, Moved):
            return answer
        await asyncio.sleep(0.02)


class Impostor:
    """Whoever is at an address and says what a test wants."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = frames
        self.got: list[bytes] = []
        self.ended = False

    def accept(self, link: Link) -> Impostor:
        self.link = link
        return self

    def received(self, frame: bytes) -> None:
        self.got.append(frame)
        if len(self.got) == 1:
            for answer in self.frames:
                self.link.send(answer)

    def closed(self) -> None:
        self.ended = True

    async def serve(self, cluster: Cluster, name: str) -> LinkServer:
        server = LinkServer("127.0.0.1", 0, security=Security(), clock=LoopClock())
        server.accept(PATH, self.accept)
        await server.start()
        cluster.table[name] = server.address
        return server
