"""The blocking client: in threads, scripts, forked processes, and within a node's own threads."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from perdure import ActivityContext, App, Node, WorkflowClient, WorkflowContext
from perdure.client import SyncWorkflowClient
from perdure.errors import AlreadyExists, DeadlineExceeded, InvalidInput, Unavailable


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


def test_it_has_the_same_methods() -> None:
    """With the same arguments and results; what is a coroutine there blocks here."""
    there, here = public(WorkflowClient), public(SyncWorkflowClient)
    assert sorted(there.keys() - {"sync"}) == sorted(here)
    for name, method in here.items():
        other = there[name]
        assert inspect.iscoroutinefunction(other), name
        assert not inspect.iscoroutinefunction(method), name
        assert inspect.signature(method) == inspect.signature(other), name


def test_both_are_what_a_node_has() -> None:
    """Everything that is asked of a node within its process can be asked over HTTP."""
    from perdure.client.http import HttpWorkflows
    from perdure.workflow.client import EngineClient
    from perdure.workflow.workflows import Workflows

    for name, method in public(Workflows).items():
        for cls in (HttpWorkflows, EngineClient):
            given = inspect.signature(public(cls)[name])
            wanted = inspect.signature(method)
            assert list(given.parameters) == list(wanted.parameters), (cls, name)
            assert [p.default for p in given.parameters.values()] == [
                p.default for p in wanted.parameters.values()
            ], (cls, name)


class Served:
    """A node whose event loop is in a thread of its own."""

    def __init__(self, app: App, store: str) -> None:
        self._app, self._store = app, store
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._app.serve(store=self._store, http_port=0) as self.node:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Node:
        self._thread.start()
        assert self._ready.wait(30)
        return self.node

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)


@pytest.fixture
def served(app: App, tmp_path: Any) -> Iterator[Node]:
    with Served(app, f"sqlite:///{tmp_path}/state.db") as node:
        yield node


@pytest.fixture(params=["node", "http"])
def client(request: pytest.FixtureRequest, served: Node) -> Iterator[SyncWorkflowClient]:
    client = served.client if request.param == "node" else WorkflowClient(str(served.url))
    with client.sync as blocking:
        yield blocking


def test_a_whole_life(client: SyncWorkflowClient) -> None:
    id = client.schedule_new_workflow("listen", instance_id="x")
    assert client.wait_for_workflow_start(id, timeout=30).custom_status == {"step": 1}
    client.pause_workflow(id)
    client.resume_workflow(id)
    client.raise_workflow_event(id, "go", data=[1])
    assert client.wait_for_workflow_completion(id, timeout=30).output == [1]
    assert [state.instance_id for state in client.list().items] == [id]
    assert client.history(id).items
    client.purge_workflow(id)
    assert client.get(id) is None


def test_errors(client: SyncWorkflowClient) -> None:
    client.schedule_new_workflow("listen", instance_id="x")
    with pytest.raises(AlreadyExists):
        client.schedule_new_workflow("listen", instance_id="x")
    with pytest.raises(InvalidInput):
        client.schedule_new_workflow("listen", input=object())
    with pytest.raises(DeadlineExceeded):
        client.wait_for_workflow_completion("x", timeout=0.05)


def test_many_threads(client: SyncWorkflowClient) -> None:
    def run(number: int) -> Any:
        id = client.schedule_new_workflow("twice", input=number)
        return client.wait_for_workflow_completion(id, timeout=60).output

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(run, range(48))) == [2 * number for number in range(48)]


def test_it_may_be_used_after_it_was_closed(served: Node) -> None:
    client = WorkflowClient(str(served.url)).sync
    for _ in range(3):
        assert client.get("x") is None
        client.close()
        client.close()
    assert not [one for one in threading.enumerate() if one.name == "perdure-client"]


def test_a_client_that_is_dropped_leaves_no_thread(served: Node) -> None:
    client = WorkflowClient(str(served.url))
    assert client.sync.get("x") is None
    assert [one for one in threading.enumerate() if one.name == "perdure-client"]
    del client
    assert not [one for one in threading.enumerate() if one.name == "perdure-client"]


def test_both_forms_of_one_client_and_several_loops(served: Node) -> None:
    client = WorkflowClient(str(served.url))

    async def start(id: str) -> str:
        async with client:
            return await client.schedule_new_workflow("listen", instance_id=id)

    with client.sync as blocking:
        assert asyncio.run(start("a")) == "a"
        assert blocking.wait_for_workflow_start("a", timeout=30).instance_id == "a"
        assert asyncio.run(start("b")) == "b"
        assert len(blocking.list().items) == 2


async def test_not_where_an_event_loop_runs(node: Node, http: WorkflowClient) -> None:
    """It would stand still, and with it a node that the answer is to come from."""
    for client in (node.client, http):
        with pytest.raises(RuntimeError, match="await the coroutine"):
            client.sync.get("x")


def test_in_an_activity(app: App, tmp_path: Any) -> None:
    """Activities that are plain functions run in threads of their node, and may use its client."""

    @app.activity
    def start_another(ctx: ActivityContext) -> object:
        id = client.schedule_new_workflow("twice", input=4)
        return client.wait_for_workflow_completion(id, timeout=30).output

    @app.workflow
    async def outer(ctx: WorkflowContext) -> object:
        return await ctx.call_activity(start_another)

    with Served(app, f"sqlite:///{tmp_path}/state.db") as node:
        client = node.client.sync
        id = client.schedule_new_workflow(outer)
        assert client.wait_for_workflow_completion(id, timeout=30).output == 8
    with pytest.raises(Unavailable, match="has stopped"):
        client.get(id)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_after_a_fork(served: Node) -> None:
    """As servers do that load an application once and fork their workers."""
    script = f"""
import os, sys
from perdure import WorkflowClient
client = WorkflowClient({str(served.url)!r}).sync
client.schedule_new_workflow("listen", instance_id="parent")
child = os.fork()
client.schedule_new_workflow("listen", instance_id=f"in-{{'child' if child == 0 else 'parent'}}")
assert client.wait_for_workflow_start("parent", timeout=30).instance_id == "parent"
if child == 0:
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    done = _python(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ids = {state.instance_id for state in WorkflowClient(str(served.url)).sync.list().items}
    assert ids == {"parent", "in-parent", "in-child"}


def test_a_script_that_closes_nothing(served: Node) -> None:
    script = f"""
from perdure import WorkflowClient
client = WorkflowClient({str(served.url)!r}).sync
print(client.schedule_new_workflow("listen", instance_id="x"))
print(client.wait_for_workflow_start("x", timeout=30).runtime_status)
"""
    done = _python(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\nrunning\n", "")


def _python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
