"""The peer that pip brings: DBOS on SQLite, doing the same work (extra `bench`).

Each setting is the best one found for it: synchronous workflows on as many threads as suit the journal for chains,
asynchronous ones where a workflow does many things at once. DBOS runs a step in the workflow's own process and
task; Perdure sends each activity through an actor of its own.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig

from benchmarks.meter import Meter, latency_ms
from benchmarks.result import Figures

Payload = dict[str, Any]
PAYLOAD: Payload = {"id": 1, "text": "x" * 20}

#: Threads that run workflows of short steps; more wait on SQLite's one writer.
THREADS = {"delete": 32, "wal": 8}

#: W4 and W6 look at when the code came by.
_seen: list[float] = []


@DBOS.step()
def echo(value: Payload) -> Payload:
    return value


@DBOS.step()
async def echo_async(value: Payload) -> Payload:
    return value


@DBOS.step()
async def nap(value: Payload) -> Payload:
    await asyncio.sleep(0.05)
    return value


@DBOS.workflow()
def chain(count: int, value: Payload) -> Payload:
    for _ in range(count):
        value = echo(value)
        _seen.append(time.perf_counter())
    return value


@DBOS.workflow()
async def fan_out(count: int, value: Payload) -> int:
    return len(await asyncio.gather(*(echo_async(value) for _ in range(count))))


@DBOS.workflow()
async def wait_for_event() -> Payload:
    return await DBOS.recv_async("go", timeout_seconds=600)  # type: ignore[no-any-return]


@DBOS.workflow()
async def timer(seconds: float) -> float:
    due = time.perf_counter() + seconds
    await DBOS.sleep_async(seconds)
    return time.perf_counter() - due


@DBOS.workflow()
async def naps(count: int, value: Payload) -> Payload:
    for _ in range(count):
        value = await nap(value)
    return value


def launch(path: Path, journal: str, *, poll: float | None = None) -> None:
    """Opens the database and starts DBOS; `poll` is how often it looks for events, in seconds (1 by default)."""
    if not path.exists():
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.close()
    config: DBOSConfig = {
        "name": "benchmark",
        "system_database_url": f"sqlite:///{path}",
        "log_level": "ERROR",
        "application_version": "1",
        "max_executor_threads": THREADS[journal],
    }
    if poll:
        config["notification_listener_polling_interval_sec"] = poll
    DBOS(config=config)
    DBOS.launch()
    logging.getLogger("dbos").setLevel(logging.CRITICAL)


def w1(count: int) -> Figures:
    chain(10, PAYLOAD)
    taken: list[float] = []
    with Meter() as meter:
        for _ in range(count):
            begin = time.perf_counter()
            chain(10, PAYLOAD)
            taken.append(time.perf_counter() - begin)
    return {**latency_ms(taken), "CPU ms/activity": meter.cpu * 1000 / (10 * count)}


def w2(count: int, threads: int) -> Figures:
    chain(5, PAYLOAD)
    with Meter() as meter, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: chain(5, PAYLOAD), range(count)))
    return {
        "activities/s": 5 * count / meter.wall,
        "workflows/s": count / meter.wall,
        "CPU ms/activity": meter.cpu * 1000 / (5 * count),
    }


async def w3(count: int) -> Figures:
    await fan_out(10, PAYLOAD)
    with Meter() as meter:
        await fan_out(count, PAYLOAD)
    return {
        "wall s": meter.wall,
        "activities/s": count / meter.wall,
        "CPU ms/activity": meter.cpu * 1000 / count,
    }


def w4(count: int) -> Figures:
    chain(10, PAYLOAD)
    _seen.clear()
    with Meter() as meter:
        chain(count, PAYLOAD)
    part = min(200, count // 4)
    return {
        "wall s": meter.wall,
        "first ms/activity": (_seen[part] - _seen[0]) * 1000 / part,
        "last ms/activity": (_seen[-1] - _seen[-1 - part]) * 1000 / part,
        "CPU ms/activity": meter.cpu * 1000 / count,
    }


async def w5(count: int, in_flight: int) -> Figures:
    taken: list[float] = []
    for _ in range(count):
        handle = await DBOS.start_workflow_async(wait_for_event)
        await asyncio.sleep(0.02)
        begin = time.perf_counter()
        await DBOS.send_async(handle.workflow_id, PAYLOAD, "go")
        await handle.get_result()
        taken.append(time.perf_counter() - begin)
    handles = [await DBOS.start_workflow_async(wait_for_event) for _ in range(in_flight)]
    await asyncio.sleep(0.1)
    waiting = iter(handles)

    async def client() -> None:
        for handle in waiting:
            await DBOS.send_async(handle.workflow_id, PAYLOAD, "go")
            await handle.get_result()

    with Meter() as meter:
        await asyncio.gather(*(client() for _ in range(32)))
    return {
        **latency_ms(taken),
        "events/s, 32 in flight": in_flight / meter.wall,
        "CPU ms/event": meter.cpu * 1000 / in_flight,
    }


async def w6(count: int) -> Figures:
    with Meter() as meter:
        handles = [await DBOS.start_workflow_async(timer, 1.0) for _ in range(count)]
        late = [await handle.get_result() for handle in handles]
    return {
        "total s": meter.wall,
        "latest s": max(late),
        "early": sum(value < 0 for value in late),
        "CPU ms/timer": meter.cpu * 1000 / count,
    }


def run(workload: str, count: int, in_flight: int, path: str, journal: str) -> Figures:
    """One workload once, in this process."""
    launch(Path(path), journal, poll=0.01 if journal == "wal" else None)
    threads = THREADS[journal]
    synchronous: dict[str, Callable[[], Figures]] = {
        "W1": lambda: w1(count),
        "W2": lambda: w2(count, threads),
        "W4": lambda: w4(count),
    }
    asynchronous: dict[str, Callable[[], Coroutine[Any, Any, Figures]]] = {
        "W3": lambda: w3(count),
        "W5": lambda: w5(count, in_flight),
        "W6": lambda: w6(count),
    }
    if workload in synchronous:
        return synchronous[workload]()
    return asyncio.run(asynchronous[workload]())
