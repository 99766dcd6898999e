"""docs/patterns.md: its programs do what the page says, with time that the test moves, and over HTTP as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.examples.node_process import NodeProcess

PAGE = ROOT / "docs" / "patterns.md"

TESTS = """
from datetime import timedelta

import pytest

from perdure import RuntimeStatus, testing
from patterns import (
    Job, Order, app, ask_for_approval, bounded, chain, charge, fan_out, first_answer, is_healthy, monitor, purchase,
    refund, release, report, reserve, saga, ship, step,
)


def test_chain(perdure):
    assert perdure.wait(perdure.start(chain, 1)).output == [2, 4, 8]
    reported = perdure.override(report, lambda ctx, problem: None)
    state = perdure.wait(perdure.start(chain, -1))
    assert state.runtime_status is RuntimeStatus.FAILED
    assert len(reported.inputs) == 1 and "only what is positive" in reported.inputs[0]


def test_fan_out_and_bounded(perdure):
    assert perdure.wait(perdure.start(fan_out, 100)).output == 10100
    assert perdure.wait(perdure.start(bounded, 100)).output == 10100


def test_monitor(perdure):
    health = iter([True, False, False, True, False])
    perdure.override(is_healthy, lambda ctx, job_id: next(health, True))
    reported = perdure.override(report, lambda ctx, problem: None)
    id = perdure.start(monitor, Job("job-1"))
    perdure.advance(minutes=60 + 5 + 5 + 60 + 5 + 1)
    state = perdure.state(id)
    assert (state.runtime_status, state.input["rounds"]) == (RuntimeStatus.RUNNING, 5)
    assert reported.inputs == ["job-1 is not well"] * 2
    perdure.advance(days=7)
    assert perdure.state(id).input["rounds"] == 5 + 7 * 24


def test_purchase(perdure):
    asked = perdure.override(ask_for_approval, lambda ctx, order: None)
    assert perdure.wait(perdure.start(purchase, Order(5, "pen"))).output == "approved automatically"
    id = perdure.start(purchase, Order(5000, "car"))
    perdure.advance(hours=23)
    perdure.raise_event(id, "approval", {"approver": "Jane"})
    assert perdure.wait(id).output == "approved by Jane"
    late = perdure.start(purchase, Order(5000, "car"))
    perdure.advance(hours=25)
    assert perdure.state(late).output == "cancelled"
    assert len(asked.inputs) == 2


def test_first_answer(perdure):
    id = perdure.start(first_answer, ["red", "green"])
    perdure.raise_event(id, "green")
    assert perdure.wait(id).output == "green"


def test_saga(perdure):
    done = []
    for activity in (reserve, release, charge, refund):
        perdure.override(activity, lambda ctx, order, name=activity.__name__: done.append(name))

    def fails(ctx, order):
        raise RuntimeError("no carrier takes it")

    assert perdure.wait(perdure.start(saga, Order(5, "pen"))).output == "shipped"
    done.clear()
    perdure.override(ship, fails)
    assert perdure.wait(perdure.start(saga, Order(5, "pen"))).output == "undone: no carrier takes it"
    assert done == ["reserve", "charge", "refund", "release"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the page's program in `patterns.py`."""
    parts = [block.text for block in blocks(PAGE) if block.info == "python patterns.py"]
    (tmp_path / "patterns.py").write_text("\n\n".join(parts))
    return tmp_path


def test_every_pattern_does_what_the_page_says(folder: Path) -> None:
    (folder / "test_patterns.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nperdure_app = patterns:app\npythonpath = .\n")
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
            "test_patterns.py",
        ],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_http_api_answers_as_the_page_says(folder: Path) -> None:
    node = NodeProcess("patterns.py:app", folder)
    node.start()
    try:
        answers = [
            subprocess.run(
                [
                    "bash",
                    "-euo",
                    "pipefail",
                    "-c",
                    block.text.replace("localhost:3500", f"127.0.0.1:{node.port}"),
                ],
                env=os.environ,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout
            for block in blocks(PAGE)
            if block.info == "sh http"
        ]
    finally:
        node.kill()
    assert "202" in answers[0].splitlines()[0]
    assert "Location: /v1.0/workflows/dapr/job-1" in answers[0]
    assert "Retry-After" in answers[0]
    assert '"runtimeStatus":"COMPLETED"' in answers[1].replace(" ", "")
    assert '"dapr.workflow.output":"110"' in answers[1].replace(" ", "")
