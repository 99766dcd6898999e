"""Both ends of links, on both event loops that there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from perdure.clock import LoopClock
from perdure.links import Link, LinkOptions, LinkServer, connect
from perdure.security import Security
from tests.waiting import eventually

PATH = "/test"


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class End:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.link: Link
        self.frames: list[bytes] = []
        self.ends = 0
        #: Called with each frame too.
        self.on_frame: Callable[[bytes], object] = lambda _: None

    def received(self, frame: bytes) -> None:
        assert not self.ends
        self.frames.append(frame)
        self.on_frame(frame)

    def closed(self) -> None:
        self.ends += 1

    async def got(self, count: int) -> list[bytes]:
        await eventually(lambda: len(self.frames) >= count)
        return self.frames

    async def ended(self) -> None:
        await eventually(lambda: self.ends == 1)


class Ends:
    """A server, and links to it."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.far: list[End] = []
        self.servers: list[LinkServer] = []
        self.near: list[End] = []

    async def serve(
        self,
        *,
        security: Security | None = None,
        options: LinkOptions | None = None,
        overtaking: bool = False,
    ) -> LinkServer:
        server = LinkServer(
            "127.0.0.1", 0, security=security or Security(), clock=self.clock, options=options
        )
        server.accept(PATH, self._accept, overtaking=overtaking)
        await server.start()
        self.servers.append(server)
        return server

    def _accept(self, link: Link) -> End:
        end = End()
        end.link = link
        self.far.append(end)
        return end

    async def dial(
        self,
        address: str,
        *,
        path: str = PATH,
        security: Security | None = None,
        options: LinkOptions | None = None,
        overtaking: bool = False,
        timeout: float = 10,  # noqa: ASYNC109 - as `connect`
    ) -> End:
        end = End()
        end.link = await connect(
            address,
            path,
            end,
            security=security or Security(),
            clock=self.clock,
            timeout=timeout,
            overtaking=overtaking,
            options=options,
        )
        self.near.append(end)
        return end

    async def pair(self, **options: Any) -> tuple[End, End]:
        """This end and the other of a new link."""
        server = await self.serve(**options)
        near = await self.dial(server.address, **options)
        await eventually(lambda: bool(self.far))
        return near, self.far[-1]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    yield ends
    for end in ends.near:
        end.link.close()
    for server in ends.servers:
        await server.stop()
    await eventually(lambda: all(end.ends for end in ends.near))
