"""A node that is told to stop: in which order it does, what is committed, and what the next one finds."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure import ActivityContext, App, WorkflowContext
from perdure.errors import StoreUnavailable
from perdure.statestore.memory import MemoryStore
from tests.faults.processes import WORKFLOWS, NodeProcess
from tests.waiting import eventually

Serve = Callable[..., NodeProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    nodes: list[NodeProcess] = []

    def start(drain: float) -> NodeProcess:
        node = NodeProcess("stop", tmp_path, DRAIN=str(drain))
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.kill()


def released(node: NodeProcess) -> set[int]:
    return {value for (value,) in node.rows("SELECT DISTINCT released FROM fences")}


def suspected(node: NodeProcess) -> list[str]:
    """The instances that count a death."""
    ids = [id for (id,) in node.rows("SELECT id FROM actors")]
    found = {id: node.metadata(id) for id in ids}
    return [id for id, meta in found.items() if meta.get("deaths") or meta.get("task_deaths")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("activity", ["on_loop", "in_thread"])
def test_running_activities_have_the_drain_time(serve: Serve, number: int, activity: str) -> None:
    node = serve(drain=20)
    node.begin("waits", "waiting")
    for count in range(5):
        node.begin("two", f"one-{count}", [activity, 1.5])
    node.until(lambda: len(node.lines("began")) == 5, "all activities run")
    assert node.status("GET", "/readyz") == 200
    node.signal(number)

    # Not ready at once; what is asked for meanwhile is answered.
    node.until(lambda: node.status("GET", "/readyz") != 200, "it says so")
    assert node.ask("GET", "/readyz") == (503, {"ready": False, "reason": "the node is stopping"})
    assert node.status("GET", "/livez") == 200
    assert not node.lines("ended")
    assert node.runtime_status("one-0") == "RUNNING"
    assert node.status("POST", f"{WORKFLOWS}/waiting/raiseEvent/go", "now") == 202

    assert node.ended() == 0
    assert "Traceback" not in node.text()
    assert len(node.lines("ended")) == 5
    assert released(node) == {1}
    node.start()
    assert node.output("waiting") == "now"
    for count in range(5):
        assert node.output(f"one-{count}") == "done"
    # The first of each ran once, its result was committed; the second of each once as well.
    assert len(node.lines("began")) == 10
    assert suspected(node) == []
    assert node.stop() == 0


@pytest.mark.parametrize("activity", ["on_loop", "in_thread"])
def test_what_takes_longer_runs_again(serve: Serve, activity: str) -> None:
    node = serve(drain=0.3)
    node.begin("one", "long", [activity, 60])
    (key,) = node.until(lambda: node.lines("began"), "the activity runs")
    began = time.monotonic()
    assert node.stop() == 0
    # The activity takes 60 s.
    assert time.monotonic() - began < 40
    assert "Traceback" not in node.text()
    assert released(node) == {1}
    assert suspected(node) == []
    (node.folder / "quick").touch()
    node.start()
    assert node.output("long") == "done"
    assert node.lines("began") == [key, key]
    assert node.lines("ended") == [key]
    assert suspected(node) == []
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("first", "second", "statuses"),
    [
        (signal.SIGTERM, signal.SIGTERM, {-signal.SIGTERM}),
        (signal.SIGINT, signal.SIGINT, {-signal.SIGINT, 130}),
        (signal.SIGTERM, signal.SIGINT, {-signal.SIGINT, 130}),
    ],
)
@pytest.mark.parametrize("activity", ["on_loop", "in_thread"])
def test_a_second_signal_ends_it_at_once(
    serve: Serve, first: int, second: int, statuses: set[int], activity: str
) -> None:
    node = serve(drain=60)
    node.begin("one", "long", [activity, 60])
    node.until(lambda: node.lines("began"), "the activity runs")
    node.signal(first)
    node.until(lambda: node.status("GET", "/readyz") == 503, "it stops")
    began = time.monotonic()
    node.signal(second)
    assert node.ended() in statuses
    # It would wait for 60 s.
    assert time.monotonic() - began < 30
    assert "Traceback" not in node.text()
    (node.folder / "quick").touch()
    node.start()
    assert node.output("long") == "done"


# --- the store refuses ---------------------------------------------------------------------------------------------


class Refusing:
    """A store that can be told to give no answer."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.refuses = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name in ("lease", "close", "settings") or not callable(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.refuses:
                raise StoreUnavailable("the store is away")
            return await found(*args, **kwargs)

        return call


async def test_while_the_store_refuses() -> None:
    """It stops all the same, and nothing that was acknowledged is lost."""
    app = App("refused")
    ran: list[str] = []
    running, going = asyncio.Event(), asyncio.Event()

    @app.activity
    async def work(ctx: ActivityContext) -> str:
        ran.append(ctx.idempotency_key)
        running.set()
        await going.wait()
        return "done"

    @app.workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await ctx.call_activity(work)

    store = Refusing(MemoryStore())
    async with asyncio.timeout(60), app.serve(store=store, drain_seconds=0.5) as node:
        id = await node.client.schedule_new_workflow(flow)
        await running.wait()
        store.refuses = True
        going.set()
        late = asyncio.ensure_future(node.client.schedule_new_workflow(flow, instance_id="late"))
        await eventually(lambda: node.ready() is not None, "the node says that it is not ready")
        assert "the store is away" in str(node.ready())
        began = asyncio.get_running_loop().time()
        await node.stop()
        assert asyncio.get_running_loop().time() - began < 30
        with pytest.raises(Exception, match=r"stopping|away|moved|owns|unknown|done now"):
            await asyncio.wait_for(late, 30)
    store.refuses = False
    async with asyncio.timeout(60), app.serve(store=store) as node:
        state = await node.client.wait_for_workflow_completion(id)
        assert state.output == "done"
        assert ran == [ran[0]] * 2
