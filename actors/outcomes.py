"""What callers are told of a turn that did not come to its end, or not all of it."""

from __future__ import annotations

from typing import Any

from perdure.actors.messages import Message
from perdure.actors.timers import Timer
from perdure.actors.user_turn import UserTurn
from perdure.errors import ActorMethodFailed, DeadlineExceeded, Moved, OutcomeUnknown, PerdureError
from perdure.statestore.contract import ActorId, Reminder


class Partly:
    """The answer of a call of which a part is stored: whoever asked is not to send it again by himself."""

    __slots__ = ("_answer", "_target")

    def __init__(self, message: Message) -> None:
        self._answer = message.answer
        self._target = message.target

    def __call__(self, answer: Any) -> None:
        self._answer(partly_lost(self._target) if isinstance(answer, Moved) else answer)


def note_saved(turn: UserTurn) -> None:
    turn.saved = True
    message = turn.message
    # Ticks have nobody who sends them again.
    if type(message.answer) is not Partly and type(message.body) not in (Reminder, Timer):
        message.answer = Partly(message)


def partly_lost(target: ActorId) -> OutcomeUnknown:
    return OutcomeUnknown(f"{target} was lost in a call of which a part was saved")


def lost(turn: UserTurn) -> PerdureError:
    """What the caller is told when its turn became void."""
    if turn.saved or turn.saving:
        return partly_lost(turn.message.target)
    return Moved()


def lost_inside(turn: UserTurn) -> PerdureError:
    """The same of a turn inside of another. It is not sent again: the turn around it may be waiting for its caller."""
    if turn.saved or turn.saving:
        return OutcomeUnknown(
            f"{turn.message.target} went on in the middle of a call of which a part was saved"
        )
    return late(turn.message)


def late(message: Message) -> PerdureError:
    return DeadlineExceeded(
        f"{message.target}: the call that {message.method!r} is part of is over; it changed nothing"
    )


def cancel(turn: UserTurn, answer: PerdureError) -> None:
    """Its code sees a cancellation, and its caller what came of it."""
    turn.running = None
    if turn.task is not None:
        turn.task.cancel()
    turn.message.answer(answer)


def failure(kind: str, method: str, error: BaseException) -> ActorMethodFailed:
    name, text = type(error).__name__, str(error)
    return ActorMethodFailed(
        f"{kind}.{method} raised {name}: {text}" if text else f"{kind}.{method} raised {name}",
        error_type=name,
        error_message=text,
    )
