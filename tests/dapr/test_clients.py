"""Both blocking clients, beside what Dapr's SDK promises of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.dapr import (
    DaprClient,
    DaprInternalError,
    DaprWorkflowClient,
    WorkflowFailedError,
    WorkflowRuntime,
    WorkflowStatus,
)

PATIENCE = 60


@pytest.fixture
def client(runtime: WorkflowRuntime) -> DaprWorkflowClient:
    """Of a runtime that has `echo` (waits for the event "go", and gives its data back), `fails` and `parent`."""

    @runtime.workflow
    def echo(ctx: Any, value: Any) -> Any:
        ctx.set_custom_status({"given": value})
        return (yield ctx.wait_for_external_event("go"))

    @runtime.workflow
    def fails(ctx: Any) -> None:
        raise RuntimeError("no luck")

    @runtime.workflow
    def parent(ctx: Any) -> Any:
        return (yield ctx.call_child_workflow(echo, instance_id="child"))

    runtime.start()
    return DaprWorkflowClient("127.0.0.1", "50001")


def test_a_life_with_the_workflow_client(client: DaprWorkflowClient) -> None:
    before = datetime.now(UTC).replace(tzinfo=None)
    with client:
        assert client.schedule_new_workflow("echo", input={"a": 1}, instance_id="one") == "one"
        started = client.wait_for_workflow_start("one", timeout_in_seconds=PATIENCE)
        assert (started.runtime_status, started.serialized_input) == (WorkflowStatus.RUNNING, None)
        state = client.get_workflow_state("one")
        assert (state.name, state.instance_id) == ("echo", "one")
        assert json.loads(state.serialized_input or "") == {"a": 1}
        assert json.loads(state.serialized_custom_status or "") == {"given": {"a": 1}}
        assert state.created_at.tzinfo is None
        assert before - timedelta(seconds=1) <= state.created_at <= state.last_updated_at
        assert client.get_workflow_state("one", fetch_payloads=False).serialized_input is None

        client.pause_workflow("one")
        assert client.get_workflow_state("one").runtime_status is WorkflowStatus.SUSPENDED
        client.raise_workflow_event("one", "GO", data=0)
        with pytest.raises(TimeoutError):
            client.wait_for_workflow_completion("one", timeout_in_seconds=0.2)
        client.resume_workflow("one")
        ended = client.wait_for_workflow_completion("one", timeout_in_seconds=PATIENCE)
        assert (ended.runtime_status, ended.serialized_output) == (WorkflowStatus.COMPLETED, "0")
        ended.raise_if_failed()
        client.purge_workflow("one")
        with pytest.raises(DaprInternalError, match="no such instance exists") as caught:
            client.get_workflow_state("one")
        assert caught.value.as_dict() == {
            "message": "no such instance exists",
            "errorCode": "ERR_INSTANCE_ID_NOT_FOUND",
            "raw_response_bytes": None,
        }


def test_failure_is_told(client: DaprWorkflowClient) -> None:
    instance = client.schedule_new_workflow("fails")
    state = client.wait_for_workflow_completion(instance, timeout_in_seconds=PATIENCE)
    assert state.runtime_status is WorkflowStatus.FAILED
    assert state.failure_details is not None
    assert (state.failure_details.error_type, state.failure_details.message) == ("RuntimeError", "no luck")
    assert "no luck" in (state.failure_details.stack_trace or "")
    with pytest.raises(WorkflowFailedError, match="no luck"):
        state.raise_if_failed()


def test_terminating_ends_children_too_unless_told_otherwise(client: DaprWorkflowClient) -> None:
    client.schedule_new_workflow("parent", instance_id="one")
    until_started(client, "child")
    client.terminate_workflow("one", output="enough")
    state = client.wait_for_workflow_completion("one", timeout_in_seconds=PATIENCE)
    assert (state.runtime_status, state.serialized_output) == (WorkflowStatus.TERMINATED, '"enough"')
    child = client.wait_for_workflow_completion("child", timeout_in_seconds=PATIENCE)
    assert child.runtime_status is WorkflowStatus.TERMINATED

    client.schedule_new_workflow("parent", instance_id="two")
    until_started(client, "child")
    client.terminate_workflow("two", recursive=False)
    client.wait_for_workflow_completion("two", timeout_in_seconds=PATIENCE)
    assert client.get_workflow_state("child").runtime_status is WorkflowStatus.RUNNING


def until_started(client: DaprWorkflowClient, instance: str) -> None:
    """Its parent starts it when it likes."""
    end = datetime.now(UTC) + timedelta(seconds=PATIENCE)
    while True:
        try:
            state = client.get_workflow_state(instance)
        except DaprInternalError:
            state = None
        if state is not None and state.runtime_status is WorkflowStatus.RUNNING:
            return
        assert datetime.now(UTC) < end


def test_what_is_refused_is_an_internal_error(client: DaprWorkflowClient) -> None:
    client.schedule_new_workflow("echo", instance_id="one")
    for ask in (
        lambda: client.schedule_new_workflow("echo", instance_id="one"),
        lambda: client.schedule_new_workflow("echo", instance_id="a/b"),
        lambda: client.schedule_new_workflow("echo", input=object()),
        lambda: client.purge_workflow("one"),
        lambda: client.raise_workflow_event("nobody", "go"),
        lambda: client.terminate_workflow("nobody"),
        lambda: client.pause_workflow("nobody"),
        lambda: client.wait_for_workflow_completion("nobody", timeout_in_seconds=PATIENCE),
    ):
        with pytest.raises(DaprInternalError) as caught:
            ask()
        assert caught.value._message
        assert (caught.value._error_code or "").startswith("ERR_")


def test_a_start_at_a_time(client: DaprWorkflowClient) -> None:
    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    client.schedule_new_workflow("echo", instance_id="later", start_at=later)
    assert client.get_workflow_state("later").runtime_status is WorkflowStatus.PENDING
    past = later - timedelta(days=1)
    client.schedule_new_workflow("echo", instance_id="now", start_at=past)
    client.wait_for_workflow_start("now", timeout_in_seconds=PATIENCE)


def test_a_life_with_the_general_client(client: DaprWorkflowClient) -> None:
    with DaprClient() as dapr:
        started = dapr.start_workflow(
            workflow_component="dapr", workflow_name="echo", input={"a": 1}, instance_id="one"
        )
        assert started.instance_id == "one"
        dapr.pause_workflow(instance_id="one", workflow_component="dapr")
        found = dapr.get_workflow(instance_id="one", workflow_component="dapr")
        assert (found.runtime_status, found.workflow_name) == ("Suspended", "echo")
        assert json.loads(found.properties["dapr.workflow.input"]) == {"a": 1}
        assert "dapr.workflow.output" not in found.properties
        dapr.resume_workflow(instance_id="one", workflow_component="dapr")
        dapr.raise_workflow_event(
            instance_id="one",
            workflow_component="dapr",
            event_name="go",
            event_data=b'{"b": 2}',
            send_raw_data=True,
        )
        client.wait_for_workflow_completion("one", timeout_in_seconds=PATIENCE)
        found = dapr.get_workflow("one", "dapr")
        assert found.runtime_status == "Completed"
        assert json.loads(found.properties["dapr.workflow.output"]) == {"b": 2}
        dapr.purge_workflow("one", "dapr")
        with pytest.raises(DaprInternalError, match="no such instance exists"):
            dapr.get_workflow("one", "dapr")

        failed = dapr.start_workflow("dapr", "fails").instance_id
        client.wait_for_workflow_completion(failed, timeout_in_seconds=PATIENCE)
        properties = dapr.get_workflow(failed, "dapr").properties
        assert properties["dapr.workflow.failure.error_type"] == "RuntimeError"
        assert properties["dapr.workflow.failure.error_message"] == "no luck"

        other = dapr.start_workflow("dapr", "echo", input=b"[1]", send_raw_input=True).instance_id
        dapr.terminate_workflow(other, "dapr")
        found = dapr.get_workflow(other, "dapr")
        assert (found.runtime_status, found.properties["dapr.workflow.input"]) == ("Terminated", "[1]")
        with pytest.raises(ValueError, match="must be bytes"):
            dapr.start_workflow("dapr", "echo", input="text", send_raw_input=True)
        with pytest.raises(DaprInternalError, match="cannot be written as JSON"):
            dapr.raise_workflow_event("one", "dapr", "go", object())
