"""docs/cookbook.md: each recipe does what the page says, with time that the test moves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "cookbook.md"

TESTS = """
from datetime import timedelta

from perdure import RuntimeStatus
import cookbook
from cookbook import agreement, charge, job_state, many, nightly, order, pay, poll, tidy


def test_pay_once(perdure):
    real, tries = cookbook.charge, []

    async def lost(ctx, cents):
        # It is charged each time; the answer of the first two is lost.
        key = await real(ctx, cents)
        tries.append(key)
        if len(tries) < 3:
            raise ConnectionError("the answer was lost")
        return key

    perdure.override(charge, lost)
    key = perdure.wait(perdure.start(pay, 500)).output
    assert tries == [key] * 3
    assert cookbook.charged == {key: 500}


def test_poll(perdure):
    states = iter(["running"] * 12 + ["done"])
    perdure.override(job_state, lambda ctx, job: next(states))
    began = perdure.now
    assert perdure.wait(perdure.start(poll, "job-1")).output == 13
    # 10 s, doubled up to an hour.
    assert perdure.now - began == timedelta(seconds=sum(min(10 * 2**n, 3600) for n in range(12)))
    perdure.override(job_state, lambda ctx, job: "failed")
    assert perdure.wait(perdure.start(poll, "job-2")).runtime_status is RuntimeStatus.FAILED


def test_agreement(perdure):
    def ask(*answers):
        id = perdure.start(agreement, ["ada", "bob"])
        for who, says in answers:
            perdure.raise_event(id, "answer", {"who": who, "says": says})
        return id

    assert perdure.wait(ask(("ada", "yes"), ("bob", "yes"))).output == "agreed"
    assert perdure.wait(ask(("ada", "yes"), ("bob", "no"))).output == "refused by bob"
    late = ask(("ada", "yes"), ("ada", "yes"))
    perdure.advance(days=2)
    assert perdure.state(late).custom_status == {"missing": ["bob"]}
    perdure.advance(days=2)
    assert perdure.state(late).output == "no answer from bob"


def test_many(perdure):
    assert perdure.wait(perdure.start(many, list(range(1, 251)))).output == [50, 100, 150, 200, 250]


def test_nightly(perdure):
    tidied = perdure.override(tidy, lambda ctx, night: None)
    first = perdure.now.timestamp() + 3600
    perdure.start(nightly, {"next": first, "rounds": 0})
    perdure.advance(days=3)
    assert tidied.inputs == [0, 1, 2]


def test_order(perdure):
    id = perdure.start(order, 5)
    perdure.advance(hours=2, minutes=30)
    perdure.raise_event(id, "stop")
    perdure.advance(hours=1)
    assert perdure.state(id).output == "stopped before step 3"
    assert perdure.wait(perdure.start(order, 2)).output == "all steps"
"""


def test_every_recipe_does_what_the_page_says(tmp_path: Path) -> None:
    parts = [block.text for block in blocks(PAGE) if block.info == "python cookbook.py"]
    (tmp_path / "cookbook.py").write_text("\n\n".join(parts))
    (tmp_path / "test_cookbook.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nperdure_app = cookbook:app\npythonpath = .\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            "test_cookbook.py",
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
