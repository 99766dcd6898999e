"""A disk without room: nothing acknowledged is lost, the node says so, and goes on when there is room again."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from perdure import ActivityContext, App, WorkflowContext
from perdure.statestore.sqlite.store import SqliteStore


async def _limit(store: SqliteStore, pages: int | None) -> int:
    """Lets the database grow to so many pages from now on; None: without a limit. How many it has."""

    def job(connection: sqlite3.Connection) -> int:
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {1 << 30 if pages is None else now + pages}")
        return int(now)

    return int(await store._writes.ask(job))


async def test_a_full_disk_stops_the_node_until_there_is_room(tmp_path: Path, eventually: Any) -> None:
    app = App("d", replay_check="off")
    ran: list[str] = []

    @app.activity
    async def note(ctx: ActivityContext, text: str) -> int:
        ran.append(ctx.idempotency_key)
        return len(text)

    @app.workflow
    async def fill(ctx: WorkflowContext, text: str) -> int:
        first = await ctx.call_activity(note, input=text)
        return first + await ctx.call_activity(note, input=text)

    text = "x" * 20_000
    path = str(tmp_path / "state.db")
    store = SqliteStore(path, partitions=16)
    acknowledged: list[str] = []

    async def start(client: Any, n: int) -> None:
        acknowledged.append(await client.schedule_new_workflow(fill, input=text, instance_id=f"i-{n}"))

    async with app.serve(store=store) as node:
        await start(node.client, 0)
        await node.client.wait_for_workflow_completion("i-0", timeout=10)
        await _limit(store, 60)
        starts = [asyncio.ensure_future(start(node.client, n)) for n in range(1, 40)]
        await eventually(node.ready, "the node says that it is not ready")
        assert "full" in node.ready()
        assert not all(task.done() for task in starts)
        # Reading goes on.
        assert (await node.client.get_workflow_state("i-0")).output == 40_000
        for id in acknowledged:
            assert await node.client.get_workflow_state(id) is not None
        await _limit(store, None)
        await asyncio.wait_for(asyncio.gather(*starts), 30)
        assert node.ready() is None
        for n in range(1, 40):
            state = await node.client.wait_for_workflow_completion(f"i-{n}", timeout=10)
            assert state.output == 40_000
        assert len(ran) == len(set(ran)) == 80
    await store.close()
