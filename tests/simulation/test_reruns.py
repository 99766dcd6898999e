"""Bugs by which a second run would be another, do again what was done, or be there twice are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.actors.messages import Message
from perdure.workflow import fork, transfer
from perdure.workflow.events import Event, TaskCompleted, TaskFailed, TaskScheduled
from perdure.workflow.metadata import Metadata
from perdure.workflow.requests import Start
from perdure.workflow.work import HANDLERS, Work
from tests.simulation.run import Failed, simulate

Patch = pytest.MonkeyPatch
#: Seeds within which each must be found.
SEEDS = 100


def _kept(patch: Patch, other: Callable[[list[Event], list[Event], int], list[Event]]) -> None:
    """What is kept is what `other` makes of it, given the whole history and the number of the event too."""
    until = fork._until

    def changed(history: list[Event], number: int, input: Any) -> list[Event]:
        return other(until(history, number, input), history, number)

    patch.setattr(fork, "_until", changed)


def what_was_done_is_done_again(patch: Patch) -> None:
    done = (TaskCompleted, TaskFailed)
    _kept(patch, lambda kept, history, number: [each for each in kept if not isinstance(each, done)])


def it_goes_on_from_within_a_turn(patch: Patch) -> None:
    _kept(patch, lambda kept, history, number: history[: number + 1])


def what_came_after_is_kept(patch: Patch) -> None:
    _kept(patch, lambda kept, history, number: history[: min(len(kept) + 1, len(history) - 1)])


def results_are_those_of_another_task(patch: Patch) -> None:
    def mixed(kept: list[Event], history: list[Event], number: int) -> list[Event]:
        results = [each.result for each in kept if isinstance(each, TaskCompleted)]
        return [
            msgspec.structs.replace(each, result=results.pop()) if isinstance(each, TaskCompleted) else each
            for each in kept
        ]

    _kept(patch, mixed)


def what_is_asked_for_anew_is_taken_for_the_first(patch: Patch) -> None:
    """Under the same idempotency key nothing is done anew."""
    replace = msgspec.structs.replace

    def same(event: Any, **changes: Any) -> Any:
        if isinstance(event, TaskScheduled):
            changes["key"] = event.key
        return replace(event, **changes)

    patch.setattr(fork.msgspec.structs, "replace", same)


def timers_have_no_reminder(patch: Patch) -> None:
    restored = transfer.restored

    def forgetful(*arguments: Any) -> transfer.Restored:
        return restored(*arguments)._replace(reminders=[])

    patch.setattr(transfer, "restored", forgetful)


def nothing_is_owed(patch: Patch) -> None:
    restore = transfer.restore

    def forgetful(work: Work, message: Message) -> None:
        restore(work, message)
        work.commit.recover = None

    patch.setattr(transfer, "restore", forgetful)


def a_request_that_comes_twice_is_refused(patch: Patch) -> None:
    restore = transfer.restore

    def strict(work: Work, message: Message) -> None:
        with patch.context() as during:
            during.setattr(Metadata, "knows", lambda *_: False)
            restore(work, message)

    patch.setattr(transfer, "restore", strict)


def one_that_has_ended_gives_way(patch: Patch) -> None:
    start = HANDLERS[Start]

    def lenient(work: Work, message: Message) -> None:
        if message.body.if_exists == "refuse":
            message.body = msgspec.structs.replace(message.body, if_exists="")
        start(work, message)

    patch.setitem(HANDLERS, Start, lenient)


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        (what_was_done_is_done_again, "what is run again has other turns"),
        (it_goes_on_from_within_a_turn, "what is run again has other turns"),
        (what_came_after_is_kept, "what is run again has other turns"),
        (results_are_those_of_another_task, "what was done before is not what it was"),
        (what_is_asked_for_anew_is_taken_for_the_first, "what was done before is not what it was"),
        (timers_have_no_reminder, "after the last fault"),
        (nothing_is_owed, "`recover` is not what is owed"),
        (a_request_that_comes_twice_is_refused, "refused what nobody else asked for"),
        (one_that_has_ended_gives_way, "run again twice under one id"),
    ],
)
def test_bug_is_found(bug: Callable[[Patch], None], words: str, monkeypatch: Patch) -> None:
    bug(monkeypatch)
    with pytest.raises(Failed, match=words):
        _simulate()


def _simulate() -> None:
    for seed in range(SEEDS):
        simulate(seed, "reruns")
