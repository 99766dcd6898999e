"""A process killed at every one of its writes, before and after it: the outcome is that of an undisturbed run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("programs") / "everything.py"
SHARDS = 3


def _reports(folder: Path, when: str, first: int, step: int) -> list[dict[str, Any]]:
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), when, str(first), str(step)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def _effects(report: dict[str, Any]) -> list[Any]:
    return sorted([name, input] for _, name, input in report["effects"])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_killed_at_every_write(tmp_path: Path, when: str, shard: int) -> None:
    (whole,) = _reports(tmp_path / "undisturbed", "never", 0, 1)
    assert whole["result"]["main"][0] == "completed"
    assert whole["result"]["victim-child"][0] == "terminated"
    reports = _reports(tmp_path / "killed", when, 1 + shard, SHARDS)
    assert len(reports) > 10
    assert [report["lived"] for report in reports] == [False] * (len(reports) - 1) + [True]
    for report in reports:
        at = f"killed {when} write {report['n']}"
        assert report["result"] == whole["result"], at
        assert _effects(report) == _effects(whole), at
        assert not report["wrongly_again"], at
