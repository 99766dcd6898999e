"""One fault run from start to verdict."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from perdure.statestore.urls import open_store
from tests.chaos.audit import forks
from tests.chaos.check import check
from tests.chaos.cluster import cluster
from tests.chaos.load import Load
from tests.chaos.plan import Plan

#: Seconds in which clients may see their instances through when everything is mended.
LAST_WORDS = 60.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    store: str
    seconds: float
    seed: int
    nodes: int = 3
    #: Replicas of the placement service; 0: the nodes run it.
    placement: int = 2
    clients: int = 24


class Report(msgspec.Struct):
    options: Options
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    commits: int = 0
    requests: int = 0
    without_answer: int = 0
    wrong: list[str] = msgspec.field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {
            "options": msgspec.to_builtins(self.options),
            "faults": dict(sorted(self.faults.items())),
            "faults in all": self.faults.total(),
            **dict(sorted(self.counts.items())),
            "commits": self.commits,
            "requests": self.requests,
            "requests without an answer": self.without_answer,
            "wrong": self.wrong[:50],
        }


async def run(options: Options, folder: Path, tell: Callable[[str], None]) -> Report:
    """Starts a cluster, breaks it for so many seconds under load, mends it, and says what is wrong then."""
    report = Report(options)
    async with cluster(options.store, folder, nodes=options.nodes, placement=options.placement) as made:
        tell("the cluster serves")
        load = Load(lambda: made.urls, options.seed)
        try:
            await load.start(options.clients)
            plan = Plan(made, options.seed, tell)
            await plan.run(options.seconds)
            tell("everything is mended")
            await load.stop(within=LAST_WORDS)
            tell(f"{len(load.instances)} instances were started")
            store = open_store(made.store.url)
            try:
                found = await check(load, store)
            finally:
                await store.close()
        finally:
            await load.close()
        report.faults, report.counts = plan.done, found.counts
        report.requests, report.without_answer = load.requests, load.failures
        report.wrong += found.wrong
        for node in made.nodes.values():
            # So that its record is whole.
            if node.running:
                await node.stop()
    records = await asyncio.to_thread(forks, folder)
    report.commits = records.commits
    report.wrong += records.found
    return report
