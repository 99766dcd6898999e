"""One workflow that uses every feature, in processes that are killed at each of their writes.

    everything.py FOLDER WHEN FIRST STEP

WHEN is "before" or "after". For each N from FIRST in steps of STEP, until a run has fewer than N writes: a process
that kills itself at its Nth write, then one that kills itself once more early in its recovery (every third N), then
one that lives. Prints a line of JSON for each N. With WHEN "never": one run, undisturbed.

This process only forks: it has no threads, no event loop and no store, so that each run begins as a new program
would, without the cost of importing everything again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from perdure import (
    ActivityContext,
    App,
    RetryPolicy,
    WorkflowClient,
    WorkflowContext,
    when_all,
    when_any,
)
from perdure.errors import AlreadyExists, InstanceNotFound, InvalidState
from perdure.statestore.contract import Commit, CommitResult, InstanceFilter
from perdure.statestore.sqlite.store import SqliteStore
from perdure.workflow import events, requests

PARTITIONS = 8
TYPE = "dapr.internal.default.all.workflow"


class Mortal:
    """A store whose process dies at its Nth write: before it is made, or when it is durable and nobody knows yet."""

    def __init__(self, store: SqliteStore, when: str, at: int) -> None:
        self._store = store
        self._when = when
        self._at = at
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _die(self, when: str) -> None:
        if self._when == when and self.writes == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def commit_now(self, batch: Sequence[Commit]) -> Sequence[CommitResult] | None:
        self.writes += 1
        self._die("before")
        results = self._store.commit_now(batch)
        if results is None:
            self.writes -= 1
        else:
            self._die("after")
        return results

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        return await self._write(self._store.commit, batch)

    async def take(self, *args: Any) -> Any:
        return await self._write(self._store.take, *args)

    async def release(self, *args: Any) -> Any:
        return await self._write(self._store.release, *args)

    async def _write(self, method: Callable[..., Any], *args: Any) -> Any:
        self.writes += 1
        self._die("before")
        result = await method(*args)
        self._die("after")
        return result


class Ledger:
    """What activities did, durable at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, ctx: ActivityContext, input: Any) -> int:
        """How many times this was noted, with this one."""
        line = json.dumps([ctx.idempotency_key, ctx.activity_name, input])
        os.write(self._file, line.encode() + b"\n")
        os.fsync(self._file)
        return self.lines().count([ctx.idempotency_key, ctx.activity_name, input])

    def lines(self) -> list[list[Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]


def make_app(ledger: Ledger) -> App:
    app = App("all", replay_check="off")

    @app.activity
    async def on_loop(ctx: ActivityContext, n: int) -> int:
        ledger.note(ctx, n)
        return n * 2

    @app.activity
    def in_thread(ctx: ActivityContext, n: int) -> int:
        ledger.note(ctx, n)
        return n * 3

    @app.activity
    async def flaky(ctx: ActivityContext) -> str:
        if ledger.note(ctx, None) < 3:
            raise ValueError("not yet")
        return "good"

    @app.activity
    async def unheard(ctx: ActivityContext, n: int) -> None:
        ledger.note(ctx, n)

    @app.workflow
    async def child(ctx: WorkflowContext, n: int) -> int:
        doubled = await ctx.call_activity(on_loop, input=n)
        await ctx.create_timer(timedelta(milliseconds=1))
        return doubled + await ctx.call_activity(in_thread, input=n)

    @app.workflow
    async def failing(ctx: WorkflowContext) -> None:
        await ctx.call_activity(on_loop, input=99)
        raise ValueError("on purpose")

    @app.workflow
    async def detached(ctx: WorkflowContext, n: int) -> int:
        ctx.send_event("main", "told", n)
        return await ctx.call_activity(on_loop, input=n)

    @app.workflow
    async def waiting(ctx: WorkflowContext) -> None:
        await ctx.wait_for_external_event("never")

    @app.workflow
    async def victim(ctx: WorkflowContext) -> None:
        await ctx.call_child_workflow(waiting, instance_id="victim-child")

    @app.workflow
    async def short(ctx: WorkflowContext) -> int:
        return await ctx.call_child_workflow(child, input=50, instance_id="short-child")

    @app.workflow
    def generator(ctx: WorkflowContext, n: int) -> Any:
        n = yield ctx.call_activity(on_loop, input=n)
        n = yield ctx.call_activity(in_thread, input=n)
        return n

    @app.workflow
    async def main(ctx: WorkflowContext, out: dict[str, Any]) -> dict[str, Any] | None:
        if "second" not in out:
            await first_half(ctx, out)
            ctx.continue_as_new({**out, "second": True})
            return None
        # Raised in the first half, and carried over.
        out["kept"] = await ctx.wait_for_external_event("kept")
        out["told"] = await ctx.wait_for_external_event("told", timeout=timedelta(seconds=30))
        out["generator"] = await ctx.call_child_workflow(generator, input=7)
        ctx.call_activity(unheard, input=2)
        ctx.set_custom_status("done")
        return out

    async def first_half(ctx: WorkflowContext, out: dict[str, Any]) -> None:
        retry = RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=5)
        ctx.set_custom_status("begun")
        out["chain"] = await ctx.call_activity(on_loop, input=await ctx.call_activity(in_thread, input=1))
        out["fan"] = await when_all([ctx.call_activity(on_loop, input=n) for n in range(10, 15)])
        out["flaky"] = await ctx.call_activity(flaky, retry_policy=retry)
        out["child"] = await ctx.call_child_workflow(child, input=20, instance_id="main-child")
        try:
            await ctx.call_child_workflow(failing)
        except Exception as error:  # noqa: BLE001 - told by its text
            out["failing"] = str(error).rpartition(":")[2]
        try:
            await ctx.wait_for_external_event("nothing", timeout=timedelta(milliseconds=2))
        except TimeoutError:
            out["limit"] = "late"
        slow = ctx.create_timer(timedelta(hours=5))
        first = await when_any([slow, ctx.call_activity(on_loop, input=30)])
        out["race"] = first is not slow
        ctx.detach(detached, input=40, instance_id="detached")
        out["asked"] = await ctx.wait_for_external_event("asked")
        ctx.call_activity(unheard, input=1)

    return app


