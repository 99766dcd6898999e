"""Thousands of runs of the real runtime under faults: none may do what must never happen."""

from __future__ import annotations

import pytest

from tests.simulation.run import simulate
from tests.simulation.scenarios import SCENARIOS

#: Seeds per scenario, and per test, so that they spread over processes.
SEEDS = 100
CHUNK = 50


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_seeds(scenario: str, start: int) -> None:
    for seed in range(start, start + CHUNK):
        simulate(seed, scenario)
