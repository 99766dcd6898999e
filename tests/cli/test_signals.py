"""SIGTERM, for a process that is the first of its container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def test_the_first_process_of_a_container_stops_while_it_waits_for_its_store() -> None:
    command = [
        sys.executable,
        "-m",
        "perdure",
        "placement",
        "--store",
        "redis://127.0.0.1:1",
        "--http-port",
        "0",
    ]
    outer = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *command], stderr=subprocess.PIPE, text=True
    )
    try:
        assert outer.stderr is not None
        line = outer.stderr.readline()
        assert "waits for its store" in line, line
        inner = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(inner[0]), signal.SIGTERM)
        assert outer.wait(30) == 128 + signal.SIGTERM
    finally:
        outer.kill()
        outer.communicate()
