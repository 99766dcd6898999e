"""What must be true when everything is mended: the store against what clients were told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from perdure.clock import LoopClock
from perdure.statestore.contract import ActorId, StateStore, TypePartition
from perdure.workflow import events
from perdure.workflow.events import (
    ChildCompleted,
    ChildFailed,
    ChildScheduled,
    Event,
    ExecutionCompleted,
    ExecutionStarted,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from tests.chaos.load import WORKFLOWS, Load, Told

WORKFLOW_TYPE = "dapr.internal.default.chaos.workflow"
#: Seconds in which everything that was acknowledged has to come to its end once nothing is broken any more.
SETTLE = 90.0
#: Seconds of these for an instance that may have been started again by a late start, and waits for events then.
AGAIN = 45.0


class Findings:
    """What is wrong; empty when all is well."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def require(self, condition: object, text: str) -> None:
        if not condition:
            self.wrong.append(text)


async def check(load: Load, store: StateStore, *, settle: float = SETTLE) -> Findings:
    """Waits until all that was acknowledged has ended, and looks at everything."""
    found = Findings()
    deadline = time.monotonic() + settle
    gate = asyncio.Semaphore(50)

    async def one(work: Awaitable[None]) -> None:
        async with gate:
            await work

    await asyncio.gather(
        *(one(_instance(load, store, id, told, found, deadline)) for id, told in load.instances.items()),
        *(one(_counter(load, name, found, deadline)) for name in load.counted),
    )
    await _nothing_left(store, found, deadline)
    return found


async def _instance(
    load: Load, store: StateStore, id: str, told: Told, found: Findings, deadline: float
) -> None:
    if not told.started:
        found.counts["starts without an answer"] += 1
        return
    found.counts["instances"] += 1
    if not told.complete and "end" not in told.unknown:
        # Its client was stopped: it has to wait for events, as it should.
        found.counts["instances that wait"] += 1
        state = await _ask(load, f"{WORKFLOWS}/{id}", deadline)
        found.require(
            state and state["runtimeStatus"] in ("RUNNING", "COMPLETED"), f"{id} waits, but is {state}"
        )
        return
    state = await _until(
        lambda: _ask(load, f"{WORKFLOWS}/{id}", deadline),
        lambda answer: answer is not None and answer["runtimeStatus"] not in ("RUNNING", "PENDING"),
        min(deadline, time.monotonic() + AGAIN) if told.unknown_starts else deadline,
    )
    if state is not None and state["runtimeStatus"] == "RUNNING" and told.unknown_starts:
        found.counts["instances started again by a late start"] += 1
        snapshot = await store.load(ActorId(WORKFLOW_TYPE, id))
        found.require(
            snapshot and not snapshot.recover, f"{id}, started again, owes work and does not get on"
        )
        return
    if state is None or state["runtimeStatus"] != "COMPLETED":
        if told.complete:
            found.wrong.append(f"{id} ({told.order}) has all it needs and is not completed: {state}")
        return
    output = json.loads(state["properties"]["dapr.workflow.output"])
    found.require(output["done"] == told.steps, f"{id}: {output['done']} steps counted, not {told.steps}")
    seen = Counter(output["seen"])
    for token in told.acknowledged:
        if token == "end" or token not in told.unknown:
            found.require(
                seen[token] == 1, f"{id}: the acknowledged event {token} was seen {seen[token]} times"
            )
        else:
            found.require(
                1 <= seen[token] <= 1 + told.unknown[token],
                f"{id}: event {token}, tried {1 + told.unknown[token]} times, was seen {seen[token]} times",
            )
    found.counts["events"] += len(told.acknowledged)
    await _history(store, id, found)


async def _history(store: StateStore, id: str, found: Findings) -> None:
    actor = ActorId(WORKFLOW_TYPE, id)
    history: list[Event] = []
    numbers: list[int] = []
    cursor: str | None = None
    while True:
        page = await store.keys(actor, "history-", cursor)
        history += [events.decode(value) for _, value in page.items]
        numbers += [int(key.removeprefix("history-")) for key, _ in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    found.counts["history events"] += len(history)
    for problem in problems(history, numbers):
        found.wrong.append(f"{id}: {problem}")


def problems(history: Sequence[Event], numbers: Sequence[int]) -> list[str]:
    """What is wrong with the history of a finished execution."""
    wrong = []
    if list(numbers) != list(range(len(numbers))):
        wrong.append(f"history numbers have gaps: {numbers}")
    if not history or not isinstance(history[0], ExecutionStarted):
        wrong.append("the history does not begin with a start")
    if not history or not isinstance(history[-1], ExecutionCompleted):
        wrong.append("the history does not end with a completion")
    scheduled: set[tuple[str, int]] = set()
    ended: set[tuple[str, int]] = set()
    at = 0
    for event in history:
        if event.at < at:
            wrong.append(f"time goes back at {event}")
        at = event.at
        match event:
            case TaskScheduled() | ChildScheduled() | TimerCreated():
                key = (_kind(event), event.id)
                if key in scheduled:
                    wrong.append(f"{key} was scheduled twice")
                scheduled.add(key)
            case TaskCompleted() | TaskFailed() | ChildCompleted() | ChildFailed() | TimerFired():
                key = (_kind(event), event.id)
                if key in ended:
                    wrong.append(f"{key} ended twice")
                if key not in scheduled:
                    wrong.append(f"{key} ended without having been scheduled")
                ended.add(key)
            case _:
                pass
    return wrong


def _kind(event: Event) -> str:
    for kind in ("Task", "Child", "Timer"):
        if type(event).__name__.startswith(kind):
            return kind
    raise TypeError(event)


async def _counter(load: Load, name: str, found: Findings, deadline: float) -> None:
    value = await _until(
        lambda: _ask(load, f"/v1.0/actors/Counter/{name}/method/value", deadline, method="POST"),
        lambda answer: answer is not None,
        deadline,
    )
    told, maybe = load.counted[name], load.uncertain[name]
    found.counts["increments"] += told
    found.require(
        value is not None and told <= value <= told + maybe,
        f"counter {name} is {value}; {told} were acknowledged, {maybe} more are not known",
    )


async def _nothing_left(store: StateStore, found: Findings, deadline: float) -> None:
    """No reminder is overdue, and whatever owes work is getting on with it."""
    partitions = range((await store.settings()).partitions)
    held = [TypePartition(WORKFLOW_TYPE, partition) for partition in partitions]
    clock = LoopClock()
    while True:
        due = (await store.due(held, clock.now() - 5_000_000)).items
        owing = (await store.owing(held)).items
        if not due and not owing:
            return
        if time.monotonic() > deadline:
            found.require(not due, f"reminders are left: {due[:5]}")
            found.require(not owing, f"instances still owe work: {owing[:5]}")
            return
        await asyncio.sleep(0.2)


async def _ask(load: Load, path: str, deadline: float, *, method: str = "GET") -> Any:
    """The answer, or None when there is none in time. Asks once in any case."""
    while True:
        status, answer = await load.ask(method, path)
        if status == 200:
            return answer
        if status == 404 or time.monotonic() > deadline:
            return None
        await asyncio.sleep(0.1)


async def _until(ask: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool], deadline: float) -> Any:
    while True:
        answer = await ask()
        if enough(answer) or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(0.2)
