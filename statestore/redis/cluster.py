"""Cluster: many primaries, each with some of the slots, which move between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from perdure.errors import ConfigurationError, PerdureError, StoreUnavailable
from perdure.logs import fields
from perdure.statestore.contract import Finding
from perdure.statestore.redis.acknowledged import Acknowledged, Mark
from perdure.statestore.redis.durability import Durability
from perdure.statestore.redis.errors import code_of
from perdure.statestore.redis.layout import SLOTS
from perdure.statestore.redis.link import Address, Error, Reply, packed
from perdure.statestore.redis.server import Road, Server
from perdure.statestore.redis.session import Login, Session, log_in_only

logger = logging.getLogger("perdure.statestore.redis")

#: Seconds between looks whether each primary still is the one that it was.
LOOK_SECONDS = 1.0
#: Seconds for which commands to a slot that is just moving are tried again, and between two tries.
MOVING_SECONDS = 2.0
MOVING_PAUSE = 0.02
#: Seconds between two readings of the map.
READ_PAUSE = 0.1
#: How often a command follows a slot to another server before it is given up.
HOPS = 8

_SLOTS = packed(b"CLUSTER", b"SLOTS")
_ASKING = packed(b"ASKING")

Call = tuple[int, bytes]


class Node(Server):
    """One primary of the cluster. Its id stays when its address changes."""

    def __init__(self, cluster: Cluster, login: Login, id: str, address: Address) -> None:
        async def locate() -> Address:
            return self.place

        super().__init__(cluster, login, locate)
        self.id = id
        self.place = address


class Cluster:
    """Follows the map of slots: reads it when it starts, when a server says that a slot is elsewhere, and when one
    does not answer.

    A command that a server refused because its slot is elsewhere was not done, and is sent on. So a batch of commits
    goes to all its servers at the same time, and follows slots that move.
    """

    cluster = True
    #: A script may touch one slot only.
    together = False

    def __init__(
        self,
        login: Login,
        seeds: Sequence[Address],
        *,
        lost: Callable[[str], None],
        durability: Durability,
    ) -> None:
        """`lost` is called before any answer of a server that may have lost what was acknowledged."""
        self.started = False
        self.durability = durability
        self._login = login
        self._seeds = list(seeds)
        self._lost = lost
        self._nodes: dict[str, Node] = {}
        #: Who has each slot; None: nobody.
        self._map: list[Node | None] = []
        self._spans: list[tuple[int, int]] = []
        #: The history of each primary that was ever reached. A promoted replica is in none of them.
        self._histories: dict[str, tuple[str, str]] = {}
        self._acknowledged = Acknowledged()
        self._admitting = asyncio.Lock()
        #: Whether the histories of all primaries of the first map are known.
        self._acquainted = False
        self._stale = True
        self._not_before = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        await self._current()
        if not self._acquainted:
            # All of them, so that a server which is met later is known to be new.
            await asyncio.gather(*(node.look() for node in self._nodes.values()))
            self._acquainted = True
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="redis watch")

    def slots(self) -> Sequence[tuple[int, int]]:
        """From which slot to which each server has; some have several such spans."""
        return self._spans

    async def run(self, road: Road, calls: Iterable[Call], *, durable: bool = False) -> list[Reply]:
        """The answers to commands, each given with its slot. See `Server.run`."""
        await self._current()
        todo = list(calls)
        replies: list[Reply] = [None] * len(todo)
        # Which commands go where: to a slot's owner, or just this once to whom its owner named.
        left: dict[Node, list[int]] = {}
        for at, (slot, _) in enumerate(todo):
            left.setdefault(self._owner(slot), []).append(at)
        asking: dict[Node, list[int]] = {}
        until = asyncio.get_running_loop().time() + MOVING_SECONDS
        for _ in range(HOPS * 100):
            parts = [(node, list(ats), False) for node, ats in left.items()]
            parts += [(node, list(ats), True) for node, ats in asking.items()]
            answers = await asyncio.gather(
                *(self._part(road, todo, part, durable) for part in parts), return_exceptions=True
            )
            failure = next((one for one in answers if isinstance(one, BaseException)), None)
            if failure is not None:
                self._stale = True
                raise failure
            left, asking, moving = {}, {}, False
            for (_, ats, _), answer in zip(parts, answers, strict=True):
                assert not isinstance(answer, BaseException)
                for at, reply in zip(ats, answer, strict=True):
                    replies[at] = reply
            elsewhere = [at for _, ats, _ in parts for at in ats if code_of(replies[at]) in _ELSEWHERE]
            if not elsewhere:
                if any(code_of(reply) in ("CLUSTERDOWN", "READONLY") for reply in replies):
                    self._stale = True
                return replies
            if asyncio.get_running_loop().time() > until:
                raise StoreUnavailable(f"Redis: {replies[elsewhere[0]]}")
            for at in elsewhere:
                kind, slot = code_of(replies[at]), todo[at][0]
                if kind == "ASK":
                    asking.setdefault(await self._named(str(replies[at]), self._owner(slot)), []).append(at)
                    continue
                if kind == "MOVED":
                    self._moved(slot, str(replies[at]))
                else:
                    moving = True
                left.setdefault(self._owner(slot), []).append(at)
            if moving:
                await asyncio.sleep(MOVING_PAUSE)
        raise StoreUnavailable("Redis: a slot is moved on and on")

    async def _part(
        self, road: Road, todo: Sequence[Call], part: tuple[Node, list[int], bool], durable: bool
    ) -> list[Reply]:
        node, ats, asking = part
        if not asking:
            return await node.run(road, (todo[at][1] for at in ats), durable=durable)
        commands = (command for at in ats for command in (_ASKING, todo[at][1]))
        return (await node.run(road, commands, durable=durable))[1::2]

    async def diagnose(self) -> list[Finding]:
        """What is to be said of the servers."""
        await self._current()
        nodes = [node for node in self._nodes.values() if node in self._map]
        found = [finding for node in nodes for finding in await node.diagnose()]
        missing = self._map.count(None)
        if missing:
            said = f"{missing} of {SLOTS} slots have no server"
            found.append(Finding("error", "cluster", said, "give them to one: CLUSTER ADDSLOTS"))
        return found

    def unanswered(self, marks: Sequence[Mark]) -> None:
        """Whether these writes are done is not known."""
        self._acknowledged.unanswered(marks)

    def acknowledged(self, marks: Sequence[Mark]) -> None:
        """These writes are done."""
        servers: dict[str, list[Mark]] = {}
        for mark in marks:
            node = self._map[mark.slot]
            if node is not None:
                servers.setdefault(node.id, []).append(mark)
        for id, its in servers.items():
            self._acknowledged.note(id, its)

    async def admit(self, server: Server, session: Session) -> None:
        assert isinstance(server, Node)
        async with self._admitting:
            history, former = session.facts.history, session.facts.former
            before = self._histories.get(server.id)
            if before == history:
                return
            if before is None and (not self._acquainted or not former):
                # A primary that was no replica before is one to which slots are moved; nothing is lost by that.
                self._histories[server.id] = history
                return
            reason = f"Redis at {session.link.address} was restarted or promoted since the last answer"
            server.abort(reason)
            if await self._stands(server.id, former, before is not None, session):
                logger.warning(
                    "Redis was restarted or promoted; nothing is missing",
                    extra=fields(server=str(session.link.address)),
                )
                self._histories[server.id] = history
            else:
                self._acknowledged.forget(server.id)
                self._histories[server.id] = history
                self._lost(reason)

    async def _stands(self, id: str, former: str, known: bool, session: Session) -> bool:
        """Whether a server that has another history has everything that it, or the one whose replica it was, did."""
        primary = next((other for other, (name, _) in self._histories.items() if name == former), None)
        if primary is not None and primary != id:
            self._acknowledged.inherit(id, primary)
        elif not known:
            return False
        return await self._acknowledged.stands(id, session.link)

    async def close(self) -> None:
        self._closed = True
        for task in (self._looking, self._reading):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    # --- the map -----------------------------------------------------------------------------------------------------

    def _owner(self, slot: int) -> Node:
        node = self._map[slot]
        if node is None:
            self._stale = True
            raise StoreUnavailable(f"Redis Cluster: slot {slot} has no server")
        return node

    def _moved(self, slot: int, message: str) -> None:
        """Takes over what a server said of one slot; the rest of the map may have changed as well."""
        self._stale = True
        address = _address(message, self._owner(slot))
        for node in self._nodes.values():
            if node.place == address:
                self._give(slot, node)
                self._map[slot] = node

    def _give(self, slot: int, node: Node) -> None:
        """Notes that a server has a slot with what another one acknowledged there."""
        if self._map and self._map[slot] not in (None, node) and node.id in self._histories:
            self._acknowledged.unsure(node.id)

    async def _named(self, message: str, speaker: Node) -> Node:
        """The server that a refusal names."""
        address = _address(message, speaker)
        for _ in range(2):
            for node in self._nodes.values():
                if node.place == address:
                    return node
            self._stale = True
            await self._current()
        raise StoreUnavailable(f"Redis Cluster: no server at {address} is known")

    async def _current(self) -> None:
        """Returns when the map was read since it was last found to be wrong."""
        while self._stale:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._reading is None:
                self._reading = asyncio.get_running_loop().create_task(self._read(), name="redis map")
            reading = self._reading
            await asyncio.wait([reading])
            if reading.cancelled():
                raise StoreUnavailable("the store is closed")
            reading.result()

    async def _read(self) -> None:
        try:
            # However many ask: a map that does not get better is not read all the time.
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            self._not_before = loop.time() + READ_PAUSE
            reasons: list[str] = []
            wrong: ConfigurationError | None = None
            places = [node.place for node in self._nodes.values()]
            for address in dict.fromkeys([*places, *self._seeds]):
                try:
                    answer = await self._asked(address)
                except ConfigurationError as error:
                    wrong = error
                except StoreUnavailable as error:
                    reasons.append(str(error))
                else:
                    self._stale = False
                    self._take(answer, address)
                    return
            if wrong is not None and not self.started:
                raise wrong
            raise StoreUnavailable(
                "no node of the Redis Cluster answers: " + "; ".join(reasons or [str(wrong)])
            )
        finally:
            self._reading = None

    async def _asked(self, address: Address) -> list[Reply]:
        """CLUSTER SLOTS, as one server has it."""
        link = await log_in_only(address, self._login)
        try:
            (answer,) = await link.ask([_SLOTS])
        finally:
            link.abort("asked")
        if isinstance(answer, Error):
            if "cluster support disabled" in str(answer):
                raise ConfigurationError(f"Redis at {address} is not a node of a cluster: write redis://…")
            raise StoreUnavailable(f"Redis at {address}: {answer}")
        if not answer:
            raise StoreUnavailable(f"Redis at {address} knows of no slots")
        found: list[Reply] = answer
        return found

    def _take(self, answer: Sequence[Reply], asked: Address) -> None:
        map: list[Node | None] = [None] * SLOTS
        seen: set[str] = set()
        for first, last, primary, *_ in answer:
            host = primary[0].decode() if primary[0] else asked.host
            id, place = primary[2].decode(), Address(host, primary[1])
            seen.add(id)
            node = self._nodes.get(id)
            if node is None:
                node = self._nodes[id] = Node(self, self._login, id, place)
            elif node.place != place:
                logger.warning("Redis Cluster: a node has another address", extra=fields(server=str(place)))
                node.place = place
                node.abort("it is at another address now")
            map[first : last + 1] = [node] * (last + 1 - first)
            if self._map:
                for slot in range(first, last + 1):
                    self._give(slot, node)
        for id in set(self._nodes) - seen:
            # It has no slots any more: what it still says is not to be heard.
            self._nodes.pop(id).abort("it has no slots any more")
        self._map = map
        self._spans = [(first, last) for first, last, *_ in answer]

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            nodes = list(self._nodes.values())
            found = await asyncio.gather(*(node.look() for node in nodes), return_exceptions=True)
            if any(found):
                self._stale = True
            with contextlib.suppress(PerdureError):
                await self._current()


#: Refusals of a server that has not, or not yet, or only half, a command's slot. The command was not done.
_ELSEWHERE = frozenset(("MOVED", "ASK", "TRYAGAIN"))


def _address(message: str, speaker: Node) -> Address:
    """Where `MOVED 3999 127.0.0.1:6381` says. Without a host it is that of who says it."""
    host, _, port = message.split(" ")[2].rpartition(":")
    return Address(host.strip("[]") or speaker.place.host, int(port))
