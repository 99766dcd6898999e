"""Registering, starting and stopping, as Dapr's `WorkflowRuntime` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import TaskFailedError
from perdure.dapr import (
    DaprClient,
    DaprInternalError,
    DaprWorkflowClient,
    WorkflowRuntime,
    WorkflowStatus,
    alternate_name,
)
from perdure.errors import ConfigurationError, StoreHeld
from tests.servers.ports import free_port
from tests.waiting import until

PATIENCE = 60


def completed(workflow: Any, **options: Any) -> Any:
    """The result of a workflow, run to its end."""
    client = DaprWorkflowClient()
    instance = client.schedule_new_workflow(workflow, **options)
    state = client.wait_for_workflow_completion(instance, timeout_in_seconds=PATIENCE)
    state.raise_if_failed()
    return json.loads(state.serialized_output or "null")


# --- registering -----------------------------------------------------------------------------------------------------


def test_all_ways_of_registering(runtime: WorkflowRuntime) -> None:
    @runtime.activity
    def plain(ctx: Any) -> str:
        return "plain"

    @runtime.activity(name="other")
    def named(ctx: Any) -> str:
        return "named"

    @runtime.activity
    @alternate_name("third")
    def alternate(ctx: Any) -> str:
        return "alternate"

    def given(ctx: Any) -> str:
        return "given"

    async def on_the_loop(ctx: Any) -> str:
        return "on the loop"

    runtime.register_activity(given)
    runtime.register_activity(on_the_loop, name="fifth")

    @runtime.workflow(name="by function")
    def by_function(ctx: Any) -> Any:
        results = []
        for activity in (plain, named, alternate, given, on_the_loop):
            results.append((yield ctx.call_activity(activity)))
        return results

    @runtime.workflow
    def by_name(ctx: Any) -> Any:
        results = []
        for activity in ("plain", "other", "third", "given", "fifth"):
            results.append((yield ctx.call_activity(activity)))
        child = yield ctx.call_child_workflow("by function")
        return [results, child]

    @runtime.workflow
    async def awaiting(ctx: Any) -> Any:
        return await ctx.call_child_workflow(by_name)

    runtime.start()
    wanted = ["plain", "named", "alternate", "given", "on the loop"]
    assert completed("by function") == wanted
    assert completed(by_function) == wanted
    assert completed(by_name) == [wanted, wanted]
    assert completed(awaiting) == [wanted, wanted]
    # A decorated function stays callable.
    assert plain(None) == "plain"


def test_a_name_is_used_once(runtime: WorkflowRuntime) -> None:
    @runtime.workflow(name="one")
    def first(ctx: Any) -> None: ...

    def second(ctx: Any) -> None: ...

    with pytest.raises(ValueError, match="Workflow second already registered as one"):
        runtime.register_workflow(second, name="one")
    with pytest.raises(ValueError, match="Workflow first already registered as one"):
        runtime.register_workflow(first)
    with pytest.raises(ValueError, match="already has an alternate name one"):
        runtime.register_workflow(first, name="two")
    with pytest.raises(ValueError, match="already has an alternate name one"):
        alternate_name("two")(first)


def test_a_function_that_takes_something_else_is_refused(runtime: WorkflowRuntime) -> None:
    def nothing() -> None: ...

    def too_much(ctx: Any, one: int, two: int) -> None: ...

    with pytest.raises(ValueError, match="it takes no parameter"):
        runtime.register_activity(nothing)
    with pytest.raises(ValueError, match="nothing gives it 'two'"):
        runtime.register_workflow(too_much)


def test_registering_after_the_start_is_refused(runtime: WorkflowRuntime) -> None:
    runtime.start()
    with pytest.raises(ValueError, match="before start"):

        @runtime.activity
        def late(ctx: Any) -> None: ...


# --- starting and stopping -------------------------------------------------------------------------------------------


def test_without_a_runtime_clients_say_so(runtime: WorkflowRuntime) -> None:
    for ask in (
        lambda: DaprWorkflowClient().get_workflow_state("a"),
        lambda: DaprClient().get_workflow("a", "dapr"),
    ):
        with pytest.raises(DaprInternalError, match=r"call its start\(\) first"):
            ask()
    runtime.start()
    runtime.shutdown()
    with pytest.raises(DaprInternalError, match=r"call its start\(\) first"):
        DaprWorkflowClient().get_workflow_state("a")


def test_one_runs_at_a_time(runtime: WorkflowRuntime, another: Callable[[], WorkflowRuntime]) -> None:
    second = another()
    runtime.start()
    assert runtime.wait_for_worker_ready()
    with pytest.raises(RuntimeError, match="already running"):
        runtime.start()
    with pytest.raises(DaprInternalError, match="running in this process already"):
        second.start()
    runtime.shutdown()
    runtime.shutdown()
    second.start()
    assert not runtime.wait_for_worker_ready()


def test_a_start_that_fails_leaves_nothing_behind(
    runtime: WorkflowRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_STORE", "nowhere://")
    with pytest.raises(ConfigurationError, match="not the URL of a store"):
        runtime.start()
    monkeypatch.setenv("PERDURE_HTTP_PORT", "many")
    monkeypatch.setenv("PERDURE_STORE", "memory://")
    with pytest.raises(ConfigurationError, match="PERDURE_HTTP_PORT is 'many'"):
        runtime.start()
    monkeypatch.delenv("PERDURE_HTTP_PORT")
    assert [thread.name for thread in threading.enumerate() if thread.name == "perdure-node"] == []
    runtime.start()


def test_the_environment_names_store_app_and_port(
    runtime: WorkflowRuntime,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    another: Callable[[], WorkflowRuntime],
) -> None:
    port = free_port()
    monkeypatch.setenv("PERDURE_STORE", f"sqlite:///{tmp_path}/other.db")
    monkeypatch.setenv("PERDURE_HTTP_PORT", str(port))
    monkeypatch.setenv("APP_ID", "orders")
    monkeypatch.setenv("DAPR_API_TOKEN", "secret")
    runtime = another()

    @runtime.workflow
    def quick(ctx: Any) -> str:
        return str(ctx.app_id)

    runtime.start()
    client = DaprWorkflowClient()
    client.schedule_new_workflow(quick, instance_id="a")
    client.wait_for_workflow_completion("a", timeout_in_seconds=PATIENCE)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1.0/workflows/dapr/a", headers={"dapr-api-token": "secret"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert json.load(answer)["properties"]["dapr.workflow.output"] == '"orders"'
    assert (tmp_path / "other.db").exists()


def test_a_store_that_another_process_has_is_refused(
    runtime: WorkflowRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERDURE_STORE", f"sqlite:///{tmp_path}/one.db")
    program = "import os, sys; from perdure.dapr import WorkflowRuntime; WorkflowRuntime().start(); print(1); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "1\n"
            with pytest.raises(StoreHeld, match=str(other.pid)):
                runtime.start()
        finally:
            other.kill()
    # Now it is free.
    runtime.start()


def test_shutdown_lets_activities_end(
    runtime: WorkflowRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERDURE_STORE", f"sqlite:///{tmp_path}/one.db")
    running, told, ends = threading.Event(), threading.Event(), []

    @runtime.activity
    def slow(ctx: Any) -> str:
        running.set()
        assert told.wait(PATIENCE)
        # The way to the client is open until the last activity has ended.
        ends.append(DaprWorkflowClient().get_workflow_state("a").runtime_status)
        return "done"

    @runtime.workflow
    def waiting(ctx: Any) -> Any:
        return (yield ctx.call_activity(slow))

    runtime.start()
    DaprWorkflowClient().schedule_new_workflow(waiting, instance_id="a")
    assert running.wait(PATIENCE)
    stopping = threading.Thread(target=runtime.shutdown)
    stopping.start()
    told.set()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert ends == [WorkflowStatus.RUNNING]


KILLED = """
    import sys, time
    from perdure.dapr import DaprWorkflowClient, WorkflowRuntime

    runtime = WorkflowRuntime()

    @runtime.activity
    def say(ctx, text):
        with open("said", "a") as file:
            file.write(text + "\\n")
        return text.upper()

    @runtime.workflow
    def talk(ctx, name):
        first = yield ctx.call_activity(say, input="hello " + name)
        ctx.set_custom_status("waiting")
        event = yield ctx.wait_for_external_event("go")
        second = yield ctx.call_activity(say, input=event)
        return [first, second]

    runtime.start()
    client = DaprWorkflowClient()
    if sys.argv[1] == "first":
        client.schedule_new_workflow(talk, input="Ada", instance_id="talk")
        while client.get_workflow_state("talk").serialized_custom_status is None:
            time.sleep(0.01)
        print("waiting", flush=True)
        sys.stdin.read()
    client.raise_workflow_event("talk", "go", data="bye")
    state = client.wait_for_workflow_completion("talk", timeout_in_seconds=60)
    print(state.runtime_status.name, state.serialized_output, flush=True)
