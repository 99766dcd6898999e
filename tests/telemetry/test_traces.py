"""Spans of real instances, as OpenTelemetry's own exporter in memory gets them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry import propagate
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from perdure import (
    ActivityContext,
    App,
    Node,
    RetryPolicy,
    RuntimeStatus,
    WorkflowClient,
    WorkflowContext,
)
from perdure.errors import ConfigurationError
from perdure.statestore.memory import MemoryStore
from perdure.workflow import trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"00-{TRACE}-{SPAN}-01"


def shop() -> App:
    app = App("shop", replay_check="always")
    refusals = 0

    @app.activity
    async def charge(ctx: ActivityContext, amount: int) -> dict[str, str]:
        api.get_current_span().set_attribute("amount", amount)
        with api.get_tracer("shop").start_as_current_span("bank"):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            await asyncio.sleep(0)
        return {**carrier, "given": ctx.traceparent}

    @app.activity
    def pack(ctx: ActivityContext) -> str:
        api.get_current_span().set_attribute("packed", True)
        return ctx.traceparent

    @app.activity
    async def moody(ctx: ActivityContext) -> None:
        nonlocal refusals
        refusals += 1
        if refusals == 1:
            raise ValueError("not today")

    @app.activity
    async def refuse(ctx: ActivityContext) -> None:
        raise ValueError("no money")

    @app.workflow
    async def order(ctx: WorkflowContext) -> list[Any]:
        paid = await ctx.call_activity(charge, input=5)
        packed = await ctx.call_activity(pack)
        await ctx.wait_for_external_event("Approved")
        await ctx.create_timer(timedelta(milliseconds=5))
        return [paid, packed, await ctx.call_child_workflow(shipping)]

    @app.workflow
    async def shipping(ctx: WorkflowContext) -> str:
        return await ctx.call_activity(pack)

    @app.workflow
    async def broke(ctx: WorkflowContext) -> None:
        await ctx.call_activity(refuse)

    @app.workflow
    async def patient(ctx: WorkflowContext) -> None:
        policy = RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=2)
        await ctx.call_activity(moody, retry_policy=policy)

    @app.workflow
    async def thrice(ctx: WorkflowContext, number: int) -> None:
        await ctx.call_activity(pack)
        if number < 3:
            ctx.continue_as_new(number + 1)

    @app.workflow
    async def careless(ctx: WorkflowContext) -> None:
        ctx.detach(shipping, instance_id="detached")
        ctx.call_activity(pack)

    return app


class Spans:
    """A provider, and what came out of it."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    async def until(self, name: str) -> ReadableSpan:
        deadline = time.monotonic() + 30
        while not self.named(name):
            assert time.monotonic() < deadline, f"no {name} in {[span.name for span in self.all]}"
            await asyncio.sleep(0.002)
        return self.named(name)[0]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The process's own, as a program sets it; activities find it by themselves."""
    found = Spans()
    monkeypatch.setattr(api, "_TRACER_PROVIDER", found.provider)
    yield found
    found.provider.shutdown()


@asynccontextmanager
async def serve(**options: Any) -> AsyncIterator[Node]:
    async with shop().serve(**{"store": "memory://", **options}) as node:
        yield node


async def ended(node: Node, id: str) -> Any:
    state = await node.client.wait_for_workflow_completion(id, timeout=30)
    return state


