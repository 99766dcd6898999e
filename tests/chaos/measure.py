"""python -m tests.chaos.measure --store redis: how long a take-over is felt, and by whom."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from perdure.placement.hashing import partition_of
from perdure.placement.table import Table, decode
from perdure.statestore.contract import StateStore
from perdure.statestore.urls import open_store
from tests.chaos.check import WORKFLOW_TYPE
from tests.chaos.cluster import Cluster, Server, cluster
from tests.chaos.load import WORKFLOWS, Load

#: Instances, and the seconds that each of their activities takes: so many go on at any time.
INSTANCES = 150
TICK = 0.2
#: Seconds without progress after which an instance has noticed something.
NOTICED = 1.0
#: Seconds before and after a fault that are looked at, and the width of the bins of throughput.
BEFORE = 4.0
AFTER = 4.0
BIN = 0.5
PATIENCE = 60.0


class Felt(msgspec.Struct, frozen=True):
    """One fault. Times are seconds from the fault."""

    what: str
    #: Instances whose owner died; for placement: none.
    victims: int
    #: When the first, the median and the last of the victims went on.
    first: float | None
    median: float | None
    last: float | None
    #: The share of all instances that made no progress for a second and more.
    noticed: float
    #: The lowest throughput of half a second, as a share of that before.
    lowest: float


class Ledger:
    """What ran when: the lines that activities write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.times: dict[str, list[float]] = defaultdict(list)

    def update(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            at, _, instance, _ = line.split()
            self.times[instance].append(float(at))

    def since(self, at: float) -> dict[str, float]:
        """When each instance first ran anything after `at`."""
        return {id: min(later) for id, times in self.times.items() if (later := [t for t in times if t > at])}


class Measurement:
    def __init__(self, made: Cluster, load: Load, store: StateStore, folder: Path) -> None:
        self._cluster = made
        self._load = load
        self._store = store
        self._ledger = Ledger(folder / "ledger")
        self._ids = [f"tick-{number}" for number in range(INSTANCES)]

    async def start(self) -> None:
        for id in self._ids:
            status, answer = await self._load.ask("POST", f"{WORKFLOWS}/tick/start?instanceID={id}", TICK)
            assert status == 202, (status, answer)
        await self.steady()

    async def steady(self) -> None:
        """Returns when every instance gets on, and has done so for a while."""
        for _ in range(2):
            await self._all_since(time.time())
            await asyncio.sleep(BEFORE / 2)

    async def _all_since(self, at: float) -> dict[str, float]:
        deadline = time.monotonic() + PATIENCE
        while True:
            self._ledger.update()
            since = self._ledger.since(at)
            missing = [id for id in self._ids if id not in since]
            if not missing:
                return since
            if time.monotonic() > deadline:
                raise AssertionError(f"no progress within {PATIENCE:g} s: {missing[:10]} of {len(missing)}")
            await asyncio.sleep(0.1)

    async def table(self) -> Table:
        data = await self._store.lease("placement").read()
        assert data
        return decode(data)

    async def kill(self, server: Server) -> Felt:
        """SIGKILL, what that does, and everything as before."""
        table = await self.table()
        node = server.said.split()[-1]
        victims = {
            id for id in self._ids if table.owner(WORKFLOW_TYPE, partition_of(id, table.partitions)) == node
        }
        at = time.time()
        server.kill()
        since = await self._all_since(at)
        # Whoever was between two steps goes on first; whose step was running has to be found by the new owner.
        await asyncio.sleep(max(2 * NOTICED, at + AFTER + BIN - time.time()))
        self._ledger.update()
        felt = self._felt(server.name, at, {id: since[id] - at for id in victims})
        await server.start()
        await self.steady()
        return felt

    def _felt(self, what: str, at: float, waited: dict[str, float]) -> Felt:
        # A step that another node ran to its end says nothing of its owner: only what comes after a pause does.
        gaps = [self._longest_gap(id, at) for id in self._ids]
        times = sorted(t for id in self._ids for t in self._ledger.times[id])
        before = sum(1 for t in times if at - BEFORE <= t < at) / BEFORE
        bins = [
            sum(1 for t in times if start <= t < start + BIN) / BIN
            for start in (at + number * BIN for number in range(int(AFTER / BIN)))
        ]
        progress = sorted(self._longest_gap(id, at)[1] - at for id in waited)
        return Felt(
            what,
            len(waited),
            progress[0] if progress else None,
            statistics.median(progress) if progress else None,
            progress[-1] if progress else None,
            sum(1 for began, ended in gaps if ended - began > NOTICED) / len(gaps),
            min(bins) / before,
        )

    def _longest_gap(self, id: str, at: float) -> tuple[float, float]:
        """The longest pause of an instance from just before the fault on: its begin and its end."""
        times = [t for t in self._ledger.times[id] if t >= at - 2 * TICK]
        return max(itertools.pairwise(times), key=lambda pair: pair[1] - pair[0])


async def measure(kind: str, folder: Path, *, rounds: int, placement: int) -> dict[str, Any]:
    """Kills nodes and placement leaders in turn; the figures of each."""
    found: dict[str, list[Felt]] = {"node": [], "placement": []}
    async with cluster(kind, folder, nodes=3, placement=placement) as made:
        load = Load(lambda: made.urls, 0)
        await load.start(0)
        store = open_store(made.store.url)
        try:
            measurement = Measurement(made, load, store, folder)
            await measurement.start()
            for number in range(rounds):
                node = list(made.nodes.values())[number % len(made.nodes)]
                found["node"].append(await measurement.kill(node))
                if placement:
                    table = await measurement.table()
                    leader = next(
                        server
                        for server in made.placement.values()
                        if table.leader.startswith(f"{server.host.address}:")
                    )
                    found["placement"].append(await measurement.kill(leader))
        finally:
            await store.close()
            await load.close()
    return {
        "store": kind,
        "instances": INSTANCES,
        "rounds": {what: [msgspec.to_builtins(felt) for felt in rows] for what, rows in found.items()},
        "summary": {what: _summary(rows) for what, rows in found.items() if rows},
    }


def _summary(rows: list[Felt]) -> dict[str, Any]:
    def median(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(statistics.median(known), 2) if known else None

    return {
        "seconds to the first progress of a victim": median([felt.first for felt in rows]),
        "seconds to the median victim's": median([felt.median for felt in rows]),
        "seconds to the last victim's": median([felt.last for felt in rows]),
        "worst": max((felt.last for felt in rows if felt.last is not None), default=None),
        "share of instances that noticed": median([felt.noticed for felt in rows]),
        "lowest throughput": median([felt.lowest for felt in rows]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.measure", description=__doc__)
    parser.add_argument("--store", choices=["redis", "postgres"], default="redis")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--placement", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="perdure-measure-"))
    folder.mkdir(parents=True, exist_ok=True)
    figures = asyncio.run(measure(given.store, folder, rounds=given.rounds, placement=given.placement))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
