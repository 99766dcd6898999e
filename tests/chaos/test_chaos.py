"""A short fault run on each store; the long one is a command of its own (see docs/guarantees.md)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.run import Options, run

#: Seconds of faults; with start, mending and checks a run takes about twice that.
SECONDS = float(os.environ.get("PERDURE_CHAOS_SECONDS", "25"))
#: Another seed each time finds more; this one can be repeated.
SEED = int(os.environ.get("PERDURE_CHAOS_SEED", "20"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("store", "placement"), [("redis", 2), ("postgres", 0)])
async def test_nothing_acknowledged_is_lost(
    store: str, placement: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("chaos")
    said: list[str] = []
    options = Options(store=store, seconds=SECONDS, seed=SEED, placement=placement)
    report = await run(options, folder, said.append)
    assert not report.wrong, "\n".join([*report.wrong[:20], f"records in {folder}", *said])
    # It was a run worth the name.
    assert report.faults.total() >= SECONDS / 4
    assert report.counts["instances"] >= 20
    assert report.counts["increments"] >= 20
    assert report.commits >= 200