def parent(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent is not None else ""


def ids(span: ReadableSpan) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


async def test_a_workflow_from_a_request_to_its_end(spans: Spans) -> None:
    """One trace, from the caller's own context to what activities call, and nothing in it hangs in the air."""
    async with serve(http_port=0) as node:
        url = f"{node.url}/v1.0/workflows/dapr/order/start?instanceID=o-1"
        async with aiohttp.ClientSession() as session:
            headers = {"traceparent": CALLER, "tracestate": "vendor=1"}
            assert (await session.post(url, headers=headers)).status == 202
            # A connection's next request is none of the trace.
            other = url.replace("o-1", "o-2")
            assert (await session.post(other)).status == 202
        await node.client.raise_workflow_event("o-1", "approved")
        state = await ended(node, "o-1")
        await node.client.terminate_workflow("o-2")
        await ended(node, "o-2")
    found = [span for span in spans.all if ids(span)[0] == TRACE]
    names = sorted(span.name for span in found)
    assert names == sorted(
        [
            "create_orchestration||order",
            "orchestration||order",
            "activity||charge",
            "run||charge",
            "bank",
            "activity||pack",
            "run||pack",
            "event||approved",
            "timer",
            "orchestration||shipping",
            "orchestration||shipping",
            "activity||pack",
            "run||pack",
        ]
    )
    known = {ids(span)[1] for span in found}
    assert len(known) == len(found)
    assert {parent(span) for span in found} - known == {SPAN}
    create = spans.named("create_orchestration||order")[0]
    assert (parent(create), create.kind) == (SPAN, SpanKind.CLIENT)
    assert create.context.trace_state.to_header() == "vendor=1"
    order = next(span for span in found if span.name == "orchestration||order")
    assert (parent(order), order.kind) == (ids(create)[1], SpanKind.SERVER)
    assert ids(order)[1] == trace.execution_span(state.execution_id)
    about = dict(order.attributes or {})
    assert about["durabletask.type"] == "orchestration"
    assert about["durabletask.task.name"] == "order"
    assert about["durabletask.task.instance_id"] == "o-1"
    assert about["durabletask.runtime_status"] == "COMPLETED"
    for span in found:
        if span.name in ("activity||charge", "event||approved", "timer"):
            assert parent(span) == ids(order)[1]
            assert order.start_time <= span.start_time <= span.end_time <= order.end_time
    # The child's own span is inside the parent's span of it.
    child, inside = sorted(
        (span for span in found if span.name == "orchestration||shipping"),
        key=lambda span: span.kind.value,
        reverse=True,
    )
    assert (child.kind, parent(child)) == (SpanKind.CLIENT, ids(order)[1])
    assert (inside.kind, parent(inside)) == (SpanKind.SERVER, ids(child)[1])
    # Code of activities: its span is the current one, and goes out with what it calls.
    paid, packed, _ = json.loads(state.serialized_output)
    bank = spans.named("bank")[0]
    assert paid["traceparent"] == f"00-{TRACE}-{ids(bank)[1]}-01"
    assert paid["tracestate"] == "vendor=1"
    charge = spans.named("activity||charge")[0]
    run = spans.named("run||charge")[0]
    assert paid["given"] == f"00-{TRACE}-{ids(charge)[1]}-01"
    assert (parent(bank), parent(run)) == (ids(run)[1], ids(charge)[1])
    assert (run.attributes or {})["amount"] == 5
    packs = [span for span in spans.named("run||pack") if ids(span)[0] == TRACE]
    assert all((span.attributes or {})["packed"] for span in packs)
    assert packed.startswith(f"00-{TRACE}-")


async def test_a_span_goes_on_over_a_restart(spans: Spans, tmp_path: Path) -> None:
    """What began in one process ends in another, under the id that the first gave to others; once."""
    store = f"sqlite:///{tmp_path}/state.db"
    async with serve(store=store) as node:
        await node.client.schedule_new_workflow("order", instance_id="o")
        await spans.until("activity||pack")
        assert spans.named("orchestration||order") == []
        began = spans.one("activity||charge")
    later = Spans()
    async with serve(store=store, tracer_provider=later.provider) as node:
        await node.client.raise_workflow_event("o", "Approved")
        state = await ended(node, "o")
        order = await later.until("orchestration||order")
    assert len(later.named("orchestration||order")) == 1
    assert spans.named("orchestration||order") == later.named("activity||charge") == []
    assert ids(order) == (ids(began)[0], parent(began))
    assert ids(order)[1] == trace.execution_span(state.execution_id)
    assert order.start_time <= began.start_time
    assert order.end_time >= later.one("event||Approved").end_time
    assert parent(order) == ids(spans.one("create_orchestration||order"))[1]


async def test_what_fails(spans: Spans) -> None:
    async with serve() as node:
        state = await ended(node, await node.client.schedule_new_workflow("broke"))
        assert state.runtime_status is RuntimeStatus.FAILED
        await spans.until("orchestration||broke")
    for name in ("run||refuse", "activity||refuse", "orchestration||broke"):
        span = spans.one(name)
        assert span.status.status_code is StatusCode.ERROR
        assert "no money" in (span.status.description or "")
        (event,) = span.events
        assert (event.name, "no money" in str((event.attributes or {})["exception.message"])) == (
            "exception",
            True,
        )
    assert (spans.one("orchestration||broke").attributes or {})["durabletask.runtime_status"] == "FAILED"


async def test_each_try_is_an_activity_of_its_own(spans: Spans) -> None:
    async with serve() as node:
        await ended(node, await node.client.schedule_new_workflow("patient"))
        await spans.until("orchestration||patient")
    tries = spans.named("activity||moody")
    assert [span.status.status_code for span in tries] == [StatusCode.ERROR, StatusCode.UNSET]
    assert len({ids(span) for span in tries}) == 2
    (wait,) = spans.named("timer")
    assert (wait.attributes or {})["durabletask.task.name"] == "retry:moody"


async def test_each_generation_is_a_trace_of_its_own(spans: Spans) -> None:
    """A workflow that goes on for ever must not be one trace without an end; each links to the one before."""
    async with serve() as node:
        await ended(node, await node.client.schedule_new_workflow("thrice", input=1))
        deadline = time.monotonic() + 30
        while len(spans.named("orchestration||thrice")) < 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)
    first, second, third = spans.named("orchestration||thrice")
    assert len({ids(span)[0] for span in (first, second, third)}) == 3
    assert ids(first)[0] == ids(spans.one("create_orchestration||thrice"))[0]
    for before, after in ((first, second), (second, third)):
        (link,) = after.links
        assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == ids(before)
        assert after.parent is None
    statuses = [(span.attributes or {})["durabletask.runtime_status"] for span in (first, second, third)]
    assert statuses == ["CONTINUED_AS_NEW", "CONTINUED_AS_NEW", "COMPLETED"]
    inside = {parent(span) for span in spans.named("activity||pack")}
    assert inside == {ids(span)[1] for span in (first, second, third)}


