"""Messages between two nodes: `python -m benchmarks.peers [--seconds N]`.

Two processes on loopback, so two cores. The yardstick is aiohttp's own WebSocket, each message a frame of its own;
beside it the links that nodes use, and on top of these the messages of actors with their answers.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import uvloop
from aiohttp import web

from perdure.actors.codec import Codec
from perdure.actors.messages import Answer, Identity, Message
from perdure.actors.peers import PeerLinks
from perdure.clock import LoopClock
from perdure.links import Link, LinkServer, Receiver, connect
from perdure.payload import Payload
from perdure.security import Security
from perdure.statestore.contract import ActorId

#: Bytes of one small message.
SMALL = bytes(100)
#: Requests under way at a time, where throughput is measured.
IN_FLIGHT = 512

SECURITY = Security()

T = TypeVar("T")

#: Starts one request; the argument is called with the answer.
Ask = Callable[[Answer], None]


# --- the process that answers ----------------------------------------------------------------------------------------


class Echo:
    """Sends back what comes."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def received(self, frame: bytes) -> None:
        self._link.send(frame)

    def closed(self) -> None: ...


class Answering:
    def arrived(self, message: Message) -> None:
        message.answer(message.body)


async def raw_echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False, max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data)
    return socket


async def serve() -> None:
    clock = LoopClock()
    server = LinkServer("127.0.0.1", 0, security=SECURITY, clock=clock)
    server.accept("/echo", Echo)
    peers = PeerLinks("server", clock, Answering(), lambda _: None, Codec(), security=SECURITY)
    peers.attach(server)
    await server.start()
    app = web.Application()
    app.router.add_get("/", raw_echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    print(server.address, port, flush=True)
    # Until the other process closes the pipe, or dies.
    await asyncio.to_thread(sys.stdin.read)


# --- the process that asks -------------------------------------------------------------------------------------------


class Returns:
    """Gives what comes back to whoever asked, in order."""

    def __init__(self) -> None:
        self.waiting: list[Answer] = []
        self.at = 0

    def received(self, frame: bytes) -> None:
        waiter = self.waiting[self.at]
        self.at += 1
        if self.at == 10_000:
            del self.waiting[: self.at]
            self.at = 0
        waiter(frame)

    def closed(self) -> None: ...


async def per_second(ask: Ask, seconds: float, in_flight: int) -> tuple[float, float]:
    """Answers per second with so many requests under way, and the CPU time that one costs the process that asks, in
    microseconds: that says more on a machine that has other things to do. The first half second does not count."""
    done = asyncio.get_running_loop().create_future()
    begin = time.perf_counter() + 0.5
    end = begin + seconds
    count = 0
    cpu = 0.0

    def answered(answer: Any) -> None:
        nonlocal count, cpu
        if isinstance(answer, BaseException):
            raise answer
        now = time.perf_counter()
        if now >= end:
            if not done.done():
                cpu = time.process_time() - cpu
                done.set_result(None)
            return
        if now >= begin:
            if not count:
                cpu = time.process_time()
            count += 1
        ask(answered)

    for _ in range(in_flight):
        ask(answered)
    await done
    # What is still under way comes home before the next measurement begins.
    await asyncio.sleep(0.2)
    return count / seconds, cpu / max(count, 1) * 1e6


async def latency(ask: Ask, seconds: float) -> float:
    """Microseconds from a request to its answer when nothing else is under way: the median."""
    taken: list[float] = []
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        answer: asyncio.Future[Any] = loop.create_future()
        ask(answer.set_result)
        await answer
        taken.append(time.perf_counter() - begin)
    taken.sort()
    return taken[len(taken) // 2] * 1e6


async def raw(address: str, measure: Callable[[Ask], Awaitable[T]]) -> T:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, compress=0, max_msg_size=0) as ws,
    ):
        returns = Returns()
        pending: asyncio.Queue[None] = asyncio.Queue()

        async def write() -> None:
            while True:
                await pending.get()
                await ws.send_bytes(SMALL)

        async def read() -> None:
            async for message in ws:
                returns.received(message.data)

        def ask(answered: Answer) -> None:
            returns.waiting.append(answered)
            pending.put_nowait(None)

        tasks = [asyncio.create_task(write()), asyncio.create_task(read())]
        try:
            return await measure(ask)
        finally:
            for task in tasks:
                task.cancel()


async def links(address: str, measure: Callable[[Ask], Awaitable[T]]) -> T:
    returns: Returns = Returns()
    receiver: Receiver = returns
    link = await connect(address, "/echo", receiver, security=SECURITY, clock=LoopClock())

    def ask(answered: Answer) -> None:
        returns.waiting.append(answered)
        link.send(SMALL)

    try:
        return await measure(ask)
    finally:
        link.close()


async def messages(address: str, measure: Callable[[Ask], Awaitable[T]]) -> T:
    peers = PeerLinks("client", LoopClock(), Answering(), lambda _: address, Codec(), security=SECURITY)
    identity = Identity("edge-0123456789abcdef", 12345, 12300)
    body: Payload = SMALL

    def ask(answered: Answer) -> None:
        deadline = time.monotonic() + 60
        target = ActorId("Counter", "counter-0001")
        peers.send("server", Message(target, "increment", body, answered, identity, deadline=deadline))

    try:
        return await measure(ask)
    finally:
        peers.close()


async def run(address: str, raw_port: int, seconds: float) -> None:
    raw_address = f"http://127.0.0.1:{raw_port}/"
    rows: list[tuple[str, float, float, float]] = []
    for name, subject, where in (
        ("aiohttp WebSocket, frames", raw, raw_address),
        ("links, frames", links, address),
        ("peer links, messages", messages, address),
    ):
        rate, cpu = await subject(where, lambda ask: per_second(ask, seconds, IN_FLIGHT))
        delay = await subject(where, lambda ask: latency(ask, seconds / 2))
        rows.append((name, rate, cpu, delay))
    print(
        f"Round trips of {len(SMALL)} bytes between two processes, {IN_FLIGHT} under way; latency with one:"
    )
    for name, rate, cpu, delay in rows:
        print(
            f"{name:28} {rate:9,.0f} /s  {rate / rows[0][1]:5.2f} of the WebSocket's  "
            f"{cpu:5.1f} us CPU  p50 {delay:6.0f} us"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    command = [sys.executable, "-m", "benchmarks.peers", "--serve"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        try:
            address, port = server.stdout.readline().split()
            uvloop.run(run(address, int(port), options.seconds))
        finally:
            server.stdin.close()


if __name__ == "__main__":
    main()
