"""A seed repeats its run exactly, whatever process it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.run import simulate

ROOT = Path(__file__).parents[2]
CODE = """
from tests.simulation.run import simulate
print(*(simulate(seed, scenario).digest() for seed in range(3) for scenario in ("chaos", "moves", "rollback")))
"""


@pytest.mark.parametrize("scenario", ["network", "kills"])
def test_a_seed_repeats_its_run(scenario: str) -> None:
    assert simulate(5, scenario).digest() == simulate(5, scenario).digest()


def test_seeds_differ() -> None:
    assert simulate(5, "chaos").digest() != simulate(6, "chaos").digest()


def test_no_process_is_like_another_and_all_runs_are() -> None:
    """Neither hashes nor addresses decide anything."""
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1
