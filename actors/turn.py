"""A turn: what one activation decided, on its way through one commit."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from perdure.actors.messages import Answer, Message
from perdure.statestore.contract import Commit, Snapshot

#: A function and its arguments, to call after the commit.
Effect = tuple[Callable[..., object], tuple[Any, ...]]


class Turn:
    """Filled by a behaviour, committed by its activation. Effects and answers leave only after the commit."""

    __slots__ = ("answers", "commit", "effects", "messages")

    def __init__(self, commit: Commit, messages: list[Message]) -> None:
        #: `put`, `delete` and so on are the behaviour's to fill; identity, fence and versions are set.
        self.commit = commit
        #: The messages that this turn consumed. They are handled again when the commit does not pass.
        self.messages = messages
        self.effects: list[Effect] = []
        self.answers: list[tuple[Answer, Any]] = []

    @property
    def changes(self) -> bool:
        """Whether there is anything to write."""
        commit = self.commit
        return bool(
            commit.put
            or commit.delete
            or commit.reset
            or commit.reminders
            or commit.delete_reminders
            or commit.clear_reminders
            or commit.recover is not None
            or commit.row is not None
            or commit.delete_row
        )


class Behaviour(Protocol):
    """What an actor type does with one activation's messages. Owned by one `Activation`, used on its loop only.

    Its memory follows the store: `restore` sets it from a snapshot, a turn may change it at once, and whenever a
    turn's commit does not pass the activation restores it again, so nothing has to be undone by hand.
    """

    def restore(self, snapshot: Snapshot | None) -> None:
        """Forgets everything and begins from this state; None: the actor has none. `CorruptState` when it cannot be
        read: every message is then refused with that error."""

    def step(self) -> Turn | Coroutine[Any, Any, Turn | None] | None:
        """Called when the activation is ready and there may be something to do: takes what it will of the
        activation's mailbox and returns the turn, a coroutine that makes one, or None when there is nothing to do
        before the next message or `Activation.wake`. An exception discards the activation's memory."""

    def committed(self, turn: Turn) -> None:
        """The turn is durable. Called before its effects and answers go out."""

    def rejected(self, turn: Turn, reason: str) -> None:
        """The store will never take the turn's commit. `restore` was just called; the turn's messages are in the
        mailbox again, unless this answers and removes them."""

    def evictable(self) -> bool:
        """Whether nothing but what the store holds would be lost with this activation now."""

    def close(self) -> None:
        """The activation is gone."""
