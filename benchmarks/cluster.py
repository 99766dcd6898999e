"""Several nodes over one store: throughput, hand-over, memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import servers
from benchmarks.result import Figures, Row, medians
from benchmarks.sizes import Sizes

#: Seconds after which an idle instance leaves memory: never, as far as a measurement is concerned, or soon.
STAYS, LEAVES = 3600.0, 2.0


class NodeProcess:
    """A node in a process of its own."""

    def __init__(self, store: str, idle: float = STAYS) -> None:
        command = [sys.executable, "-m", "benchmarks.node_process", store, str(idle)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ready(self) -> Figures:
        """When it began to start, and when it was ready."""
        return self.answer()

    def tell(self, task: str, count: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task} {count}\n")
        self._process.stdin.flush()

    def answer(self) -> Figures:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a node ended by itself, with status {self._process.wait()}")
        figures: Figures = json.loads(line)
        return figures

    def do(self, task: str, count: int) -> Figures:
        self.tell(task, count)
        return self.answer()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def nodes(store: str, count: int, idle: float = STAYS) -> Iterator[list[NodeProcess]]:
    """So many nodes that serve."""
    started = [NodeProcess(store, idle) for _ in range(count)]
    try:
        for node in started:
            node.ready()
        for node in started:
            # A new store has 1024 partitions.
            node.do("owned", 1024 // count)
        yield started
    finally:
        for node in started:
            node.close()


def rows(name: str, sizes: Sizes, kinds: list[str]) -> Iterator[Row]:
    """The figures of one of the titles nodes, handover and memory."""
    for kind in kinds:
        if name == "nodes":
            yield from _throughput(kind, sizes)
        else:
            measure = {"handover": _handover, "memory": _memory}[name]
            with servers.folder() as folder:
                yield Row(name, servers.TITLES[kind], measure(kind, sizes, folder))


def _throughput(kind: str, sizes: Sizes) -> Iterator[Row]:
    one = 0.0
    for count in (1, 2, 4):
        runs: list[Figures] = []
        for _ in range(sizes.repeats):
            with (
                servers.folder() as folder,
                servers.store_url(kind, folder) as url,
                nodes(url, count) as started,
            ):
                for node in started:
                    node.do("work", 50)  # what is loaded and compiled only once is not measured
                share = sizes.instances // count
                for node in started:
                    node.tell("work", share)
                figures = [node.answer() for node in started]
            activities = 5 * share * count
            wall = max(f["end"] for f in figures) - min(f["begin"] for f in figures)
            cpu = sum(f["cpu"] for f in figures)
            runs.append({"activities/s": activities / wall, "CPU ms/activity": cpu * 1000 / activities})
        found = medians(runs)
        one = one or found["activities/s"]
        found["of one node's"] = found["activities/s"] / one
        yield Row("nodes", f"{servers.TITLES[kind]}, {count} node{'s' if count > 1 else ''}", found)


def _handover(kind: str, sizes: Sizes, folder: Path) -> Figures:
    """One node has all instances in memory; another one comes and takes its half."""
    with servers.store_url(kind, folder) as url, nodes(url, 1) as started:
        (first,) = started
        first.do("suspend", sizes.active)
        second = NodeProcess(url)
        try:
            joined = second.ready()
            taken = second.do("owned", 512)
            left = first.do("owned", 512)
        finally:
            second.close()
    return {
        "active instances": float(sizes.active),
        "start until it serves its half s": taken["at"] - joined["began"],
        "of this, until it was ready s": joined["ready"] - joined["began"],
        "instances left with the first": left["active"],
    }


def _memory(kind: str, sizes: Sizes, folder: Path) -> Figures:
    with servers.store_url(kind, folder) as url, nodes(url, 2, LEAVES) as started:
        for node in started:
            node.tell("suspend", sizes.suspended_each)
        figures = [node.answer() for node in started]
        left = [node.do("memory", 100) for node in started]
    return {
        "suspended instances per node": float(sizes.suspended_each),
        "MB before": max(f["before"] for f in figures),
        "MB just after": max(f["after"] for f in figures),
        "MB when they have left memory": max(f["memory"] for f in left),
    }
