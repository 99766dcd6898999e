"""Code that hangs or kills its process: it is set aside alone, and everything else goes on."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import WORKFLOWS, NodeProcess

#: Deaths after which something is set aside, and the death that nothing was known of before.
DEATHS = 3 + 1
#: How often a process may be started again: on a busy machine one may be ended although nothing but the machine is slow.
RESTARTS = DEATHS + 4


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    process = NodeProcess("poison", tmp_path)
    yield process
    process.kill()


def arm(node: NodeProcess) -> None:
    (node.folder / "poison").touch()


def disarm(node: NodeProcess) -> None:
    (node.folder / "poison").unlink()


def begin_innocents(node: NodeProcess) -> None:
    for number in range(25):
        node.begin("innocent", f"before-{number}", number)
        node.begin("waiting", f"waiting-{number}", number)


def check_innocents(node: NodeProcess) -> None:
    """Those that were there before, and others that come after."""
    for number in range(50):
        node.begin("innocent", f"after-{number}", number)
    for number in range(25):
        node.call("POST", f"{WORKFLOWS}/waiting-{number}/raiseEvent/go", None)
    for number in range(25):
        assert node.output(f"before-{number}") == number + 2
        assert node.output(f"waiting-{number}") == number + 1
    for number in range(50):
        assert node.output(f"after-{number}") == number + 2


def only_stalled(node: NodeProcess) -> list[str]:
    page = node.call("GET", f"{WORKFLOWS}?status=stalled,failed")
    return [state["instanceID"] for state in page["instances"]]


def check_deaths(node: NodeProcess, status: int) -> None:
    """It took no more deaths than it must, and none at all if `status` is 0."""
    assert node.statuses.count(3) <= DEATHS
    assert set(node.statuses) <= {status, 70}
    assert len(node.statuses) < (RESTARTS if status else 2)


@pytest.mark.parametrize(
    ("workflow", "restarts", "status", "reason"),
    [
        ("spins", 0, 0, "held the event loop"),
        ("blocks", DEATHS, 70, "died 3 times in a row while this workflow's code ran"),
        ("ends", DEATHS, 3, "died 3 times in a row while this workflow's code ran"),
    ],
)
def test_workflow_code(node: NodeProcess, workflow: str, restarts: int, status: int, reason: str) -> None:
    arm(node)
    with node.supervised(restarts=RESTARTS):
        begin_innocents(node)
        node.begin(workflow, "poison")
        state = node.until_status("poison", "STALLED")
        assert reason in state["reason"]
        check_deaths(node, status if restarts else 0)
        if status == 70:
            # The last words of the process say whose code it was, and what to do.
            (last, *_) = [line for line in node.log.read_text().splitlines() if "loop.stuck" in line]
            assert f"function={workflow} at=" in last
            assert re.search(r"poison\.py:\d+ exit_status=70 advice=.*belongs in an activity", last)
        check_innocents(node)
        assert only_stalled(node) == ["poison"]

        # What has been quarantined keeps no node from starting, and hurts none.
        disarm(node)
        starts = node.starts
        node.signal(signal.SIGKILL)
        node.until(lambda: node.starts > starts and node.ready(), "the node serves again")
        # One that was interrupted is tried again by each process; one that killed its process is not.
        if restarts:
            assert node.runtime_status("poison") == "STALLED"
            node.call("POST", f"{WORKFLOWS}/poison/resume")
        assert node.output("poison") == "harmless"


def test_code_that_dies_in_replay(node: NodeProcess) -> None:
    """New code is deployed that cannot be replayed without harm. A timer wakes it."""
    node.start()
    begin_innocents(node)
    node.begin("ends_in_replay", "poison")
    assert node.stop() == 0
    arm(node)
    with node.supervised(restarts=RESTARTS):
        state = node.until_status("poison", "STALLED")
        assert "died 3 times in a row" in state["reason"]
        # The last process released its partitions: the first death of these is not counted as one.
        check_deaths(node, 3)
        check_innocents(node)
        disarm(node)
        node.call("POST", f"{WORKFLOWS}/poison/resume")
        assert node.output("poison") == "harmless"


@pytest.mark.parametrize("activity", ["end_in_thread", "end_on_loop"])
def test_activity_that_ends_the_process(node: NodeProcess, activity: str) -> None:
    arm(node)
    with node.supervised(restarts=RESTARTS):
        begin_innocents(node)
        node.begin("calls", "poison", activity)
        state = node.until_status("poison", "FAILED", "COMPLETED")
        properties = state["properties"]
        assert "CrashedProcess" in properties["dapr.workflow.failure.error_message"], state
        check_deaths(node, 3)
        check_innocents(node)
        assert only_stalled(node) == ["poison"]


def test_long_activities_are_not_taken_for_the_one_that_kills(node: NodeProcess) -> None:
    """Whatever runs whenever the process dies is suspected, and none of it is convicted with the culprit."""
    arm(node)
    with node.supervised(restarts=RESTARTS):
        for number in range(12):
            node.begin("long", f"long-{number}", 0.5)
        node.begin("calls", "poison", "end_on_loop")
        for number in range(12, 24):
            node.begin("long", f"long-{number}", 0.5)
        for number in range(24):
            assert node.output(f"long-{number}") == "done"
        state = node.until_status("poison", "FAILED")
        assert "CrashedProcess" in state["properties"]["dapr.workflow.failure.error_message"]
        check_deaths(node, 3)


def test_activity_that_blocks_the_loop(node: NodeProcess) -> None:
    with node.supervised(restarts=RESTARTS):
        begin_innocents(node)
        node.begin("calls", "poison", "spin")
        state = node.until_status("poison", "FAILED")
        failure: dict[str, Any] = state["properties"]
        assert "LoopBlocked" in failure["dapr.workflow.failure.error_message"]
        assert "held the event loop" in failure["dapr.workflow.failure.error_message"]
        check_innocents(node)
        check_deaths(node, 0)
