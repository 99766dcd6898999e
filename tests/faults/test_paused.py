"""A process that stood still (SIGSTOP, a suspended machine) goes on: that its loop did not run is nobody's doing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.faults.processes import NodeProcess


def test_a_node_that_stood_still_goes_on(tmp_path: Path) -> None:
    node = NodeProcess("load", tmp_path, BLOCKED_AFTER="1", STUCK_AFTER="1")
    node.start()
    try:
        node.begin("chain", "before", 1)
        node.signal(signal.SIGSTOP)
        # It is stood still for longer than a loop may be stuck.
        time.sleep(4)
        node.signal(signal.SIGCONT)
        node.call("POST", "/v1.0/workflows/dapr/before/raiseEvent/go", 0)
        assert node.output("before") == [0, 0]
        assert "loop.stuck" not in node.text()
        assert node.stop() == 0
    finally:
        node.kill()
