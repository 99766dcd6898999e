"""Histories that were kept: the code of today agrees with them, or says where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import ActivityContext, App, TaskFailedError, WorkflowContext
from perdure.errors import InvalidInput, NotRegistered
from perdure.sidecar.decoded import event_json
from perdure.testing import NonDeterminism, blocking, replay, replay_export
from perdure.testing.golden import decode
from perdure.workflow import events


def release(*, reminds: bool = False) -> App:
    app = App("kept")

    @app.activity
    async def charge(ctx: ActivityContext, amount: int) -> dict[str, Any]:
        if amount < 0:
            raise ValueError("no such money")
        return {"paid": amount, "note": "grüße"}

    @app.activity
    async def remind(ctx: ActivityContext) -> None: ...

    @app.workflow
    async def child(ctx: WorkflowContext, amount: int) -> dict[str, Any]:
        return await ctx.call_activity(charge, input=amount)

    @app.workflow
    async def order(ctx: WorkflowContext, amount: int) -> list[Any]:
        found: list[Any] = [await ctx.call_child_workflow(child, input=amount)]
        try:
            await ctx.call_activity(charge, input=-1)
        except TaskFailedError as error:
            found.append(error.details.message)
        await ctx.create_timer(timedelta(days=1))
        if reminds:
            await ctx.call_activity(remind)
        found.append(await ctx.wait_for_external_event("approved"))
        return found

    return app


@pytest.fixture
def kept() -> list[dict[str, Any]]:
    """Of an instance that waits for its approval."""
    with blocking(release()) as perdure:
        id = perdure.start("order", 5)
        perdure.advance(days=1)
        return perdure.history(id)


def test_the_same_code_agrees(kept: list[dict[str, Any]], tmp_path: Path) -> None:
    assert replay(kept, release()).waits == ("event approved",)
    # As files and HTTP have them.
    path = tmp_path / "order.json"
    path.write_text(json.dumps(kept))
    assert replay(path, release()).status == "waiting"
    assert replay({"events": json.loads(path.read_text())}, release()).status == "waiting"


def test_the_whole_of_one_that_has_ended() -> None:
    with blocking(release()) as perdure:
        id = perdure.start("order", 5)
        perdure.advance(days=1)
        perdure.raise_event(id, "approved", {"by": "Jane"})
        output = perdure.state(id).output
        found = replay(perdure.history(id), release())
    assert output == [{"paid": 5, "note": "grüße"}, "no such money", {"by": "Jane"}]
    assert (found.status, found.output) == ("completed", output)


def test_other_code_is_told(kept: list[dict[str, Any]]) -> None:
    with pytest.raises(NonDeterminism, match="activity 'remind'"):
        replay(kept, release(reminds=True))


def test_what_is_no_whole_history(kept: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput, match="does not begin with ExecutionStarted"):
        replay(kept[1:2], release())
    with pytest.raises(InvalidInput, match="does not begin"):
        replay([], release())
    with pytest.raises(InvalidInput, match="event 2 is missing"):
        replay([*kept[:2], *kept[3:]], release())
    with pytest.raises(InvalidInput, match="no event of type 'Nonsense'"):
        replay([kept[0], {"type": "Nonsense"}], release())
    with pytest.raises(InvalidInput, match="event 1 of the history cannot be read"):
        replay([kept[0], {"type": "TaskCompleted", "at": kept[0]["at"]}], release())
    with pytest.raises(NotRegistered):
        replay(kept, App("another"))


def test_text_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(InvalidInput, match=r"broken\.json is not JSON"):
        replay(path, release())


def test_every_kind_of_event_is_read_as_it_was_written() -> None:
    at = 1_767_225_600_123_456
    parent = events.Parent("type", "id", "name", "execution", 3, b"\xff\x00nonce")
    trace = events.TraceContext("00-trace")
    failure = events.FailureDetails("E", "no", "stack", events.FailureDetails("I", "inner"), True)
    of_each: list[events.Event] = [
        events.ExecutionStarted(
            at, "w", "s", "e", 2, b'{"a":[1,2.5,null]}', "v1", parent, at + 1, trace, {"k": "v"}
        ),
        events.TaskCompleted(at, 1, b'"x"'),
        events.TaskFailed(at, 1, failure),
        events.TimerFired(at, 2),
        events.ChildCompleted(at, 3, b"null"),
        events.ChildFailed(at, 3, failure),
        events.EventRaised(at, "name", b"\xfe\xff"),
        events.ExecutionSuspended(at, "why"),
        events.ExecutionResumed(at),
        events.ExecutionTerminated(at, "why", b"1", False),
        events.TaskScheduled(at, 1, "n", b"\x00\x01nonce-bytes\xff", "key", b"true", "app", trace),
        events.TimerCreated(at, 2, at + 5, "event:x"),
        events.ChildScheduled(at, 3, "n", "i", "s", b"\xffnonce", b"[]", "app"),
        events.DetachedScheduled(at, 4, "n", "i", "s", b"{}", "", at + 7),
        events.EventSent(at, 5, "i", "n", b'"d"'),
        events.ExecutionCompleted(at, "failed", b"1", failure),
    ]
    shown = [{"number": number, **event_json(event)} for number, event in enumerate(of_each)]
    assert decode(json.loads(json.dumps(shown))) == of_each
    assert datetime.fromisoformat(shown[0]["at"]) == datetime.fromtimestamp(at / 1e6, tz=UTC)


def exported(path: Path) -> Path:
    """By the command line, of three instances under way, one that has ended, one of another app and one not begun."""
    store = f"sqlite:///{path}/state.db"
    with blocking(release(), store=store) as perdure:
        for id in ("a", "b", "c"):
            perdure.start("order", 5, instance_id=id)
        perdure.start("child", 1, instance_id="young")
        perdure.advance(days=1)
    with blocking(App("another"), store=store) as perdure:
        perdure.start("unknown", instance_id="foreign")
    file = path / "running.jsonl"
    command = [sys.executable, "-m", "perdure", "export", str(file), "--store", store, "--app-id", "kept"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return file


def test_every_instance_of_an_export(tmp_path: Path) -> None:
    file = exported(tmp_path)
    found = replay_export(file, release())
    assert {id: found[id].waits for id in ("a", "b", "c")} == dict.fromkeys("abc", ("event approved",))
    assert found["young"].status == "completed"
    with pytest.raises(
        NonDeterminism, match="3 of 7 instances could not go on with this code: 'a': "
    ) as told:
        replay_export(file, release(reminds=True))
    assert sorted(told.value.broken) == ["a", "b", "c"]  # type: ignore[attr-defined]
    assert replay_export(file, App("another")) == {}
    with file.open("a") as lines:
        lines.write("{}\n")
    with pytest.raises(InvalidInput, match=r"line 8 of .* not an exported instance"):
        replay_export(file, release())
