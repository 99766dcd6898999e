"""No room for the store, or no answer from it, while a node is at work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure import ActivityContext, App, Node, WorkflowContext
from perdure.errors import StoreUnavailable
from perdure.statestore.memory import MemoryStore
from tests.waiting import eventually

app = App("full", replay_check="off")
#: Large, so that little is needed to fill the disk.
TEXT = "x" * 50_000


@app.activity
async def measure(ctx: ActivityContext, text: str) -> int:
    return len(text)


@app.workflow
async def flow(ctx: WorkflowContext, text: str) -> int:
    return await ctx.call_activity(measure, input=text)


class Load:
    """Starts instances, so many at a time, until it is told to stop."""

    def __init__(self, node: Node, at_a_time: int) -> None:
        self._node = node
        self._number = 0
        self._stopping = False
        self.acknowledged: list[str] = []
        self._tasks = [asyncio.ensure_future(self._start()) for _ in range(at_a_time)]

    async def _start(self) -> None:
        while not self._stopping:
            self._number += 1
            id = f"load-{self._number}"
            await self._node.client.schedule_new_workflow(flow, input=TEXT, instance_id=id)
            self.acknowledged.append(id)
            # Neither faster than what it asks for.
            await self._node.client.wait_for_workflow_completion(id)

    async def until(self, count: int) -> None:
        while len(self.acknowledged) < count:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def readyz(node: Node) -> tuple[int, Any]:
    def ask() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"{node.url}/readyz", timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    return await asyncio.to_thread(ask)


async def until_readyz(node: Node, wanted: int) -> Any:
    while True:
        status, answer = await readyz(node)
        if status == wanted:
            return answer
        await asyncio.sleep(0.02)


async def survives(
    node: Node,
    refuse: Callable[[], Awaitable[None]],
    allow: Callable[[], Awaitable[None]],
    *,
    steady: bool = True,
) -> Any:
    """Load while the store refuses for a while; returns what was acknowledged, and what /readyz said. Not `steady`:
    it may have room for one write and none for the next."""
    load = Load(node, 8)
    await load.until(20)
    assert (await readyz(node))[0] == 200
    await refuse()
    answer = await until_readyz(node, 503)
    # Nobody is told what is not true: a start waits, and looking works as before.
    known = await node.client.get_workflow_state(load.acknowledged[0])
    assert known is not None
    count = len(load.acknowledged)
    if steady:
        # It has been tried again, and is still refused.
        committer = node.runtime.committer
        attempts = committer.attempts
        await eventually(lambda: committer.attempts >= attempts + 2, "it is tried again")
        assert len(load.acknowledged) == count
    await allow()
    await load.until(count + 20)
    assert (await until_readyz(node, 200))["ready"]
    await load.stop()
    return load.acknowledged, answer["reason"]


async def check(node: Node, acknowledged: list[str]) -> None:
    for id in acknowledged:
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
        assert state.output == len(TEXT)


# --- SQLite --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A folder on a file system of its own; None where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(blocker: Path) -> None:
    with blocker.open("wb", buffering=0) as file:
        while os.statvfs(blocker.parent).f_bavail:
            with contextlib.suppress(OSError):
                file.write(bytes(16 * 1024))


async def pages(node: Node, most: Callable[[int], int]) -> None:
    """Sets how large the database may become."""

    def job(connection: Any) -> None:
        (count,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {most(count)}")

    store: Any = node.store
    await store._writes.ask(job)


@pytest.mark.parametrize("real", [False, True], ids=["limited file", "full file system"])
async def test_full_disk(tmp_path: Path, small_disk: Path | None, real: bool) -> None:
    folder = small_disk if real and small_disk is not None else tmp_path
    blocker = folder / "blocker"
    url = f"sqlite:///{folder}/state.db"

    async def refuse() -> None:
        if folder is small_disk:
            fill(blocker)
        else:
            await pages(node, lambda count: count + 20)

    async def allow() -> None:
        if folder is small_disk:
            blocker.unlink()
        else:
            await pages(node, lambda _: 10_000_000)

    async with asyncio.timeout(100):
        async with app.serve(store=url, http_port=0) as node:
            acknowledged, reason = await survives(node, refuse, allow, steady=folder is not small_disk)
            assert "full" in reason or "disk" in reason
        async with app.serve(store=url) as node:
            await check(node, acknowledged)


# --- a store that gives no answer ----------------------------------------------------------------------------------


class Away:
    """A store that is away for a while; now and then it has written although it gives no answer."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.away = False
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name in ("lease", "close") or not callable(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.away and (name != "commit" or self.calls % 2):
                raise StoreUnavailable("the store is away")
            result = await found(*args, **kwargs)
            if self.away:
                raise StoreUnavailable("the store's answer was lost")
            return result

        return call


async def test_a_store_that_gives_no_answer() -> None:
    store = Away(MemoryStore())

    async def refuse() -> None:
        store.away = True

    async def allow() -> None:
        store.away = False

    async with asyncio.timeout(100):
        async with app.serve(store=store, http_port=0) as node:
            load = Load(node, 8)
            await load.until(20)
            await refuse()
            answer = await until_readyz(node, 503)
            assert "the store" in answer["reason"]
            count = len(load.acknowledged)
            # Writes and reads alike: some instances wait for their first commit, others for their state.
            calls = store.calls
            await eventually(lambda: store.calls >= calls + 8, "it is tried again")
            assert len(load.acknowledged) == count
            with pytest.raises(StoreUnavailable, match="the store"):
                await node.client.get_workflow_state(load.acknowledged[0])
            await allow()
            await load.until(count + 20)
            await until_readyz(node, 200)
            await load.stop()
        async with app.serve(store=store) as node:
            await check(node, load.acknowledged)
