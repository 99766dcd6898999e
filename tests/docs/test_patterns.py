"""docs/patterns: each page's program does what the page says, with time that the test moves, and over HTTP as it is
typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.test_readme import holds
from tests.examples.node_process import NodeProcess

PAGES = sorted((ROOT / "docs" / "patterns").glob("*.md"))

#: For each program the tests of a reader who has it beside them.
TESTS = {
    "chaining": """
from perdure import RuntimeStatus
from chaining import app, chain, report, step


def test_chain(perdure):
    assert perdure.wait(perdure.start(chain, 1)).output == [2, 4, 8]


def test_a_failure_is_reported(perdure):
    reported = perdure.override(report, lambda ctx, problem: None)
    state = perdure.wait(perdure.start(chain, -1))
    assert state.runtime_status is RuntimeStatus.FAILED
    assert len(reported.inputs) == 1 and "only what is positive" in reported.inputs[0]


def test_the_second_step_is_tried_again(perdure):
    answers = iter([2, ConnectionError(), ConnectionError(), 4, 8])

    def sometimes(ctx, value):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    perdure.override(step, sometimes)
    assert perdure.wait(perdure.start(chain, 1)).output == [2, 4, 8]
""",
    "fan_out": """
from perdure import RuntimeStatus
from fan_out import app, fan_out, work


def test_fan_out(perdure):
    assert perdure.wait(perdure.start(fan_out, 100)).output == 10100


def test_when_all_waits_for_all_and_raises_the_first_in_order(perdure):
    def some_fail(ctx, item):
        if item in (2, 4):
            raise ValueError(f"not {item}")
        return item

    done = perdure.override(work, some_fail)
    state = perdure.wait(perdure.start(fan_out, 10))
    assert state.runtime_status is RuntimeStatus.FAILED
    assert "not 2" in state.failure_details.message
    assert done.count == 10
""",
    "bounded_parallelism": """
import asyncio

from bounded_parallelism import app, bounded, work


def test_bounded(perdure):
    assert perdure.wait(perdure.start(bounded, 100)).output == 10100


def test_never_more_than_five(perdure):
    running, most = 0, 0

    async def counted(ctx, item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return item

    perdure.override(work, counted)
    perdure.wait(perdure.start(bounded, 30))
    assert most == 5
""",
    "async_http": """
from async_http import app, report


def test_report(perdure):
    state = perdure.wait(perdure.start(report, 12))
    assert (state.output, state.custom_status) == (7800, "month 12 of 12")
""",
    "monitor": """
from perdure import RuntimeStatus
from monitor import Job, app, is_healthy, monitor, report


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
""",
    "external_events": """
from external_events import Order, app, ask_for_approval, first_answer, purchase


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
""",
    "compensation": """
from compensation import Order, app, charge, refund, release, reserve, saga, ship


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
""",
}

#: Each file of tests has an app of its own.
FIXTURE = """

import pytest


@pytest.fixture
def perdure_app():
    return app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the program of every page."""
    for page in PAGES:
        programs = [block for block in blocks(page) if block.info.startswith("python ")]
        assert len(programs) == 1, f"{page.name}: one complete program"
        (tmp_path / programs[0].info.removeprefix("python ")).write_text(programs[0].text)
    return tmp_path


def test_every_pattern_does_what_its_page_says(folder: Path) -> None:
    assert {path.stem for path in folder.glob("*.py")} == set(TESTS)
    for name, tests in TESTS.items():
        (folder / f"test_{name}.py").write_text(tests + FIXTURE)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_listed() -> None:
    overview = (ROOT / "docs" / "patterns.md").read_text()
    assert [page.name for page in PAGES if f"(patterns/{page.name})" not in overview] == []


def test_the_http_api_answers_as_the_page_says(folder: Path) -> None:
    shown = blocks(ROOT / "docs" / "patterns" / "async-http.md")
    node = NodeProcess("async_http.py:app", folder)
    node.start()
    try:
        started, asked, waited = (
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
            for block in shown
            if block.info == "sh http"
        )
    finally:
        node.kill()
    (head,) = (block.text for block in shown if block.info == "text http")
    assert sorted(line.strip().lower() for line in started.splitlines()) == sorted(head.lower().splitlines())
    assert json.loads(asked)["instanceID"] == "job-1"
    (end,) = (block.text for block in shown if block.info == "json http")
    assert holds(json.loads(end), json.loads(waited)), waited