async def test_what_is_left_behind(spans: Spans) -> None:
    """What nobody waits for has its span too: the run of an activity must not hang in the air."""
    async with serve() as node:
        await ended(node, await node.client.schedule_new_workflow("careless"))
        await spans.until("orchestration||careless")
        await ended(node, "detached")
        await spans.until("orchestration||shipping")
        await spans.until("run||pack")
    careless, shipping = spans.one("orchestration||careless"), spans.one("orchestration||shipping")
    (left,) = [span for span in spans.named("activity||pack") if parent(span) == ids(careless)[1]]
    assert (left.attributes or {})["perdure.left_behind"] is True
    assert ids(left)[1] in {parent(span) for span in spans.named("run||pack")}
    (link,) = shipping.links
    assert f"{link.context.span_id:016x}" == ids(careless)[1]
    assert ids(shipping)[0] != ids(careless)[0]


async def test_a_span_of_the_callers_own_code_is_the_parent(spans: Spans) -> None:
    async with serve() as node:
        with api.get_tracer("test").start_as_current_span("request") as request:
            id = await node.client.schedule_new_workflow("shipping")
        await ended(node, id)
        await spans.until("orchestration||shipping")
    create = spans.one("create_orchestration||shipping")
    assert parent(create) == f"{request.get_span_context().span_id:016x}"


async def test_a_client_over_http_passes_its_span_on(spans: Spans) -> None:
    async with serve(http_port=0) as node:
        assert node.url is not None
        client = WorkflowClient(node.url)
        with api.get_tracer("test").start_as_current_span("request") as request:
            id = await client.schedule_new_workflow("shipping")
        await client.wait_for_workflow_completion(id, timeout=30)
        await client.close()
        await spans.until("orchestration||shipping")
    create = spans.one("create_orchestration||shipping")
    assert parent(create) == f"{request.get_span_context().span_id:016x}"


