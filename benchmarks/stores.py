"""What a store can do: `python -m benchmarks.stores redis://127.0.0.1 sqlite:////tmp/x.db …`

One writer, commits of three 120-byte keys under a version check, in batches. Uses a namespace or schema of its own only
if the URL says so: point it at an empty store.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from typing import NamedTuple

import uvloop

from perdure.statestore import COMMITTED, ActorId, Commit, Fence, StateStore, TypePartition, open_store
from perdure.statestore.partitions import partition_of

TYPE = "benchmark.Store"
VALUE = os.urandom(120)
#: As many actors take turns, so that none has a long history.
ACTORS = 2000


class Measured(NamedTuple):
    per_second: float
    p50_ms: float
    p99_ms: float
    #: Of this process.
    cpu_us: float


async def measure(store: StateStore, size: int, seconds: float) -> Measured:
    """Commits in batches of `size`, one batch at a time."""
    partitions = (await store.settings()).partitions
    fence = Fence(time.time_ns() // 1_000_000, size)
    await store.take([TypePartition(TYPE, number) for number in range(partitions)], fence)
    actors = [ActorId(TYPE, f"{size}-{fence.term}-{number}") for number in range(ACTORS)]
    versions: list[bytes | None] = [None] * ACTORS
    lengths = [0] * ACTORS
    at = 0
    taken: list[float] = []
    begin = time.perf_counter()
    cpu = _cpu()
    while time.perf_counter() - begin < seconds:
        batch: list[Commit] = []
        for _ in range(size):
            length = lengths[at]
            put = {
                f"history-{length:06d}": VALUE,
                f"history-{length + 1:06d}": VALUE,
                "metadata": VALUE,
            }
            version = os.urandom(16)
            actor = actors[at]
            batch.append(Commit(actor, partition_of(actor.id, partitions), fence, versions[at], version, put))
            versions[at], lengths[at] = version, length + 2
            at = (at + 1) % ACTORS
        asked = time.perf_counter()
        results = await store.commit(batch)
        taken.append(time.perf_counter() - asked)
        assert all(result == COMMITTED for result in results), results
    spent, cpu = time.perf_counter() - begin, _cpu() - cpu
    taken.sort()
    commits = len(taken) * size
    return Measured(
        commits / spent,
        taken[len(taken) // 2] * 1000,
        taken[len(taken) * 99 // 100] * 1000,
        cpu / commits * 1e6,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=__doc__)
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    options = parser.parse_args()
    for url in options.urls:
        store = open_store(url)
        try:
            for size in (1, 10, 100):
                found = await measure(store, size, options.seconds)
                print(
                    f"{url.rpartition('@')[2]}: batches of {size}: {found.per_second:,.0f} commits/s, "
                    f"p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, {found.cpu_us:.0f} µs CPU here each"
                )
        finally:
            await store.close()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    uvloop.run(main())
