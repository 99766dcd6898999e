"""`perdure export` and `perdure import` from a SQLite file to the servers and back: equal afterwards, and it goes on."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import App, RetryPolicy, RuntimeStatus, WorkflowContext
from perdure.errors import KeyReused


def shop() -> App:
    app = App("moved", replay_check="always")

    @app.activity
    async def double(ctx: Any, number: int) -> int:
        return 2 * number

    @app.activity(retry_policy=RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=2))
    async def flaky(ctx: Any) -> None:
        raise OSError("not yet")

    @app.workflow
    async def twice(ctx: WorkflowContext, number: int) -> int:
        return await ctx.call_activity(double, input=number)

    @app.workflow
    async def listen(ctx: WorkflowContext, count: int) -> list[Any]:
        ctx.set_custom_status({"ä": count})
        return [await ctx.wait_for_external_event("x") for _ in range(count)]

    @app.workflow
    async def parent(ctx: WorkflowContext) -> Any:
        return await ctx.call_child_workflow(listen, input=1, instance_id=f"{ctx.instance_id}-kid")

    @app.workflow
    async def sleeps(ctx: WorkflowContext, seconds: float) -> str:
        first = str(ctx.new_uuid())
        await ctx.create_timer(timedelta(seconds=seconds))
        return first

    @app.workflow
    async def retries(ctx: WorkflowContext) -> None:
        await ctx.call_activity(flaky)

    @app.workflow
    async def rounds(ctx: WorkflowContext, done: int) -> int:
        if done < 2:
            ctx.continue_as_new(done + 1)
            return 0
        await ctx.wait_for_external_event("x")
        return done

    return app


async def _begin(node: Any, until_status: Any) -> None:
    """Instances in every state that lasts."""
    client = node.client
    await client.schedule_new_workflow("twice", input=21, instance_id="done", tags={"a": "b", "ä": ""})
    await client.wait("done", timeout=60)
    await client.schedule_new_workflow("listen", input=3, instance_id="hears", idempotency_key="k")
    await client.raise_workflow_event("hears", "x", data="ä", event_id="e-1")
    # What a text column would refuse, and more than stores keep in one piece.
    await client.raise_workflow_event("hears", "x", data="\0" + "z" * 300_000)
    await client.schedule_new_workflow("listen", input=1, instance_id="paused")
    await client.pause_workflow("paused", reason="lunch")
    await client.raise_workflow_event("paused", "x", data="while it was paused")
    await client.schedule_new_workflow("parent", instance_id="parent")
    await until_status(client, "parent-kid", RuntimeStatus.RUNNING)
    await client.schedule_new_workflow("sleeps", input=0.5, instance_id="overdue")
    await client.schedule_new_workflow("sleeps", input=3600, instance_id="asleep")
    await client.schedule_new_workflow("retries", instance_id="retries")
    await client.schedule_new_workflow("twice", input=4, instance_id="later", start_at=timedelta(hours=1))
    await client.schedule_new_workflow("rounds", input=0, instance_id="rounds")
    await client.schedule_new_workflow("none", instance_id="failed")
    await client.wait("failed", timeout=60)
    for id in ("hears", "parent", "overdue", "asleep", "retries", "rounds"):
        await until_status(client, id, RuntimeStatus.RUNNING)


async def test_to_servers_and_back(
    perdure: Any,
    until_status: Any,
    eventually: Any,
    redis_url: str,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    first, last = f"sqlite:///{tmp_path}/first.db", f"sqlite:///{tmp_path}/last.db"
    async with shop().serve(store=first) as node:
        await _begin(node, until_status)
    options = ("--app-id", "moved")

    def exported(store: str) -> list[dict[str, Any]]:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        result = perdure("export", str(file), "--store", store, *options)
        assert (result.status, result.err) == (0, "")
        assert result.out == "exported 11 instances\n"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def list_of(store: str) -> Any:
        return perdure("workflow", "list", "--store", store, *options, "--json").json

    before, at_first, shown = exported(first), list_of(first)["instances"], None
    assert {one["id"] for one in before} >= {"hears", "parent-kid", "later"}
    file = tmp_path / "all.jsonl"
    source = first
    for target in (postgres_url, redis_url, f"{postgres_url}?schema=other", last):
        assert perdure("export", str(file), "--store", source, *options).status == 0
        result = perdure("import", str(file), "--store", target)
        assert (result.status, result.err, result.out) == (0, "", "imported 11 instances\n")
        assert exported(target) == before
        listed = list_of(target)
        if shown is not None:
            assert listed == shown
        else:
            # The row of an instance that has only received something may be older than that; an import's is not.
            assert [_lasting(one) for one in listed["instances"]] == [_lasting(one) for one in at_first]
        shown = listed
        result = perdure("import", str(file), "--store", target)
        assert (result.status, result.out) == (1, "imported 0 instances\n")
        source = target

    # It goes on where it is, in each of them.
    await asyncio.gather(*(_goes_on(url, until_status) for url in (postgres_url, redis_url, last)))


def _lasting(instance: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in instance.items() if name != "lastUpdatedAt"}


async def _goes_on(url: str, until_status: Any) -> None:
    async with shop().serve(store=url) as node:
        client = node.client
        done = await client.get_workflow_state("done")
        assert (done.output, done.tags) == (42, {"a": "b", "ä": ""})
        # Keys are known as ever.
        await client.raise_workflow_event("hears", "x", data="ä", event_id="e-1")
        with pytest.raises(KeyReused):
            await client.raise_workflow_event("hears", "x", data="o", event_id="e-1")
        assert (
            await client.schedule_new_workflow("listen", input=3, instance_id="hears", idempotency_key="k")
            == "hears"
        )
        await client.raise_workflow_event("hears", "x", data=3)
        assert (await client.wait("hears", timeout=60)).output == ["ä", "\0" + "z" * 300_000, 3]
        await until_status(client, "paused", RuntimeStatus.SUSPENDED)
        await client.resume_workflow("paused")
        assert (await client.wait("paused", timeout=60)).output == ["while it was paused"]
        await client.raise_workflow_event("parent-kid", "x", data="kid")
        assert (await client.wait("parent", timeout=60)).output == ["kid"]
        assert (await client.wait("overdue", timeout=60)).runtime_status is RuntimeStatus.COMPLETED
        await client.raise_workflow_event("rounds", "x")
        rounds = await client.wait("rounds", timeout=60)
        assert (rounds.output, rounds.generation) == (2, 3)
        for id, status in (
            ("later", RuntimeStatus.PENDING),
            ("asleep", RuntimeStatus.RUNNING),
            ("retries", RuntimeStatus.RUNNING),
            ("failed", RuntimeStatus.FAILED),
        ):
            assert (await client.get_workflow_state(id)).runtime_status is status
        assert len(await node.store.reminders(node.runtime.engine.actor("asleep"))) == 1
        assert len(await node.store.reminders(node.runtime.engine.actor("later"))) == 1
