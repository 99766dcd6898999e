"""User actors of a simulation: counters whose every increment has a name."""

from __future__ import annotations

from typing import TypedDict

from perdure.actors.actor import Actor
from perdure.statestore.contract import ActorId
from tests.simulation.ledger import LEDGER
from tests.simulation.loop import PROCESS


class Add(TypedDict):
    #: The increment's name.
    token: str
    #: How long the turn takes.
    seconds: float


class Relay(TypedDict):
    """Have others add, one through the other."""

    token: str
    through: list[str]


class Counter(Actor):
    """Its value is the list of the increments that it has."""

    async def add(self, call: Add) -> int:
        process = PROCESS.get()
        assert process is not None
        LEDGER.get().turn(process, call["token"])
        tokens = await self._tokens()
        if call["seconds"]:
            await _sleep(call["seconds"])
        tokens.append(call["token"])
        self.state.set("tokens", tokens)
        return len(tokens)

    async def read(self) -> list[str]:
        return await self._tokens()

    async def relay(self, call: Relay) -> int:
        """The last of the actors counts; those before it wait for it in their turns."""
        if not call["through"]:
            # Whoever asks may do so again: its turn moved with it, or was lost.
            tokens = await self._tokens()
            return (
                len(tokens)
                if call["token"] in tokens
                else await self.add({"token": call["token"], "seconds": 0})
            )
        first, *rest = call["through"]
        return await self.proxy(Counter, first, timeout=10.0).relay({"token": call["token"], "through": rest})

    async def _tokens(self) -> list[str]:
        found: list[str] = await self.state.get("tokens", list[str], default=[])
        return found


async def _sleep(seconds: float) -> None:
    process = PROCESS.get()
    assert process is not None
    await process.sleep(seconds)


def counter(id: str) -> ActorId:
    return ActorId(Counter.actor_type, id)
