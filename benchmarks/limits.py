"""What the machine itself can do, measured in the same run: no durable engine on it can do more."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.meter import latency_ms
from benchmarks.result import Figures, Row

#: The size of one row, close to that of a small history event with its payload.
ROW = bytes(120)


def limits(folder: Path, seconds: float) -> list[Row]:
    """fdatasync, and SQLite commits as Perdure's store makes them: WAL, synchronous=FULL."""
    rows = [Row("Machine", "fdatasync after appending 512 B", _appends(folder / "append", seconds))]
    for size in (1, 10, 100):
        figures = _commits(folder / f"rows{size}.db", seconds, size)
        rows.append(Row("Machine", f"SQLite WAL FULL, {size} rows per commit", figures))
    return rows


def _repeat(step: Callable[[], None], seconds: float) -> list[float]:
    """Durations of as many steps as fit, the first few left out."""
    for _ in range(5):
        step()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        step()
        taken.append(time.perf_counter() - begin)
    return taken


def _appends(path: Path, seconds: float) -> Figures:
    # macOS has no fdatasync; fsync there does not reach the disk's platter either, and the table says what it says.
    sync = getattr(os, "fdatasync", os.fsync)
    with path.open("ab", buffering=0) as file:

        def step() -> None:
            file.write(bytes(512))
            sync(file.fileno())

        taken = _repeat(step, seconds)
    return {**latency_ms(taken), "per s": len(taken) / sum(taken)}


def _commits(path: Path, seconds: float, size: int) -> Figures:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE state (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")
    rows = [(ROW,)] * size

    def step() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO state (value) VALUES (?)", rows)
        connection.execute("COMMIT")

    taken = _repeat(step, seconds)
    connection.close()
    per_second = len(taken) / sum(taken)
    return {**latency_ms(taken), "per s": per_second, "rows/s": per_second * size}
