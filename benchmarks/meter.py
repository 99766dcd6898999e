"""Wall time, CPU time, percentiles, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Meter:
    """Wall and CPU time of a block, in seconds; CPU is that of the whole process with all of its threads."""

    wall = 0.0
    cpu = 0.0

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered) + 0.5) - 1))]


def latency_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 of durations."""
    return {"p50 ms": percentile(seconds, 0.50) * 1000, "p99 ms": percentile(seconds, 0.99) * 1000}


def memory_mb(pid: int | str = "self") -> float:
    """Resident memory of a process, in MB (Linux; 0 elsewhere)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
