"""Single: one primary, at a fixed address or where sentinels say it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

from perdure.errors import PerdureError
from perdure.logs import fields
from perdure.statestore.contract import Finding
from perdure.statestore.redis.acknowledged import Acknowledged, Mark
from perdure.statestore.redis.durability import Durability
from perdure.statestore.redis.link import Reply
from perdure.statestore.redis.place import Place
from perdure.statestore.redis.server import Road, Server
from perdure.statestore.redis.session import Login, Session

logger = logging.getLogger("perdure.statestore.redis")

#: Seconds between looks whether the primary still is the one that it was.
LOOK_SECONDS = 1.0


_command = itemgetter(1)


class Single:
    """All slots are on one server."""

    cluster = False
    together = True

    def __init__(
        self,
        login: Login,
        place: Place,
        *,
        lost: Callable[[str], None],
        durability: Durability,
    ) -> None:
        """`lost` is called before any answer of a server that may have lost what was acknowledged."""
        self.started = False
        self.durability = durability
        self._place = place
        self._lost = lost
        self._server = Server(self, login, place.find)
        self._history: tuple[str, str] | None = None
        self._acknowledged = Acknowledged()
        self._admitting = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="redis watch")

    async def run(
        self, road: Road, calls: Iterable[tuple[int, bytes]], *, durable: bool = False
    ) -> list[Reply]:
        """The answers to commands, each given with its slot. See `Server.run`."""
        return await self._server.run(road, map(_command, calls), durable=durable)

    def slots(self) -> Sequence[tuple[int, int]]:
        """From which slot to which each server has."""
        return [(0, 16383)]

    async def diagnose(self) -> list[Finding]:
        """What is to be said of the servers."""
        return await self._server.diagnose()

    def unanswered(self, marks: Sequence[Mark]) -> None:
        """Whether these writes are done is not known."""
        self._acknowledged.unanswered(marks)

    def acknowledged(self, marks: Sequence[Mark]) -> None:
        """These writes are done."""
        if marks:
            self._acknowledged.note("", marks)

    async def admit(self, server: Server, session: Session) -> None:
        history = session.facts.history
        async with self._admitting:
            if self._history == history:
                return
            if self._history is not None:
                reason = f"Redis at {session.link.address} was restarted or promoted since the last answer"
                server.abort(reason)
                if await self._acknowledged.stands("", session.link):
                    logger.warning(
                        "Redis was restarted or promoted; nothing is missing",
                        extra=fields(server=str(session.link.address)),
                    )
                else:
                    self._acknowledged.forget("")
                    self._history = history
                    self._lost(reason)
            self._history = history

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._server.close()
        await self._place.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(PerdureError):
                await self._server.look()
                address = await self._place.find()
                if self._server.address not in (None, address):
                    logger.warning("Redis has another primary", extra=fields(server=str(address)))
                    self._server.abort(f"the primary is at {address} now")
