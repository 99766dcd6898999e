"""`/metrics` of real nodes."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from perdure import App, Node, WorkflowContext
from perdure.statestore.contract import Commit
from perdure.statestore.memory import MemoryStore
from tests.cli.nodes import Nodes, running
from tests.waiting import eventually


def shop() -> App:
    app = App("shop", namespace="tests", replay_check="off")

    @app.activity
    async def double(ctx: Any, number: int) -> int:
        return 2 * number

    @app.activity
    def triple(ctx: Any, number: int) -> int:
        return 3 * number

    @app.activity
    async def refuse(ctx: Any) -> None:
        raise ValueError("no")

    @app.workflow
    async def six(ctx: WorkflowContext, number: int) -> int:
        return await ctx.call_activity(triple, input=await ctx.call_activity(double, input=number))

    @app.workflow
    async def refused(ctx: WorkflowContext) -> None:
        await ctx.call_activity(refuse)

    @app.workflow
    async def waits(ctx: WorkflowContext) -> None:
        await ctx.wait_for_external_event("go")

    @app.workflow
    async def sleeps(ctx: WorkflowContext) -> None:
        await ctx.create_timer(timedelta(milliseconds=10))

    return app


class Page:
    """The samples of one page, by name and labels; those without the labels of all."""

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, str] = {}
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                assert name not in self.kinds, f"{name} comes twice"
                self.kinds[name] = kind
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                # That parser gives every counter the ending that OpenMetrics wants, whether it has it or not.
                bare = sample.name.removesuffix("_total")
                name = bare if bare in self.kinds else sample.name
                self.samples.setdefault(name, []).append((dict(sample.labels), sample.value))

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(value for found, value in self.samples.get(name, ()) if labels.items() <= found.items())


async def read(node: Node, **headers: str) -> Page:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{node.url}/metrics", headers=headers) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return Page(await answer.text())


@asynccontextmanager
async def serve(**options: Any) -> AsyncIterator[Node]:
    async with shop().serve(store="memory://", http_port=0, **options) as node:
        yield node


async def ended(node: Node, workflow: str, input: Any = None) -> None:
    id = await node.client.schedule_new_workflow(workflow, input=input)
    await node.client.wait_for_workflow_completion(id, timeout=30)


async def test_names_and_labels_are_those_of_dapr() -> None:
    async with serve() as node:
        for number in range(3):
            await ended(node, "six", number)
        await ended(node, "refused")
        id = await node.client.schedule_new_workflow("waits")
        await node.client.terminate_workflow(id)
        await node.client.wait_for_workflow_completion(id, timeout=30)
        await node.client.purge_workflow(id)
        page = await read(node)
    here = {"app_id": "shop", "namespace": "tests"}
    w = "dapr_runtime_workflow"
    assert page(f"{w}_operation_count", operation="create_workflow", status="success", **here) == 5
    assert page(f"{w}_operation_count", operation="purge_workflow", status="success", **here) == 1
    assert page(f"{w}_operation_latency_count", operation="create_workflow", **here) == 5
    assert page(f"{w}_execution_count", workflow_name="six", status="success", **here) == 3
    assert page(f"{w}_execution_count", workflow_name="refused", status="failed", **here) == 1
    assert page(f"{w}_execution_count", workflow_name="waits", status="terminated", **here) == 1
    assert page(f"{w}_execution_latency_bucket", workflow_name="six", le="+Inf", **here) == 3
    assert page(f"{w}_scheduling_latency_count", workflow_name="six", **here) == 3
    for part in ("operation", "execution"):
        count, latency = f"{w}_activity_{part}_count", f"{w}_activity_{part}_latency_count"
        assert page(count, activity_name="double", status="success", **here) == 3
        assert page(count, activity_name="triple", status="success", **here) == 3
        assert page(count, activity_name="refuse", status="failed", **here) == 1
        assert page(latency, **here) == page(count, **here) == 7
    assert page.kinds[f"{w}_execution_count"] == "counter"
    assert page.kinds[f"{w}_execution_latency"] == "histogram"


async def test_what_a_refused_request_counts_as() -> None:
    async with serve() as node:
        id = await node.client.schedule_new_workflow("waits")
        with pytest.raises(Exception, match="only a finished instance"):
            await node.client.purge_workflow(id)
        page = await read(node)
    assert page("dapr_runtime_workflow_operation_count", operation="purge_workflow", status="failed") == 1


async def test_the_node_itself() -> None:
    async with serve() as node:
        await ended(node, "sleeps")
        await node.client.schedule_new_workflow("waits")
        page = await read(node)
        kind = "dapr.internal.tests.shop.workflow"
        assert page("perdure_activations", actor_type=kind) >= 1
        assert page("perdure_partitions", actor_type=kind) == node.runtime.host.partitions
        assert page("dapr_runtime_actor_reminders_fired_total", actor_type=kind, success="true") == 1
        assert page("dapr_runtime_actor_pending_actor_calls") == 0
        assert page("perdure_store_write_seconds_count") == page("perdure_store_batch_commits_count") > 0
        assert page("perdure_store_available") == page("perdure_ready") == 1
        assert page("perdure_placement_leading") == page("perdure_placement_members") == 1
        assert page("perdure_build_info") == 1
        assert page("process_resident_memory_bytes") > 10_000_000
        assert page.kinds["process_cpu_seconds_total"] == "counter"
        assert "perdure_node_up" not in page.samples


async def test_a_store_that_gives_no_answer() -> None:
    store = MemoryStore()
    fine = store.commit
    gone = False

    async def commit(batch: list[Commit]) -> Any:
        if gone:
            raise OSError("no route")
        return await fine(batch)

    store.commit = commit  # type: ignore[assignment,method-assign]
    async with shop().serve(store=store, http_port=0) as node:
        gone = True
        start = asyncio.create_task(node.client.schedule_new_workflow("waits"))
        await eventually(lambda: node.runtime.committer.trouble)
        page = await read(node)
        assert page("perdure_store_available") == page("perdure_ready") == 0
        assert page("perdure_store_retries_total") >= 1
        assert page("perdure_commits_pending") == 1
        gone = False
        await start
        page = await read(node)
        assert page("perdure_store_available") == page("perdure_ready") == 1


async def test_an_instance_that_cannot_go_on(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    async with shop().serve(store=store) as node:
        id = await node.client.schedule_new_workflow("waits")
        await node.client.wait_for_workflow_start(id, timeout=30)
    other = App("shop", namespace="tests")

    @other.workflow
    async def waits(ctx: WorkflowContext) -> None:
        await ctx.call_activity("something else")

    async with other.serve(store=store, http_port=0) as node:
        await node.client.raise_workflow_event(id, "go")
        deadline = time.monotonic() + 30
        while not (page := await read(node))("perdure_workflow_stalls_total", workflow_name="waits"):
            assert time.monotonic() < deadline
        ((labels, _),) = page.samples["perdure_workflow_stalls_total"]
        assert labels["kind"]


async def test_a_token_is_asked_for() -> None:
    async with serve(api_token="secret") as node:
        async with aiohttp.ClientSession() as session, session.get(f"{node.url}/metrics") as answer:
            assert answer.status == 401
        page = await read(node, Authorization="Bearer secret")
        assert page("perdure_ready") == 1


def test_processes_behind_one_port_answer_for_each_other(tmp_path: Path) -> None:
    with running(Nodes(tmp_path, nodes=3)) as nodes:
        nodes.until_whole()
        for number in range(6):
            nodes.begin("spread", f"s-{number}", [4, 0])
        for number in range(6):
            nodes.output(f"s-{number}")

        def whole() -> Page | None:
            with urllib.request.urlopen(f"http://127.0.0.1:{nodes.port}/metrics", timeout=30) as answer:
                page = Page(answer.read().decode())
            return page if page("perdure_node_up") == 3 else None

        page = nodes.until(whole, "all processes answer")
        assert page("dapr_runtime_workflow_activity_execution_count", activity_name="where") == 24
        assert page("dapr_runtime_workflow_execution_count", status="success") == 6
        ids = {labels["node"] for labels, _ in page.samples["process_resident_memory_bytes"]}
        assert ids == {labels["node"] for labels, _ in page.samples["perdure_node_up"]}
        assert len(ids) == 3
