"""A store that gives no answer, or refuses, at each of the writes of a workflow that uses every feature."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perdure import WorkflowClient
from perdure.errors import StoreError, StoreUnavailable
from perdure.statestore.contract import Commit, CommitResult
from perdure.statestore.memory import MemoryStore
from tests.faults.programs import everything

SHARDS = 2


class Faulty:
    """Fails the Nth batch: before it is written ("before"), after it ("after"), or refuses its first commit for good
    ("refused")."""

    def __init__(self, mode: str, at: int) -> None:
        self._store = MemoryStore(partitions=8)
        self._mode = mode
        self._at = at
        self.writes = 0
        self._poison = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        self.writes += 1
        now = self.writes == self._at
        if now and self._mode == "refused":
            # A refused start or purge is for whoever asked to know; here instances that go on are looked at.
            poison = (c.version for c in batch if c.expected is not None and not c.delete_row)
            self._poison = next(poison, b"")
        if self._poison and any(commit.version == self._poison for commit in batch):
            raise StoreError("this value is cursed")
        if now and self._mode == "before":
            raise StoreUnavailable("nobody there")
        results = await self._store.commit(batch)
        if now and self._mode == "after":
            raise StoreUnavailable("the answer was lost")
        return results


async def _resuming(client: WorkflowClient) -> None:
    """The operator: resumes whatever is stalled."""
    while True:
        await asyncio.sleep(0.005)
        for state in (await client.list(statuses=["stalled"])).items:
            assert "cursed" in state.reason
            with suppress(StoreError):
                await client.resume_workflow(state.instance_id)


async def _run(folder: Path, mode: str, at: int) -> tuple[dict[str, Any], list[Any], bool]:
    """The outcome, the effects, and whether the run was over before the fault."""
    ledger = everything.Ledger(folder / "ledger")
    store = Faulty(mode, at)
    async with everything.make_app(ledger).serve(store=store, blocked_after=0) as node:
        operator = asyncio.ensure_future(_resuming(node.client))
        while True:
            with suppress(StoreError):  # a refused start or event: the caller knows, and asks again
                result = await asyncio.wait_for(everything.drive(node.client), 20)
                break
        async with asyncio.timeout(20):
            while len({key for key, name, _ in ledger.lines() if name == "unheard"}) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        operator.cancel()
    lines = ledger.lines()
    effects = sorted({(key, name, str(input)) for key, name, input in lines}, key=lambda line: line[1:])
    if mode != "refused":
        keys = [key for key, name, _ in lines if name != "flaky"]
        assert len(keys) == len(set(keys)), "no process died: nothing may run twice"
    return result, [line[1:] for line in effects], store.writes < at


@pytest.mark.parametrize("mode", ["before", "after", "refused"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_at_every_write(tmp_path: Path, mode: str, shard: int) -> None:
    (tmp_path / "undisturbed").mkdir()
    wanted, effects, _ = asyncio.run(_run(tmp_path / "undisturbed", "never", 0))
    at = 1 + shard
    while True:
        (tmp_path / str(at)).mkdir()
        result, done, over = asyncio.run(_run(tmp_path / str(at), mode, at))
        assert result == wanted, f"{mode} write {at}"
        assert done == effects, f"{mode} write {at}"
        if over:
            break
        at += SHARDS
    assert at > 20
