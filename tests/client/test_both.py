"""The client within the node's process and the one over HTTP do the same, and fail in the same way."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import App, Node, RuntimeStatus, WorkflowClient
from perdure.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InstanceNotFound,
    InvalidId,
    InvalidInput,
    InvalidState,
    PayloadTooLarge,
)

#: What ids may be made of that a URL has a meaning for.
ODD_IDS = ["a b", "order:1", "50%", "a?b=c&d#e", "ä字", ".", "..", "%2e", "a+b", "x" * 256, "a::b\\c"]


def of(app: App, name: str) -> Any:
    return app.registry.workflows[name].fn


async def test_by_function_and_by_name(client: WorkflowClient, app: App) -> None:
    for workflow in (of(app, "twice"), "twice"):
        id = await client.schedule_new_workflow(workflow, input=21)
        assert (await client.wait_for_workflow_completion(id, timeout=30)).output == 42


async def test_a_function_goes_by_the_name_that_it_is_registered_under(
    client: WorkflowClient, app: App
) -> None:
    id = await client.schedule_new_workflow(of(app, "other name"), input={"a": [1, None]})
    state = await client.wait_for_workflow_completion(id, timeout=timedelta(seconds=20))
    assert (state.name, state.input, state.output) == ("other name", {"a": [1, None]}, {"a": [1, None]})


@pytest.mark.parametrize("id", ODD_IDS)
async def test_any_id(client: WorkflowClient, id: str) -> None:
    assert await client.schedule_new_workflow("listen", instance_id=id) == id
    assert (await client.wait_for_workflow_start(id, timeout=30)).instance_id == id
    await client.raise_workflow_event(id, "go", data=id)
    assert (await client.wait_for_workflow_completion(id, timeout=30)).output == id
    assert (await client.history(id)).items
    await client.purge_workflow(id)
    assert await client.get_workflow_state(id) is None


async def test_any_event_name(client: WorkflowClient, app: App) -> None:
    @app.workflow
    async def hear(ctx: Any, name: str) -> object:
        return await ctx.wait_for_external_event(name)

    for name in ("a/b", "ä b?", "..", "%41"):
        id = await client.schedule_new_workflow(hear, input=name)
        await client.raise_workflow_event(id, name, data=1)
        assert (await client.wait_for_workflow_completion(id, timeout=30)).output == 1


async def test_the_whole_life(client: WorkflowClient) -> None:
    id = await client.schedule_new_workflow("listen")
    assert (await client.wait_for_workflow_start(id, timeout=30)).custom_status == {"step": 1}
    await client.pause_workflow(id, reason="lunch")
    await client.pause_workflow(id)
    state = await client.get_workflow_state(id)
    assert state is not None
    assert (state.runtime_status, state.reason) == (RuntimeStatus.SUSPENDED, "lunch")
    await client.resume_workflow(id)
    await client.terminate_workflow(id, output={"done": False}, reason="enough")
    state = await client.wait_for_workflow_completion(id, timeout=30)
    assert (state.runtime_status, state.output) == (RuntimeStatus.TERMINATED, {"done": False})
    await client.terminate_workflow(id)
    await client.purge(id)
    assert await client.get(id) is None


async def test_both_see_the_same(node: Node, http: WorkflowClient, eventually: Any) -> None:
    """To the last field, for whatever has happened to an instance."""
    finished = await node.client.schedule_new_workflow("twice", input=1)
    failed = await node.client.schedule_new_workflow("broken")
    waiting = await node.client.schedule_new_workflow("listen", instance_id="w/".strip("/"))
    unknown = await node.client.schedule_new_workflow("nobody", input={"x": "ä\n"})
    for id in (finished, failed, unknown):
        await node.client.wait_for_workflow_completion(id, timeout=30)
    await node.client.wait_for_workflow_start(waiting, timeout=30)
    for id in (finished, failed, waiting, unknown):
        assert await http.get(id) == await node.client.get(id)
        assert await http.history(id) == await node.client.history(id)
    state = await http.get(failed)
    assert state is not None
    assert state.failure_details is not None
    assert state.failure_details.type == "OutOfStock"
    assert state.failure_details.inner is not None
    assert state.failure_details.inner.type == "KeyError"
    assert await http.list() == await node.client.list()


async def test_payloads_are_not_touched(node: Node, client: WorkflowClient) -> None:
    """Neither spaces nor numbers that Python would write in another way."""
    text = b'{ "a" : 1.0e2,"b":[ ] , "c":12345678901234567890123 }'
    id = await client.start("other name", text)
    state = await client.wait_for_workflow_completion(id, timeout=30)
    assert state.serialized_input == text.decode()
    [_, started] = next(item for item in (await client.history(id)).items if hasattr(item[1], "input"))
    assert started.input == text  # type: ignore[union-attr]
    waiting = await client.start("listen", None)
    await client.raise_event(waiting, "go", text)
    events = (await client.history(waiting)).items
    assert text in [getattr(event, "data", None) for _, event in events]


async def test_a_large_payload(client: WorkflowClient) -> None:
    text = "x" * 2_000_000
    id = await client.schedule_new_workflow("other name", input=text)
    assert (await client.wait_for_workflow_completion(id, timeout=30)).output == text


async def test_pages(client: WorkflowClient) -> None:
    ids = [await client.schedule_new_workflow("listen", instance_id=f"p-{n}") for n in range(7)]
    await client.schedule_new_workflow("twice", input=1, instance_id="other")
    await client.wait_for_workflow_completion("other", timeout=30)
    found: list[str] = []
    cursor = None
    while True:
        page = await client.list(id_prefix="p-", limit=3, cursor=cursor)
        found += [state.instance_id for state in page.items]
        cursor = page.cursor
        if cursor is None:
            break
        # What comes in between is newer than all that is still to come.
        await client.schedule_new_workflow("listen", instance_id=f"p-new-{len(found)}")
    assert found == ids[::-1]


async def test_filters(client: WorkflowClient) -> None:
    for n in range(3):
        await client.schedule_new_workflow("twice", input=n, instance_id=f"t-{n}")
        await client.wait_for_workflow_completion(f"t-{n}", timeout=30)
    await client.schedule_new_workflow("listen", instance_id="l & ?")

    async def ids(**where: Any) -> list[str]:
        return [state.instance_id for state in (await client.list(**where)).items]

    assert await ids(statuses=["completed"]) == ["t-2", "t-1", "t-0"]
    assert await ids(statuses=[RuntimeStatus.RUNNING, "failed"]) == ["l & ?"]
    assert await ids(name="listen") == await ids(id_prefix="l &") == ["l & ?"]
    times = [state.created_at for state in (await client.list(id_prefix="t-")).items][::-1]
    assert await ids(id_prefix="t-", created_from=times[1]) == ["t-2", "t-1"]
    assert await ids(id_prefix="t-", created_to=times[1]) == ["t-0"]
    east = times[1].astimezone(tz=None)
    assert await ids(id_prefix="t-", created_from=east, created_to=east + timedelta(microseconds=1)) == [
        "t-1"
    ]
    assert await ids(created_from=datetime.now(UTC) + timedelta(days=1)) == []


async def test_a_history_in_pages(client: WorkflowClient) -> None:
    id = await client.schedule_new_workflow("twice", input=1)
    await client.wait_for_workflow_completion(id, timeout=30)
    whole = (await client.history(id)).items
    assert [number for number, _ in whole] == list(range(len(whole)))
    found, start = [], 0
    while True:
        page = await client.history(id, start=start, limit=1)
        found += page.items
        if page.cursor is None:
            break
        start = int(page.cursor)
    assert found == list(whole)


async def test_a_wait_ends_when_it_happens(client: WorkflowClient) -> None:
    id = await client.schedule_new_workflow("listen")
    waiting = asyncio.create_task(client.wait_for_workflow_completion(id, timeout=30))
    await client.wait_for_workflow_start(id, timeout=30)
    assert not waiting.done()
    await client.raise_workflow_event(id, "go", data=7)
    assert (await waiting).output == 7


@pytest.mark.parametrize("seconds", [0, 0.05, timedelta(milliseconds=20)])
async def test_a_wait_that_takes_too_long(client: WorkflowClient, seconds: Any) -> None:
    id = await client.schedule_new_workflow("listen")
    with pytest.raises(DeadlineExceeded, match=f"{id}.*has not finished within .*it goes on") as caught:
        await client.wait_for_workflow_completion(id, timeout=seconds)
    assert isinstance(caught.value, TimeoutError)
    state = await client.get_workflow_state(id)
    assert state is not None
    assert not state.runtime_status.finished


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_an_id_that_is_taken(client: WorkflowClient) -> None:
    await client.schedule_new_workflow("listen", instance_id="x")
    with pytest.raises(AlreadyExists):
        await client.schedule_new_workflow("listen", instance_id="x")
    await client.terminate_workflow("x")
    await client.schedule_new_workflow("listen", instance_id="x")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.wait_for_workflow_completion("none", timeout=30),
        lambda client: client.raise_workflow_event("none", "go"),
        lambda client: client.pause_workflow("none"),
        lambda client: client.resume_workflow("none"),
        lambda client: client.terminate_workflow("none"),
        lambda client: client.purge_workflow("none"),
        lambda client: client.history("none"),
    ],
)
async def test_an_unknown_id(client: WorkflowClient, ask: Any) -> None:
    with pytest.raises(InstanceNotFound):
        await ask(client)


async def test_what_a_finished_instance_does_not_take(client: WorkflowClient) -> None:
    id = await client.schedule_new_workflow("twice", input=1)
    await client.wait_for_workflow_completion(id, timeout=30)
    with pytest.raises(InvalidState):
        await client.raise_workflow_event(id, "go")
    waiting = await client.schedule_new_workflow("listen")
    with pytest.raises(InvalidState):
        await client.purge_workflow(waiting)
    await client.purge_workflow(waiting, force=True)


@pytest.mark.parametrize("id", ["", "a/b", "a\nb", "x" * 257, "\ud800", 5])
async def test_an_id_that_cannot_be(client: WorkflowClient, id: Any) -> None:
    for ask in (
        lambda: client.schedule_new_workflow("listen", instance_id=id),
        lambda: client.get(id),
        lambda: client.history(id),
        lambda: client.purge(id),
        lambda: client.wait(id),
        lambda: client.terminate(id),
        lambda: client.raise_event(id, "go", None),
    ):
        with pytest.raises(InvalidId):
            await ask()


async def test_what_the_caller_got_wrong(client: WorkflowClient) -> None:
    id = await client.schedule_new_workflow("listen")
    for ask, said in (
        (lambda: client.schedule_new_workflow(""), "name is empty"),
        (lambda: client.schedule_new_workflow("twice", input=object()), "input of workflow 'twice'"),
        (lambda: client.raise_workflow_event(id, ""), "name is empty"),
        (lambda: client.raise_workflow_event(id, "go", data={1, object()}), "data of event 'go'"),
        (lambda: client.terminate_workflow(id, output=object()), "the output"),
        (lambda: client.list(statuses=["runing"]), "unknown status"),
        (lambda: client.list(limit=0), "1 to 1000"),
        (lambda: client.list(cursor="made up"), "cursor"),
        (lambda: client.list(created_from=datetime(2026, 1, 1)), "no time zone"),
    ):
        with pytest.raises(InvalidInput, match=said):
            await ask()


async def test_a_payload_that_is_too_large(client: WorkflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.workflow.client.PAYLOAD_BYTES", 1000)
    with pytest.raises(PayloadTooLarge):
        await client.schedule_new_workflow("listen", input="x" * 1000)


async def test_what_has_finished_is_run_again(client: WorkflowClient) -> None:
    id = await client.schedule_new_workflow("twice", input=21)
    await client.wait_for_workflow_completion(id, timeout=30)
    again = await client.rerun_workflow(id)
    assert (await client.wait_for_workflow_completion(again, timeout=30)).output == 42
    assert await client.rerun_workflow(id, new_instance_id="an id: ä", input=5) == "an id: ä"
    assert (await client.wait_for_workflow_completion("an id: ä", timeout=30)).output == 10
    with pytest.raises(AlreadyExists):
        await client.rerun_workflow(id, new_instance_id=again)
    with pytest.raises(InstanceNotFound):
        await client.rerun_workflow("none")
