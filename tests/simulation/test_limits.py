"""Limits hold whatever happens; and bugs that would break them are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from perdure.placement.limits import Limits, Pool
from perdure.placement.shares import Holder, Shares
from perdure.statestore.contract import Snapshot
from perdure.workflow import slots
from perdure.workflow.admission import Admission
from perdure.workflow.lanes import Lanes
from perdure.workflow.requests import Release
from perdure.workflow.slots import SlotsBehaviour
from perdure.workflow.work import Work
from tests.simulation.limits import NARROW, SCARCE, starts_of, uses_of
from tests.simulation.run import Failed, simulate

Patch = pytest.MonkeyPatch
#: Seeds within which each must be found.
SEEDS = 250


def test_what_may_run_does_run() -> None:
    """The limit is reached, and is not undercut by too much caution."""
    assert max(uses_of(simulate(seed, "limits").loop).most for seed in range(5)) == SCARCE
    assert max(starts_of(simulate(seed, "slots").loop).most for seed in range(5)) == NARROW


# --- bugs ----------------------------------------------------------------------------------------------------------------


def a_new_leader_knows_of_no_shares(patch: Patch) -> None:
    """So it gives them out a second time."""
    patch.setattr(Limits, "_budget", lambda self, pool, now: pool.most)


def a_silent_nodes_share_is_given_away_at_once(patch: Patch) -> None:
    changed = Limits.changed

    def forget(self: Limits, members: Mapping[str, Any], residents: Any, now: float) -> None:
        for node in list(self._nodes):
            if node not in members:
                del self._nodes[node]
        changed(self, members, residents, now)

    patch.setattr(Limits, "changed", forget)


def a_share_never_ends(patch: Patch) -> None:
    patch.setattr(Holder, "until", property(lambda self: float("inf")))
    given = Holder.given

    def keep(self: Holder, shares: Shares, at: float, now: float) -> bool:
        return given(self, shares, at, at)

    patch.setattr(Holder, "given", keep)


def a_share_is_taken_before_it_is_given_up(patch: Patch) -> None:
    give = Limits._give

    def hasty(self: Limits, node: str, key: Pool, part: Any, amount: int, now: float) -> None:
        part.ceiling = 0
        give(self, node, key, part, amount, now)

    patch.setattr(Limits, "_give", hasty)


def the_limit_of_one_node_is_ignored(patch: Patch) -> None:
    add = Lanes.add

    def unlimited(self: Lanes[Any], name: str, pool: Any, limit: int | None) -> Any:
        return add(self, name, pool, None)

    patch.setattr(Lanes, "add", unlimited)


def a_share_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(Lanes, "_open", lambda self, lane: lane.running < lane.limit)


def a_slot_is_forgotten(patch: Patch) -> None:
    """When the slots move."""
    restore = SlotsBehaviour.restore

    def forgetful(self: SlotsBehaviour, snapshot: Snapshot | None) -> None:
        restore(self, None)

    patch.setattr(SlotsBehaviour, "restore", forgetful)


def a_late_release_takes_a_slot_away(patch: Patch) -> None:
    release = SlotsBehaviour._release

    def careless(self: SlotsBehaviour, body: Release, *rest: Any) -> None:
        release(self, msgspec.structs.replace(body, ask=10**9), *rest)

    patch.setattr(SlotsBehaviour, "_release", careless)


def a_slot_is_never_given_back(patch: Patch) -> None:
    patch.setattr(Work, "give_slot_back", lambda self: None)
    patch.setattr(slots, "AUDIT", 10**9)


def what_started_elsewhere_is_not_counted(patch: Patch) -> None:
    patch.setattr(Admission, "_found", lambda self, row: None)
    patch.setattr(Admission, "_started", lambda self, actor, meta: None)


BUGS: list[tuple[Callable[[Patch], None], str, str]] = [
    (a_new_leader_knows_of_no_shares, "shares", "too many run in the cluster"),
    (a_silent_nodes_share_is_given_away_at_once, "silence", "too many run in the cluster"),
    (a_share_never_ends, "silence", "too many run in the cluster"),
    (a_share_is_taken_before_it_is_given_up, "limits", "too many run in the cluster"),
    (the_limit_of_one_node_is_ignored, "limits", "too many run on one node"),
    (a_share_is_not_looked_at, "limits", "too many run in the cluster"),
    (a_slot_is_forgotten, "slots", "too many are under way in the cluster"),
    (a_late_release_takes_a_slot_away, "slots", "too many are under way in the cluster"),
    (a_slot_is_never_given_back, "slots", "after the last fault"),
    (what_started_elsewhere_is_not_counted, "slots", "too many are under way on one node"),
]


@pytest.mark.parametrize(("plant", "scenario", "words"), BUGS, ids=[bug[0].__name__ for bug in BUGS])
def test_found(plant: Callable[[Patch], None], scenario: str, words: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    told = []
    for seed in range(SEEDS):
        try:
            simulate(seed, scenario)
        except Failed as failed:
            told.append(str(failed).splitlines()[-2])
            if words in told[-1]:
                return
    pytest.fail(f"not found in {SEEDS} seeds of {scenario}; found instead: {told[:5]}")