"""


def test_a_killed_program_goes_on_where_it_was(tmp_path: Path) -> None:
    """And one that ends without shutdown() ends well."""
    environment = {name: value for name, value in os.environ.items() if name != "PERDURE_STORE"}
    command = [sys.executable, "-c", textwrap.dedent(KILLED)]
    with subprocess.Popen(
        [*command, "first"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "waiting\n"
            first.send_signal(signal.SIGKILL)
        finally:
            first.kill()
    second = subprocess.run(
        [*command, "second"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == 'COMPLETED ["HELLO ADA","BYE"]\n'
    # What was done before is not done again.
    assert (tmp_path / "said").read_text().splitlines() == ["hello Ada", "bye"]


# --- threads ---------------------------------------------------------------------------------------------------------


def test_clients_work_from_many_threads_at_once(runtime: WorkflowRuntime) -> None:
    @runtime.workflow
    def square(ctx: Any, number: int) -> int:
        return number * number

    runtime.start()
    results: dict[int, Any] = {}

    def use(number: int) -> None:
        results[number] = completed(square, input=number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {number: number * number for number in range(20)}


def test_an_activity_may_use_a_client_and_workflow_code_may_not(runtime: WorkflowRuntime) -> None:
    @runtime.workflow
    def child(ctx: Any) -> str:
        return "child"

    @runtime.activity
    def start(ctx: Any) -> Any:
        return completed(child)

    @runtime.activity
    async def blocks(ctx: Any) -> Any:
        return completed(child)

    @runtime.workflow
    def parent(ctx: Any) -> Any:
        result = yield ctx.call_activity(start)
        errors = []
        try:
            completed(child)
        except DaprInternalError as error:
            errors.append(str(error))
        try:
            yield ctx.call_activity(blocks)
        except TaskFailedError as error:
            errors.append(str(error))
        return [result, *("would block the event loop" in error for error in errors)]

    runtime.start()
    assert completed(parent) == ["child", True, True]


def test_a_client_that_waits_when_the_runtime_stops_is_told(runtime: WorkflowRuntime) -> None:
    @runtime.workflow
    def forever(ctx: Any) -> Any:
        yield ctx.wait_for_external_event("never")

    runtime.start()
    client = DaprWorkflowClient()
    instance = client.schedule_new_workflow(forever)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            client.wait_for_workflow_completion(instance)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: client.get_workflow_state(instance).runtime_status is WorkflowStatus.RUNNING)
    runtime.shutdown()
    waiting.join(PATIENCE)
    assert [type(error) for error in errors] == [DaprInternalError]
