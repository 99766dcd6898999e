"""SIGTERM, for a process that is the first of its container."""

from __future__ import annotations

import os
import signal
from types import FrameType

#: What a shell says of a process that SIGTERM ended.
TERMINATED = 128 + signal.SIGTERM


def end_on_sigterm() -> None:
    """Until something better is installed, SIGTERM ends this process at once, as it ends any other.

    The kernel drops signals that process 1 of a container has no handler for. Without this one, a node that is told to
    stop while it starts (it waits up to a minute for its store) would not hear it, and be killed at the end of its
    grace period.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(TERMINATED)
