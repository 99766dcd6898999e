"""Random programs end as they must, whatever leaves memory meanwhile and however messages arrive."""

from __future__ import annotations

import asyncio
import copy
import random
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import ActivityContext, App, Node, TaskFailedError, WorkflowContext, when_all, when_any
from perdure.actors.messages import Message, nobody
from perdure.statestore.memory import MemoryStore

Steps = list[Any]

#: Steps that need nobody outside.
CLOSED = st.one_of(
    st.tuples(st.just("activity"), st.integers(0, 9)),
    st.tuples(st.just("thread"), st.integers(0, 9)),
    st.tuples(st.just("fan"), st.integers(0, 12)),
    st.tuples(st.just("timer"), st.integers(0, 5)),
    st.tuples(st.just("race"), st.integers(0, 4)),
    st.tuples(st.just("left"), st.integers(0, 4)),
    st.tuples(st.just("fails"), st.integers(0, 2)),
    st.tuples(st.just("late"), st.integers(0, 2)),
    st.tuples(st.just("status"), st.integers(0, 9)),
    st.tuples(st.just("again"), st.just(0)),
)
CHILD = st.tuples(st.just("child"), st.lists(CLOSED, max_size=4))
PROGRAMS = st.lists(st.one_of(CLOSED, st.tuples(st.just("event"), st.just(0)), CHILD), max_size=9)


def expected(steps: Steps) -> list[Any]:
    out: list[Any] = []
    events = 0
    for kind, value in steps:
        if kind in ("activity", "thread"):
            out.append(value * 2)
        elif kind == "fan":
            out.append(sum(range(value)) * 2)
        elif kind == "race":
            out.append(sorted([value * 2, "timer"], key=str))
        elif kind == "fails":
            out.append("ValueError")
        elif kind == "late":
            out.append("late")
        elif kind == "event":
            out.append(events)
            events += 1
        elif kind == "child":
            out.append(expected(value))
    return out


def program_app() -> App:
    app = App("p")

    @app.activity
    async def double(ctx: ActivityContext, n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    @app.activity
    def in_thread(ctx: ActivityContext, n: int) -> int:
        return n * 2

    @app.activity
    async def failing(ctx: ActivityContext) -> None:
        raise ValueError("always")

    async def timer(ctx: WorkflowContext, milliseconds: int) -> str:
        await ctx.create_timer(timedelta(milliseconds=milliseconds))
        return "timer"

    async def step(ctx: WorkflowContext, kind: str, value: Any, out: list[Any]) -> None:
        if kind == "activity":
            out.append(await ctx.call_activity(double, input=value))
        elif kind == "thread":
            out.append(await ctx.call_activity(in_thread, input=value))
        elif kind == "fan":
            out.append(sum(await when_all([ctx.call_activity(double, input=i) for i in range(value)])))
        elif kind == "timer":
            await timer(ctx, value)
        elif kind == "race":
            both = [ctx.call_activity(double, input=value), timer(ctx, 1)]
            tasks = [when_all([both[0]]), when_all([both[1]])]
            await when_any(tasks)
            out.append(sorted([(await task)[0] for task in tasks], key=str))
        elif kind == "left":
            ctx.call_activity(double, input=value)
        elif kind == "fails":
            try:
                await ctx.call_activity(failing)
            except TaskFailedError as error:
                out.append(error.details.type)
        elif kind == "late":
            try:
                await ctx.wait_for_external_event("never", timeout=timedelta(milliseconds=value))
            except TimeoutError:
                out.append("late")
        elif kind == "status":
            ctx.set_custom_status(value)
        elif kind == "event":
            out.append(await ctx.wait_for_external_event("x"))
        elif kind == "child":
            out.append(await ctx.call_child_workflow("program", input={"steps": value, "out": []}))

    @app.workflow
    async def program(ctx: WorkflowContext, state: dict[str, Any]) -> Any:
        steps, out = state["steps"], state["out"]
        for index, (kind, value) in enumerate(steps):
            if kind == "again":
                ctx.continue_as_new({"steps": steps[index + 1 :], "out": out})
                return None
            await step(ctx, kind, value, out)
        return out

    return app


class Disturbed:
    """Hands messages on late, twice and in another order. Each is still answered exactly once."""

    def __init__(self, node: Node, seed: int) -> None:
        self._random = random.Random(seed)
        runtime = node.runtime
        self._clock = runtime.clock
        host, router = runtime.host, runtime.router
        self.partitions = host.partitions
        self._deliver = host.deliver
        router._host = self  # type: ignore[assignment]
        for kind, handler in list(router._stateless.items()):
            router._stateless[kind] = lambda message, handler=handler: self._disturb(message, handler)

    def deliver(self, message: Message) -> None:
        self._disturb(message, self._deliver)

    def _disturb(self, message: Message, handler: Any) -> None:
        self._later(message, handler)
        if message.repeatable and message.method != "wait" and self._random.random() < 0.3:
            again = copy.copy(message)
            again.answer = nobody
            self._later(again, handler)

    def _later(self, message: Message, handler: Any) -> None:
        if self._random.random() < 0.4:
            handler(message)
        else:
            self._clock.call_later(self._random.random() * 0.004, handler, message)


async def _evicting(node: Node, seed: int) -> None:
    chance = random.Random(seed)
    while True:
        await asyncio.sleep(chance.random() * 0.001)
        for activation in list(node.runtime.host.activations.values()):
            if chance.random() < 0.7:
                node.runtime.host.evict(activation)


async def _outcome(steps: Steps, *, evict: int | None = None, disturb: int | None = None) -> tuple[Any, Any]:
    app = program_app()
    async with app.serve(store=MemoryStore(partitions=16), replay_check="always", blocked_after=0) as node:
        if disturb is not None:
            Disturbed(node, disturb)
        evicting = None if evict is None else asyncio.ensure_future(_evicting(node, evict))
        client = node.client
        id = await client.schedule_new_workflow("program", input={"steps": steps, "out": []}, instance_id="i")
        for n in range(sum(kind == "event" for kind, _ in steps)):
            await client.raise_workflow_event(id, "x", data=n)
        state = await client.wait_for_workflow_completion(id, timeout=30)
        if evicting is not None:
            evicting.cancel()
        return state.runtime_status, state.output


SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def _check(steps: Steps, **disturbance: int) -> None:
    status, output = asyncio.run(_outcome(steps, **disturbance))
    assert (status, output) == ("completed", expected(steps))


@SETTINGS
@given(PROGRAMS)
def test_undisturbed(steps: Steps) -> None:
    _check(steps)


@SETTINGS
@given(PROGRAMS, st.integers(0, 2**32))
def test_leaving_memory_at_any_time(steps: Steps, seed: int) -> None:
    _check(steps, evict=seed)


@SETTINGS
@given(PROGRAMS, st.integers(0, 2**32))
def test_messages_late_twice_and_out_of_order(steps: Steps, seed: int) -> None:
    _check(steps, disturb=seed)


@SETTINGS
@given(PROGRAMS, st.integers(0, 2**32))
def test_both(steps: Steps, seed: int) -> None:
    _check(steps, evict=seed, disturb=seed + 1)