async def test_a_trace_over_several_nodes(spans: Spans) -> None:
    """Instances, children and activities wherever placement puts them: each trace is whole, and each span comes once."""
    store = MemoryStore(partitions=32, shared=True)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(serve(store=store)) for _ in range(3)]
        for number in range(12):
            await nodes[number % 3].client.schedule_new_workflow("order", instance_id=f"o-{number}")
        for number in range(12):
            await nodes[number % 2].client.raise_workflow_event(f"o-{number}", "approved")
        for number in range(12):
            await nodes[0].client.wait_for_workflow_completion(f"o-{number}", timeout=60)
    traces: dict[str, list[ReadableSpan]] = {}
    for span in spans.all:
        traces.setdefault(ids(span)[0], []).append(span)
    assert len(traces) == 12
    for found in traces.values():
        known = {ids(span)[1] for span in found}
        assert len(known) == len(found) == 13
        assert {parent(span) for span in found} <= known | {""}
    told_by = {(span.attributes or {})["perdure.node"] for span in spans.named("orchestration||order")}
    assert len(told_by) > 1


@pytest.mark.parametrize("sampler", [ParentBased(TraceIdRatioBased(0.5)), ALWAYS_OFF])
async def test_a_trace_is_sampled_whole_or_not_at_all(monkeypatch: Any, sampler: Any) -> None:
    spans = Spans(sampler=sampler)
    async with serve(tracer_provider=spans.provider) as node:
        for number in range(20):
            await node.client.schedule_new_workflow("shipping", instance_id=f"s-{number}")
        for number in range(20):
            await ended(node, f"s-{number}")
    counts: dict[str, int] = {}
    for span in spans.all:
        counts[ids(span)[0]] = counts.get(ids(span)[0], 0) + 1
    assert set(counts.values()) <= {4}
    if sampler is ALWAYS_OFF:
        assert counts == {}
    else:
        assert len(counts) < 20


async def test_what_began_where_nobody_traced(spans: Spans, tmp_path: Path, monkeypatch: Any) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    async with serve(store=store) as node:
        assert node.runtime.engine.tracing is None
        await node.client.schedule_new_workflow("order", instance_id="o")
        await node.client.wait_for_workflow_start("o", timeout=30)
    async with serve(store=store, tracer_provider=spans.provider) as node:
        await node.client.raise_workflow_event("o", "Approved")
        state = await ended(node, "o")
        order = await spans.until("orchestration||order")
    assert order.parent is None
    assert ids(order) == (
        trace.execution_trace(state.execution_id, None),
        trace.execution_span(state.execution_id),
    )
    assert all(ids(span)[0] == ids(order)[0] for span in spans.all)


async def test_without_a_provider_the_callers_context_is_passed_on(monkeypatch: Any) -> None:
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    async with serve(http_port=0) as node:
        url = f"{node.url}/v1.0/workflows/dapr/shipping/start?instanceID="
        async with aiohttp.ClientSession() as session:
            await session.post(f"{url}a", headers={"traceparent": CALLER})
            await session.post(f"{url}b", headers={"traceparent": "nonsense"})
        assert (await ended(node, "a")).serialized_output == f'"{CALLER}"'
        assert (await ended(node, "b")).serialized_output == '""'


async def test_a_processor_that_raises_hurts_no_instance(spans: Spans) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name.startswith(("activity", "orchestration")):
                raise RuntimeError("broken")

    spans.provider.add_span_processor(Broken())
    async with serve() as node:
        state = await ended(node, await node.client.schedule_new_workflow("shipping"))
    assert state.runtime_status is RuntimeStatus.COMPLETED


async def test_the_sdk_is_disabled(monkeypatch: Any) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    spans = Spans()
    async with serve(tracer_provider=spans.provider) as node:
        assert node.runtime.engine.tracing is None


async def test_what_is_no_provider() -> None:
    with pytest.raises(ConfigurationError, match="TracerProvider"):
        async with serve(tracer_provider="http://collector"):
            pass
