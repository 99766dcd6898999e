"""A file in which a process that will be killed writes what it accepted, and which activities began and ended."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path


class ActivityLog:
    """One line per event, each a single write, so that a killed process leaves whole lines."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def accepted(self, instance_id: str) -> None:
        os.write(self._file, f"accepted {instance_id}\n".encode())

    def began(self, activity: str) -> None:
        os.write(self._file, f"began {activity}\n".encode())

    def ended(self, activity: str) -> None:
        os.write(self._file, f"ended {activity}\n".encode())


def ended(path: Path) -> int:
    """How many activities have ended so far."""
    return path.read_text().count("ended ") if path.exists() else 0


def accepted(path: Path) -> list[str]:
    """The instances whose start was acknowledged."""
    return [line.split()[1] for line in path.read_text().splitlines() if line.startswith("accepted ")]


def repeated(path: Path) -> tuple[int, int]:
    """How many activities began more than once, and how many of these although they had ended before."""
    began: Counter[str] = Counter()
    done: set[str] = set()
    again = after_end = 0
    for line in path.read_text().splitlines():
        word, name = line.split()
        if word == "ended":
            done.add(name)
        elif word == "began":
            began[name] += 1
            again += began[name] > 1
            after_end += name in done
    return again, after_end
