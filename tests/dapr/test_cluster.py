"""Over a store that several processes share: functions of another app, and a process that dies."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.dapr import DaprWorkflowClient, WorkflowRuntime
from tests.dapr.test_examples import environment
from tests.servers.redis import RedisServer, redis_server

PATIENCE = 90

OTHER = """
    import sys
    from perdure.dapr import WorkflowRuntime

    runtime = WorkflowRuntime()

    @runtime.activity
    def upper(ctx, order):
        return {"name": order.name.upper(), "pid": __import__("os").getpid()}

    @runtime.workflow
    def twice(ctx, name):
        yield ctx.call_activity(upper, input={"name": name})
        return name * 2

    runtime.start()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@contextmanager
def other(store: str, app_id: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OTHER)],
        cwd=folder,
        env=environment(PERDURE_STORE=store, APP_ID=app_id),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_functions_of_another_app_also_of_one_that_comes_back(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_STORE", redis.url())
    monkeypatch.setenv("APP_ID", "orders")
    runtime = WorkflowRuntime()

    @runtime.workflow
    def order(ctx: Any, name: str) -> Any:
        shouted = yield ctx.call_activity("upper", input={"name": name}, app_id="names")
        yield ctx.wait_for_external_event("go")
        doubled = yield ctx.call_child_workflow("twice", input=shouted.name, app_id="names")
        return [shouted.pid, doubled]

    with ExitStack() as stack:
        names = stack.enter_context(other(redis.url(), "names", tmp_path))
        stack.callback(runtime.shutdown)
        runtime.start()
        client = DaprWorkflowClient()
        client.schedule_new_workflow(order, input="ada", instance_id="one")
        client.wait_for_workflow_start("one", timeout_in_seconds=PATIENCE)
        # Whether its answer had come or not: nobody has the app now, and the call waits for one that has.
        names.kill()
        names.wait()
        client.raise_workflow_event("one", "go")
        stack.enter_context(other(redis.url(), "names", tmp_path))
        state = client.wait_for_workflow_completion("one", timeout_in_seconds=PATIENCE)
    state.raise_if_failed()
    assert '"ADAADA"' in (state.serialized_output or "")
