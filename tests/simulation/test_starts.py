"""Bugs that would begin an instance early, never, or twice are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perdure.workflow import ending, starting
from perdure.workflow.instance import Instance
from perdure.workflow.orchestrator import WorkflowBehaviour
from perdure.workflow.receipts import Receipts
from perdure.workflow.work import HANDLERS, Work
from tests.simulation.run import Failed, simulate

Patch = pytest.MonkeyPatch
#: Seeds within which each must be found.
SEEDS = 100


def an_event_begins_what_is_for_later(patch: Patch) -> None:
    wants_code = WorkflowBehaviour.wants_code

    def eager(self: WorkflowBehaviour, instance: Instance) -> bool:
        if instance.meta.early and self.activation.mailbox:
            instance.meta.early = False
        return wants_code(self, instance)

    patch.setattr(WorkflowBehaviour, "wants_code", eager)


def a_scheduled_start_has_no_reminder(patch: Patch) -> None:
    start = starting.start

    def forgetful(work: Work, message: object) -> None:
        start(work, message)  # type: ignore[arg-type]
        work.commit.reminders = ()

    patch.setitem(HANDLERS, starting.Start, forgetful)


def keys_are_lost_with_a_reset(patch: Patch) -> None:
    reset = Work.reset

    def losing(self: Work, new: Instance, old: Instance) -> None:
        reset(self, new, old)
        new.receipts = None

    patch.setattr(Work, "reset", losing)


def a_known_key_starts_again(patch: Patch) -> None:
    patch.setattr(Receipts, "start", lambda self, *rest: False)


def an_event_with_a_known_id_is_taken_again(patch: Patch) -> None:
    patch.setattr(Receipts, "event", lambda self, *rest: False)


def what_is_replaced_leaves_its_timers(patch: Patch) -> None:
    finish = ending.finish

    def untidy(work: Work, *rest: Any) -> None:
        finish(work, *rest)
        work.commit.clear_reminders = False

    patch.setattr(starting.ending, "finish", untidy)
    patch.setattr(Work, "reset", _reset_but_reminders)


def _reset_but_reminders(self: Work, new: Instance, old: Instance) -> None:
    _RESET(self, new, old)
    self.commit.clear_reminders = False


_RESET = Work.reset


@pytest.mark.parametrize(
    "bug",
    [
        an_event_begins_what_is_for_later,
        a_scheduled_start_has_no_reminder,
        keys_are_lost_with_a_reset,
        a_known_key_starts_again,
        an_event_with_a_known_id_is_taken_again,
        what_is_replaced_leaves_its_timers,
    ],
)
def test_bug_is_found(bug: Callable[[Patch], None], monkeypatch: Patch) -> None:
    bug(monkeypatch)
    with pytest.raises(Failed):
        _simulate()


def _simulate() -> None:
    for seed in range(SEEDS):
        simulate(seed, "starts")
