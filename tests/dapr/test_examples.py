"""The programs of Dapr's documentation, run as they are: each in a process and a folder of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "dapr"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
#: Seconds that anything may take on a busy machine.
PATIENCE = 90


def environment(**more: str) -> dict[str, str]:
    ours = ("PERDURE_STORE", "PERDURE_HTTP_PORT", "PERDURE_HOST", "APP_ID", "DAPR_API_TOKEN")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def run(program: str, folder: Path) -> list[str]:
    """The lines that it prints. It has to end by itself, and well."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@contextmanager
def started(program: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that does not end by itself."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / program)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], *wanted: str) -> None:
    """Reads what it prints until all of these words stood in it, in whatever order and on whatever lines.

    A workflow goes on while the main thread prints: which of the two is first, nobody knows.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE
    seen = ""
    for line in process.stdout:
        seen += line
        if all(words in seen for words in wanted):
            return
        assert time.monotonic() < deadline, seen
    raise AssertionError(f"it ended without {wanted!r}: {seen}")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_nothing_but_import_lines_names_perdure(program: Path) -> None:
    """Whoever comes from Dapr changes these and nothing else."""
    code = program.read_text().split('"""', 2)[2] if '"""' in program.read_text() else program.read_text()
    lines = [line for line in code.splitlines() if "perdure" in line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.match(r"(import|from) perdure\.dapr\.", line)] == []


def test_the_long_program_passes_its_own_asserts(tmp_path: Path) -> None:
    text = "\n".join(run("hello_world.py", tmp_path))
    # The workflow goes on while this is printed: it may stand anywhere, also within another line.
    waiting = "========= Waiting for Workflow completion"
    assert waiting in text
    lines = [line for line in text.replace(waiting, "").splitlines() if line]
    assert lines == [
        "==========Start Counter Increase as per Input:==========",
        "Hi Counter!",
        "New counter value is: 1!",
        "New counter value is: 11!",
        "Retry count value is: 0!",
        "Retry count value is: 1! This print statement verifies retry",
        "Appending 1 to child_orchestrator_string!",
        "Appending a to child_orchestrator_string!",
        "Appending a to child_orchestrator_string!",
        "Appending 2 to child_orchestrator_string!",
        "Appending b to child_orchestrator_string!",
        "Appending b to child_orchestrator_string!",
        "Appending 3 to child_orchestrator_string!",
        "Appending c to child_orchestrator_string!",
        "Appending c to child_orchestrator_string!",
        "Get response from hello_world_wf after pause call: SUSPENDED",
        "Get response from hello_world_wf after resume call: RUNNING",
        "New counter value is: 111!",
        "New counter value is: 1111!",
        "Workflow completed! Result: Completed",
        "Instance Successfully Purged",
    ]
    assert (tmp_path / "perdure.db").exists()


def test_task_chaining(tmp_path: Path) -> None:
    lines = run("task_chaining.py", tmp_path)
    assert lines[:4] == [
        "Step 1: Received input: 42.",
        "Step 2: Received input: 43.",
        "Step 3: Received input: 86.",
        "Workflow ended: COMPLETED [43,86,84]",
    ]
    # The second input cannot be added to: the error comes up at the yield, is handled, and raised again.
    assert lines[4] == "Step 1: Received input: not a number."
    assert lines[5].startswith("Executing error handler: ")
    assert "TypeError" in lines[5]
    assert lines[6] == "Workflow ended: FAILED None"


def test_fan_out_and_fan_in(tmp_path: Path) -> None:
    # Threads that print at the same time may mix their line ends.
    text = "\n".join(run("fan_out_fan_in.py", tmp_path))
    begun = [text.index(f"Processing work item: {item}.") for item in range(1, 11)]
    ended = [text.index(f"Work item {item} processed. Result: {item * 2}.") for item in range(1, 11)]
    # All of them began before the first one ended: they ran at the same time.
    assert max(begun) < min(ended)
    assert text.count("Processing") == text.count("processed") == 10
    assert text.endswith("Final result: 110.\nWorkflow ended: COMPLETED")


def test_bounded_parallelism(tmp_path: Path) -> None:
    lines = run("bounded_parallelism.py", tmp_path)
    assert lines[:2] == ["Total: 420.", "Workflow ended: COMPLETED 420"]
    most = re.fullmatch(r"At most (\d+) ran at a time\.", lines[2])
    assert most is not None
    assert 1 < int(most[1]) <= 5


def test_purchase_order(tmp_path: Path) -> None:
    assert run("purchase_order.py", tmp_path) == [
        'Paperclips (100): COMPLETED "Auto-approved"',
        "*** Sending approval request for order: Car (1)",
        "*** Placing order: Car (1)",
        "Car (1): COMPLETED \"Approved by 'Jane Doe'\"",
    ]


def test_compensation(tmp_path: Path) -> None:
    assert run("compensation.py", tmp_path) == [
        "Reserved inventory for order: small-1",
        "Processed payment for order: small-1",
        "Shipped order: small-1",
        "Sent confirmation for order: small-1",
        'small-1: "Order processed successfully: small-1"',
        "Reserved inventory for order: bulky-2",
        "Processed payment for order: bulky-2",
        "Refunded payment: bulky-2",
        "Released inventory reservation: bulky-2",
        'bulky-2: "Order processing failed, compensation applied"',
    ]


def test_a_monitor_that_is_killed_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    with started("monitor.py", tmp_path) as process:
        until(process, "Monitoring.", "Job 'job1'")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with started("monitor.py", tmp_path) as process:
        until(process, "Monitoring since ")
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 0
