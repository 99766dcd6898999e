"""One stored value of one instance cannot be read: that instance says so, and no other hears of it."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perdure import ActivityContext, App, Node, RuntimeStatus, WorkflowContext
from perdure.errors import CorruptState, PerdureError
from tests.faults.processes import WORKFLOWS

app = App("corrupt", replay_check="off")
OTHERS = 30


@app.activity
async def add(ctx: ActivityContext, number: int) -> int:
    return number + 1


@app.workflow
async def flow(ctx: WorkflowContext, number: int) -> int:
    ctx.set_custom_status("working")
    number = await ctx.call_activity(add, input=number)
    ctx.send_event("listener", "told", data=ctx.instance_id)
    await ctx.wait_for_external_event("go")
    return await ctx.call_activity(add, input=number)


@app.workflow
async def listener(ctx: WorkflowContext) -> None:
    await ctx.wait_for_external_event("never")


@asynccontextmanager
async def serve(path: Path) -> AsyncIterator[Node]:
    async with app.serve(store=f"sqlite:///{path}", http_port=0, drain_seconds=0) as node:
        yield node


async def begun(path: Path) -> None:
    """A store with instances that wait, one of them the victim, which has something of everything."""
    async with serve(path) as node:
        client = node.client
        await client.schedule_new_workflow(listener, instance_id="listener")
        for number in range(OTHERS):
            await client.schedule_new_workflow(flow, input=number, instance_id=f"other-{number}")
        await client.schedule_new_workflow(flow, input=0, instance_id="victim")
        while len((await client.history("victim")).items) < 3:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.005)
        await client.pause_workflow("victim")
        await client.raise_workflow_event("victim", "first")


def corrupt(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    try:
        ((num, keyset),) = connection.execute(
            "SELECT num, keyset FROM actors JOIN heads USING (num) WHERE id = 'victim'"
        ).fetchall()
        changed = connection.execute(sql, {"num": num, "keyset": keyset}).rowcount
        connection.commit()
        assert changed == 1, sql
    finally:
        connection.close()


class Kind(NamedTuple):
    sql: str
    #: What the victim's status says; empty: nothing, since nothing that matters is missing.
    reason: str


KEY = (
    "UPDATE keys SET value = x'c1ff' WHERE keyset = :keyset AND name = '{0}-' "
    "AND seq = (SELECT min(seq) + {1} FROM keys WHERE keyset = :keyset AND name = '{0}-')"
)
KINDS = {
    "metadata": Kind("UPDATE heads SET metadata = x'c1ff' WHERE num = :num", "metadata cannot be read"),
    "metadata of a strange type": Kind("UPDATE heads SET metadata = 7 WHERE num = :num", "cannot be read"),
    "history": Kind(KEY.format("history", 1), "key history-000001"),
    "inbox": Kind(KEY.format("inbox", 0), "key inbox-000000"),
    "outbox": Kind(
        "INSERT INTO keys (keyset, numbered, name, seq, value) VALUES (:keyset, 1, 'outbox-', 7, x'c1ff')",
        "key outbox-000007",
    ),
}
ROWS = {
    "details": "UPDATE instances SET details = x'c1ff' WHERE num = :num",
    "status": "UPDATE instances SET status = 'nonsense' WHERE num = :num",
    "time": "UPDATE instances SET created = 4611686018427387904 WHERE num = :num",
    "custom status": "UPDATE heads SET custom_status = x'ff00fe' WHERE num = :num",
}


async def others_go_on(node: Node) -> None:
    client = node.client
    for number in range(OTHERS):
        await client.raise_workflow_event(f"other-{number}", "go")
    for number in range(OTHERS):
        state = await client.wait_for_workflow_completion(f"other-{number}", timeout=30)
        assert state.output == number + 2
    await client.schedule_new_workflow(listener, instance_id="later")
    await client.wait_for_workflow_start("later", timeout=30)
    listed = await client.list(limit=1000)
    assert {state.instance_id for state in listed.items} >= {"victim", "listener", "later", "other-0"}


async def stalled(node: Node) -> str:
    """Why the victim is STALLED, when it is."""
    while True:
        state = await node.client.get_workflow_state("victim")
        if state is not None and state.runtime_status is RuntimeStatus.STALLED:
            return state.reason
        await asyncio.sleep(0.005)


async def get(node: Node, path: str) -> tuple[int, Any]:
    def ask() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"{node.url}{path}", timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    return await asyncio.to_thread(ask)


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.db"
    await begun(path)
    corrupt(path, KINDS[kind].sql)
    reason = KINDS[kind].reason
    caplog.set_level(logging.ERROR)
    async with asyncio.timeout(90), serve(path) as node:
        client = node.client
        assert reason in await stalled(node)
        await others_go_on(node)

        # Whoever asks for it is told.
        status, answer = await get(node, f"{WORKFLOWS}/victim")
        assert (status, answer["runtimeStatus"]) == (200, "STALLED")
        assert reason in answer["reason"]
        if kind.startswith("metadata"):
            with pytest.raises(CorruptState, match=r"cannot be read.*by force"):
                await client.raise_workflow_event("victim", "go")
            with pytest.raises(PerdureError, match="cannot be read"):
                await client.purge_workflow("victim")
        else:
            await client.raise_workflow_event("victim", "go")
        status, answer = await get(node, f"{WORKFLOWS}/victim/history")
        assert status == (500 if kind == "history" else 200)
        assert kind != "history" or reason in answer["message"]
        status, answer = await get(node, f"{WORKFLOWS}?status=stalled")
        assert [state["instanceID"] for state in answer["instances"]] == ["victim"]

        # Resuming changes nothing while it is as it is, and loses nothing.
        if not kind.startswith("metadata"):
            await client.resume_workflow("victim")
            assert reason in await stalled(node)
        # It was tried a few times, not all the time.
        assert len([record for record in caplog.records if "victim" in str(record.__dict__)]) < 10

        await client.purge_workflow("victim", force=True)
        assert await client.get_workflow_state("victim") is None
        await client.schedule_new_workflow(flow, input=7, instance_id="victim")
        await client.raise_workflow_event("victim", "go")
        assert (await client.wait_for_workflow_completion("victim")).output == 9


@pytest.mark.parametrize("kind", ROWS)
async def test_the_index_row(tmp_path: Path, kind: str) -> None:
    """It is made anew from what the instance is."""
    path = tmp_path / "state.db"
    await begun(path)
    corrupt(path, ROWS[kind])
    async with asyncio.timeout(90), serve(path) as node:
        client = node.client
        await others_go_on(node)
        state = await client.get_workflow_state("victim")
        assert state is not None
        if kind != "custom status":
            assert "the index row cannot be read" in state.reason
        assert (await get(node, f"{WORKFLOWS}/victim"))[0] == 200
        assert (await get(node, f"{WORKFLOWS}/victim/history"))[0] == 200
        await client.resume_workflow("victim")
        await client.raise_workflow_event("victim", "go")
        state = await client.wait_for_workflow_completion("victim")
        assert (state.output, state.reason, state.custom_status) == (2, "", "working")
        assert await client.get_workflow_state("victim") == state


async def test_commands(tmp_path: Path) -> None:
    """The same from the command line, whether a node has the file or none."""
    path = tmp_path / "state.db"
    await begun(path)
    corrupt(path, KINDS["history"].sql)
    corrupt(path, ROWS["details"])
    store = ["--store", f"sqlite:///{path}"]
    actor = ["dapr.internal.default.corrupt.workflow", "victim"]

    async def check(expected: int) -> None:
        listed = await asyncio.to_thread(cli, "workflow", "list", "--json", *store)
        assert listed.returncode == 0, listed.stderr
        assert len(json.loads(listed.stdout)["instances"]) == expected
        shown = await asyncio.to_thread(cli, "workflow", "get", "victim", "--json", *store)
        assert shown.returncode == 0, shown.stderr
        # The row's own error, until a node has tried the instance.
        reason = json.loads(shown.stdout)["reason"]
        assert "the index row cannot be read" in reason or "key history-000001" in reason
        history = await asyncio.to_thread(cli, "workflow", "history", "victim", *store)
        assert history.returncode == 1
        assert "key history-000001" in history.stderr
        assert "Traceback" not in history.stderr
        assert len(history.stderr.splitlines()) == 1
        keys = await asyncio.to_thread(cli, "state", "keys", *actor, *store)
        assert keys.returncode == 0, keys.stderr
        assert "history-000001" in keys.stdout

    await check(OTHERS + 2)
    async with serve(path) as node:
        await check(OTHERS + 2)
        purged = await asyncio.to_thread(cli, "workflow", "purge", "victim", "--force", *store)
        assert purged.returncode == 0, purged.stderr
        assert await node.client.get_workflow_state("victim") is None
