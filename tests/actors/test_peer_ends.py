"""Links that end, and what becomes of the messages on them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from perdure.actors import peer_messages as wire
from perdure.errors import Moved, Unavailable
from perdure.links import LinkOptions
from tests.actors.peers_use import MB, Cluster, Impostor, retried
from tests.servers.proxy import CuttingProxy, Way
from tests.waiting import eventually


async def test_a_link_that_is_cut(cluster: Cluster) -> None:
    a, b = await cluster.two()
    kept = b.keep()
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        answers = [a.send("b", b"%d" % number) for number in range(10)]
        await eventually(lambda: len(kept) == 10)
        proxy.cut()
        for answer in answers:
            error = await answer.get()
            assert type(error) is Unavailable
        # Answers to what came over that link go nowhere, and do no harm.
        for message in kept:
            message.answer(b"late")
        b.handle = lambda message: message.answer(message.body)
        assert await retried(a, "b") == b"body"
    assert [type(answer.values[0]) for answer in answers] == [Unavailable] * 10


async def test_what_was_never_written_moves(cluster: Cluster) -> None:
    """The other end does not read: most of what is sent never leaves this node, and that is known when the link is
    lost, so that calls that must not come twice can be sent again."""
    a, b = await cluster.two()
    kept = b.keep()
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        a.send("b")
        await eventually(lambda: kept)
        proxy.delay = 3600
        answers = [a.send("b", bytes([number]) * MB, repeatable=False) for number in range(40)]
        buffered = a.links.describe()["b"]["buffered"]
        await eventually(lambda: 0 < a.links.describe()["b"]["buffered"] < buffered)
        proxy.cut()
        errors = [await answer.get() for answer in answers]
    kinds = [type(error) for error in errors]
    moved = kinds.index(Moved)
    assert 0 < moved < 40
    assert kinds == [Unavailable] * moved + [Moved] * (40 - moved)
    assert len(b.messages) == 1


async def test_a_node_that_ends_a_link_says_what_it_has_not_taken(cluster: Cluster) -> None:
    """What is on its way to a node that stops was surely not taken: calls that must not come twice can be sent
    elsewhere. What was answered, arrives."""
    a, b = await cluster.two()
    kept = b.keep()
    taken = [a.send("b", b"%d" % number, repeatable=False) for number in range(4)]
    await eventually(lambda: len(kept) == 4)
    kept[0].answer(b"answered")
    kept[1].answer(bytes(3 * MB))
    late = [a.send("b", b"late", repeatable=False) for _ in range(3)]
    b.links.close()
    assert await taken[0].get() == b"answered"
    assert await taken[1].get() == bytes(3 * MB)
    assert [type(await answer.get()) for answer in taken[2:]] == [Unavailable] * 2
    assert [type(await answer.get()) for answer in late] == [Moved] * 3
    assert len(b.messages) == 4


async def test_nothing_is_sent_to_a_node_that_has_ended_the_link(cluster: Cluster) -> None:
    a = await cluster.node("a")
    dialler = Impostor(wire.encode(wire.Welcome(1, "b")), wire.encode(wire.Bye(0)))
    server = await dialler.serve(cluster, "b")
    try:
        first = a.send("b", repeatable=False)
        await eventually(lambda: len(dialler.got) > 1)
        refused = a.send("b").values
        assert [type(answer) for answer in refused] == [Moved]
        dialler.link.close()
        assert type(await first.get()) is Moved
    finally:
        await server.stop()


async def test_what_was_not_even_given_to_the_link_moves(cluster: Cluster) -> None:
    a, b = await cluster.two()
    await a.send("b").get()
    answer = a.send("b", b"gathered", repeatable=False)
    a.links.close()
    assert type(await answer.get()) is Moved
    await b.stop()
    assert len(b.messages) == 1


def other_process() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER_NODE]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_node_that_is_paused(cluster: Cluster) -> None:
    """SIGSTOP: its sockets stay open, and nothing comes."""
    a = await cluster.node("a", options=LinkOptions(silence=2.0))
    process = other_process()
    try:
        assert process.stdout is not None
        cluster.table["b"] = (await asyncio.to_thread(process.stdout.readline)).strip()
        # Before the last thing that comes from it: it is silent from then on.
        begin = time.monotonic()
        assert await retried(a, "b") == b"body"
        os.kill(process.pid, signal.SIGSTOP)
        answer = a.send("b", b"while it stands still")
        assert type(await answer.get()) is Unavailable
        assert time.monotonic() - begin > 1.0
        os.kill(process.pid, signal.SIGCONT)
        assert await retried(a, "b") == b"body"
    finally:
        process.kill()
        process.communicate()


OTHER_NODE = """
import asyncio, sys
from perdure.actors.codec import Codec
from perdure.actors.peers import PeerLinks
from perdure.clock import LoopClock
from perdure.links import LinkServer
from perdure.security import Security

class Answering:
    def arrived(self, message):
        message.answer(message.body)

async def main():
    clock = LoopClock()
    server = LinkServer("127.0.0.1", 0, security=Security(), clock=clock)
    links = PeerLinks("b", clock, Answering(), lambda node: None, Codec(), security=Security())
    links.attach(server)
    await server.start()
    print(server.address, flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "ways", [{Way.THERE}, {Way.BACK}, {Way.THERE, Way.BACK}], ids=["there", "back", "both"]
)
async def test_a_network_that_swallows(cluster: Cluster, ways: set[Way]) -> None:
    a, b = await cluster.two(options=LinkOptions(silence=0.4))
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        assert await a.send("b").get() == b"body"
        proxy.swallowing |= ways
        assert type(await a.send("b").get()) is Unavailable
        proxy.swallowing.clear()
        assert await retried(a, "b") == b"body"


async def test_the_end_that_has_not_noticed_uses_the_new_link(cluster: Cluster) -> None:
    """One end has lost the link and dials anew; what the other sends then must not go into the old one."""
    a = await cluster.node("a", options=LinkOptions(silence=0.4))
    b = await cluster.node("b", options=LinkOptions(silence=3600))
    async with CuttingProxy(b.server.address) as proxy:
        cluster.table["b"] = proxy.address
        await a.send("b").get()
        proxy.swallowing |= {Way.BACK}
        assert type(await a.send("b").get()) is Unavailable
        proxy.swallowing |= {Way.THERE}
        cluster.table["b"] = b.server.address
        assert await retried(a, "b") == b"body"
        assert await b.send("a", b"over the new one").get() == b"over the new one"
