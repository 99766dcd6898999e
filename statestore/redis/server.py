"""Server: what is said to one primary, over lanes that do not wait for each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Protocol

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.logs import fields
from perdure.statestore.contract import Finding
from perdure.statestore.redis import diagnosis, scripts
from perdure.statestore.redis.durability import Durability
from perdure.statestore.redis.errors import code, code_of
from perdure.statestore.redis.lane import Lane
from perdure.statestore.redis.link import Address, Error, Link, Reply, packed
from perdure.statestore.redis.session import (
    REPLICATION,
    Facts,
    Login,
    Session,
    check_policy,
    log_in,
    parsed,
)

logger = logging.getLogger("perdure.statestore.redis")


class Road(IntEnum):
    """Which connection: a batch of commits waits for no long read, and a lease for neither."""

    WRITES = 0
    READS = 1
    LEASES = 2


class Owner(Protocol):
    """Who knows which server is the right one."""

    #: Whether the store was used before: then what is wrong with a server is not the caller's mistake any more.
    started: bool
    durability: Durability
    cluster: bool

    async def admit(self, server: Server, session: Session) -> None:
        """A server was reached anew. Whoever must know that it may have lost something is told before this returns."""


class Server:
    """One primary, wherever `locate` says it is."""

    def __init__(self, owner: Owner, login: Login, locate: Callable[[], Awaitable[Address]]) -> None:
        self._owner = owner
        self._login = login
        self._locate = locate
        self._lanes = [Lane(lambda road=road: self._connect(road)) for road in Road]  # type: ignore[misc]
        #: What the server said to the last connection of each lane.
        self._facts: dict[Road, Facts] = {}
        self._warned: tuple[str, str] | None = None
        #: Where it was last.
        self.address: Address | None = None

    async def run(self, road: Road, calls: Iterable[bytes], *, durable: bool = False) -> list[Reply]:
        """The answers to packed commands, in order; errors that concern single commands are among them as values.
        `durable`: returns when what they wrote is as durable as the store's settings promise. `StoreUnavailable`: no
        answer, or not durable in time."""
        lane = self._lanes[road]
        link = lane.open_link() or await lane.link()
        durability = self._owner.durability
        wait = durability.wait() if durable else None
        sent: list[bytes] = []
        replies = await link.ask(_noted(calls, sent, wait))
        if Error in map(type, replies):
            replies = await self._again(link, sent, replies, wait)
        if wait and replies:
            durability.check(replies.pop())
        return replies

    async def _again(
        self, link: Link, sent: Sequence[bytes], replies: list[Reply], wait: bytes | None
    ) -> list[Reply]:
        """Sends again what met a server without its script: that was not done."""
        missing = [at for at, reply in enumerate(replies) if code_of(reply) == "NOSCRIPT"]
        if missing:
            if wait:
                missing.append(len(replies) - 1)
            answers = await link.ask([*scripts.LOADING, *(sent[at] for at in missing)])
            for at, answer in zip(missing, answers[len(scripts.LOADING) :], strict=True):
                replies[at] = answer
        if any(code_of(reply) == "READONLY" for reply in replies):
            # It is a replica now: the primary has to be looked for.
            self.abort(f"Redis at {link.address} is no primary any more")
        return replies

    async def look(self) -> None:
        """Whether it still is the primary that it was; if not, all its links are cut."""
        lane = self._lanes[Road.LEASES]
        link = await lane.link()
        (answer,) = await link.ask([REPLICATION])
        if isinstance(answer, Error):
            return
        info = parsed(answer)
        known = self._facts[Road.LEASES].history[0]
        if info.get("role") != "master" or info.get("master_replid", "") != known:
            self.abort(f"Redis at {link.address} is not the primary that it was")

    async def diagnose(self) -> list[Finding]:
        """What is to be said of its settings and state."""
        link = await self._lanes[Road.LEASES].link()
        return diagnosis.findings(link.address, *await diagnosis.ask(link), self._owner.durability)

    def abort(self, reason: str) -> None:
        """Breaks all links; who asks next connects anew."""
        for lane in self._lanes:
            lane.abort(reason)

    async def close(self) -> None:
        await asyncio.gather(*(lane.close() for lane in self._lanes))

    # --- connecting --------------------------------------------------------------------------------------------------

    async def _connect(self, road: Road) -> Link:
        address = await self._locate()
        try:
            session = await log_in(address, self._login)
            try:
                await self._prepare(road, session)
            except BaseException:
                session.link.abort("not ready")
                raise
        except ConfigurationError as error:
            if self._owner.started:
                raise StoreUnavailable(str(error)) from error
            raise
        return session.link

    async def _prepare(self, road: Road, session: Session) -> None:
        link, facts = session
        if facts.cluster != self._owner.cluster:
            raise ConfigurationError(
                f"Redis at {link.address} is a node of a cluster: write redis+cluster://…"
                if facts.cluster
                else f"Redis at {link.address} is not a node of a cluster: write redis://…"
            )
        if not facts.primary:
            raise StoreUnavailable(f"Redis at {link.address} is a replica")
        check_policy(facts, link.address)
        await self._owner.durability.check_server(session)
        await self._end_former(road, link, facts)
        for reply in await link.ask(scripts.LOADING):
            if isinstance(reply, Error):
                _refused(reply, link.address)
        if self._warned != facts.history:
            self._warned = facts.history
            finding = diagnosis.persistence(*await diagnosis.ask(link))
            if finding.level != "ok":
                logger.warning(
                    "Redis may lose what it acknowledges",
                    extra=fields(server=str(link.address), reason=finding.said, advice=finding.advice),
                )
        self.address = link.address
        self._facts[road] = facts
        await self._owner.admit(self, session)
        if link.closed is not None:
            raise StoreUnavailable(link.closed)

    async def _end_former(self, road: Road, link: Link, facts: Facts) -> None:
        """Ends this lane's last connection at the server, where it may still be open and hold commands that were
        given up: what was not done by now is never done."""
        former = self._facts.get(road)
        if former is not None and former.client is not None and former.history == facts.history:
            (answer,) = await link.ask([packed(b"CLIENT", b"KILL", b"ID", former.client)])
            if isinstance(answer, Error):
                logger.info(
                    "Redis does not end a connection that was given up", extra=fields(reason=str(answer))
                )


def _noted(calls: Iterable[bytes], sent: list[bytes], wait: bytes | None) -> Iterator[bytes]:
    """The calls, and what waits for their durability, as they are sent."""
    for call in calls:
        sent.append(call)
        yield call
    if wait and sent:
        sent.append(wait)
        yield wait


def _refused(reply: Error, address: Address) -> None:
    message = str(reply)
    if code(message) == "NOPERM":
        raise ConfigurationError(f"Redis at {address} refuses: {message}")
    raise StoreUnavailable(f"Redis at {address}: {message}")