async def drive(client: WorkflowClient) -> dict[str, Any]:
    """What a caller does, again from the beginning after each crash."""
    for workflow, id, input in (("main", "main", {}), ("victim", "victim", None), ("short", "short", None)):
        try:
            if await client.get_workflow_state(id) is None and not (id == "short" and await _purged(client)):
                await client.schedule_new_workflow(workflow, input=input, instance_id=id)
        except AlreadyExists:
            pass
    with suppress(InvalidState):  # once it has what it needed
        for name in ("kept", "asked"):
            await client.raise_workflow_event("main", name, data=name)
        await client.pause_workflow("main")
        await client.resume_workflow("main")
    while await client.get_workflow_state("victim-child") is None:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await client.terminate_workflow("victim", reason="enough")
    try:
        await client.wait_for_workflow_completion("short", timeout=60)
        await client.purge_workflow("short")
    except InstanceNotFound:
        pass
    result: dict[str, Any] = {}
    for id in ("main", "victim", "victim-child", "detached", "main-child"):
        while await client.get_workflow_state(id) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        state = await client.wait_for_workflow_completion(id, timeout=60)
        result[id] = [state.runtime_status, state.output, state.generation]
    while await client.get_workflow_state("short-child") is not None:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    result["left"] = sorted(
        state.instance_id for state in (await client.list()).items if "main:" not in state.instance_id
    )
    return result


async def _purged(client: WorkflowClient) -> bool:
    """The purge of "short" was acknowledged, or committed: its tombstone is there."""
    engine = client._workflows._engine
    page = await engine.store.keys(engine.actor("short"))
    return bool(page.items)


async def owed(store: SqliteStore) -> set[str]:
    """The keys of activities that the store says are asked for and not done."""
    found: set[str] = set()
    cursor = None
    actors = set()
    while True:
        page = await store.query(InstanceFilter(type=TYPE), cursor, 1000)
        actors |= {row.actor for row in page.items}
        cursor = page.cursor
        if cursor is None:
            break
    for actor in actors:
        snapshot = await store.load(actor)
        assert snapshot is not None
        open: dict[int, str] = {}
        for key, value in snapshot.values.items():
            if key.startswith("history-"):
                event = events.decode(value)
                if isinstance(event, events.TaskScheduled):
                    open[event.id] = event.key
                elif isinstance(event, events.TaskCompleted | events.TaskFailed):
                    del open[event.id]
                elif isinstance(event, events.ExecutionCompleted):
                    open.clear()
            elif key.startswith("inbox-"):
                message = requests.decode_inbox(value)
                if isinstance(message, requests.ActivityDone):
                    open.pop(message.task_id, None)
            elif key.startswith("outbox-"):
                body = requests.decode_outbox(value).body
                if isinstance(body, requests.ActivityRequest):
                    found.add(body.key)
        found |= set(open.values())
    return found


async def run(folder: Path, when: str, at: int) -> dict[str, Any]:
    ledger = Ledger(folder / "ledger")
    before = {key for key, _, _ in ledger.lines()}
    mortal = Mortal(SqliteStore(str(folder / "state.db"), partitions=PARTITIONS), when, at)
    pending = await owed(mortal._store)
    noted = len(ledger.lines())
    app = make_app(ledger)
    async with app.serve(store=mortal, blocked_after=0) as node:
        result = await drive(node.client)
        while len({key for key, name, _ in ledger.lines() if name == "unheard"}) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        actor = node.runtime.engine.actor("main")
        while (await mortal.keys(actor, "outbox-")).items:
            node.runtime.host.wake(actor)
            await asyncio.sleep(0.001)
    await mortal._store.close()
    # A retry has the key of the attempt before, which did complete: "flaky" may come again.
    again = {key for key, name, _ in ledger.lines()[noted:] if name != "flaky"} & before
    return {
        "result": result,
        "effects": sorted(
            {(key, name, json.dumps(input)) for key, name, input in ledger.lines()}, key=lambda e: e[1:]
        ),
        "wrongly_again": sorted(again - pending),
        "writes": mortal.writes,
    }


def forked(folder: Path, when: str, at: int) -> dict[str, Any] | None:
    """The report of a run in a process of its own; None when it killed itself."""
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(90)
            out.write_text(json.dumps(asyncio.run(run(folder, when, at))))
            status = 0
        except BaseException:  # noqa: BLE001 - os._exit tells nobody
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    if os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL:
        return None
    if not os.WIFEXITED(ended) or os.WEXITSTATUS(ended):
        raise SystemExit(f"the run {when} {at} ended with {ended}")
    return dict(json.loads(out.read_text()))


def main(folder: Path, when: str, first: int, step: int) -> None:
    # Imported before the forks: threads and stores come after them.
    import uvloop  # noqa: F401

    import perdure.node  # noqa: F401

    n = first
    while True:
        place = folder / f"{when}-{n}"
        place.mkdir(parents=True)
        report = forked(place, when, n)
        lived = report is not None
        if not lived and n % 3 == 0:
            report = forked(place, "after" if n % 2 else "before", 2 + n % 7)
        if report is None:
            report = forked(place, "never", 0)
        assert report is not None
        print(json.dumps({"n": n, "lived": lived, **report}), flush=True)
        if lived:
            return
        n += step


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
