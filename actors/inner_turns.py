"""Turns inside of a turn: what calls back, directly or through others, an actor whose turn waits for that call.

A reentrant actor's turn gives each call that it waits for a ticket, which goes along with whatever is done for that
call, on any node. A call that comes with the ticket of the innermost turn enters it: it runs on the same object, and
its changes are added to those of the turns around it. As it runs nobody else's code of this actor may change
anything, the waiting turn's own tasks included.

INVARIANT: a ticket is that of one call of one run of one turn. Who comes with one that is not known any more is late:
what it was part of is over, and nobody waits for it there.
"""

from __future__ import annotations

import asyncio

from perdure.actors.messages import Message
from perdure.actors.user_turn import UserTurn
from perdure.statestore.contract import ActorId


def ticket_of(message: Message, actor: ActorId) -> str:
    """The ticket that a message has for this actor: that of the innermost of its turns; "" when it has none."""
    for index in range(len(message.chain) - 1, -1, -1):
        if message.chain[index] == actor:
            return message.tickets[index] if index < len(message.tickets) else ""
    return ""


class InnerTurns:
    """Those of one activation. Plain memory: whoever uses it runs the turns."""

    __slots__ = ("commit", "spoiled", "turns", "waiting")

    def __init__(self) -> None:
        #: The innermost last; without the turn around them all.
        self.turns: list[UserTurn] = []
        #: Messages with a known ticket whose time has not come, as another one is inside.
        self.waiting: list[Message] = []
        #: Done when the changes are stored that are on their way there; None: there are none.
        self.commit: asyncio.Future[None] | None = None
        #: Whether one has failed, and left an object behind of which nobody knows what it has in its attributes.
        self.spoiled = False

    def committed(self) -> None:
        """The changes are stored, or never will be."""
        commit, self.commit = self.commit, None
        if commit is not None and not commit.done():
            commit.set_result(None)

    def innermost(self, outer: UserTurn) -> UserTurn:
        return self.turns[-1] if self.turns else outer

    def knows(self, outer: UserTurn | None, ticket: str) -> bool:
        if outer is None:
            return False
        return outer.ticket == ticket or any(turn.ticket == ticket for turn in self.turns)

    def next(self, actor: ActorId, outer: UserTurn) -> Message | None:
        """A waiting message whose time has come."""
        ticket = self.innermost(outer).ticket
        if not ticket:
            return None
        for index, message in enumerate(self.waiting):
            if ticket_of(message, actor) == ticket:
                return self.waiting.pop(index)
        return None

    def inside(self, turn: UserTurn) -> list[UserTurn]:
        """The turns inside of this one, the innermost first."""
        first = self.turns.index(turn) + 1 if turn in self.turns else 0
        return self.turns[first:][::-1]

    def late(self, actor: ActorId, outer: UserTurn) -> list[Message]:
        """Takes out the messages whose tickets are not known any more."""
        waiting, self.waiting = self.waiting, []
        late: list[Message] = []
        for message in waiting:
            known = self.knows(outer, ticket_of(message, actor))
            (self.waiting if known else late).append(message)
        return late

    def clear(self) -> tuple[list[UserTurn], list[Message]]:
        """Takes out everything: the turns around them all are over."""
        turns, self.turns = self.turns, []
        waiting, self.waiting = self.waiting, []
        self.spoiled = False
        return turns[::-1], waiting
