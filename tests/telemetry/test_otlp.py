"""`perdure run` and a collector: what arrives there, also from a process that was killed in between."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.workflow import trace
from tests.faults.processes import WORKFLOWS, NodeProcess
from tests.telemetry.collector import Collector, collector

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

APP = """
import logging

from perdure import ActivityContext, App, WorkflowContext

app = App("shop", namespace="tests")
log = logging.getLogger("shop")


@app.activity
async def charge(ctx: ActivityContext) -> str:
    log.info("charged", extra={"amount": 5})
    return ctx.traceparent


@app.activity
def pack(ctx: ActivityContext) -> None:
    log.warning("packed")


@app.workflow
async def order(ctx: WorkflowContext) -> str:
    paid = await ctx.call_activity(charge)
    await ctx.wait_for_external_event("approved")
    log.info("approved")
    await ctx.call_activity(pack)
    return paid
"""


class Shop(NodeProcess):
    """`perdure run shop.py:app`."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        super().__init__("", folder, **environment)
        (folder / "shop.py").write_text(APP)
        self._command = [sys.executable, "-m", "perdure", "run", f"{folder}/shop.py:app"]
        self._command += ["--store", f"sqlite:///{self.path}", "--http-port", str(self.port), *arguments]

    def start_order(self, id: str, **headers: str) -> None:
        url = f"http://127.0.0.1:{self.port}{WORKFLOWS}/order/start?instanceID={id}"
        request = urllib.request.Request(url, method="POST", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 202


@pytest.fixture
def receiver() -> Iterator[Collector]:
    with collector() as found:
        yield found


def test_a_trace_over_a_kill(tmp_path: Path, receiver: Collector) -> None:
    shop = Shop(
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_BSP_SCHEDULE_DELAY="20",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
    )
    try:
        shop.start()
        shop.start_order("o-1", traceparent=f"00-{TRACE}-{SPAN}-01")
        shop.until(lambda: receiver.named("activity||charge"), "the first activity's span comes")
        shop.kill()
        shop.start()
        shop.call("POST", f"{WORKFLOWS}/o-1/raiseEvent/approved")
        output = shop.output("o-1")
        execution = shop.instance("o-1")["executionID"]
        assert shop.stop() == 0  # what it holds is sent
    finally:
        shop.kill()
    assert {span["trace"] for span in receiver.spans} == {TRACE}
    (order,) = receiver.named("orchestration||order")
    (create,) = receiver.named("create_orchestration||order")
    (charge,) = receiver.named("activity||charge")
    assert order["span"] == charge["parent"] == trace.execution_span(execution)
    assert (create["parent"], order["parent"]) == (SPAN, create["span"])
    assert output == f"00-{TRACE}-{charge['span']}-01"
    assert {span["name"] for span in receiver.spans if span["parent"] == order["span"]} == {
        "activity||charge",
        "event||approved",
        "activity||pack",
    }
    assert order["start"] <= charge["start"] <= charge["end"] <= order["end"]
    for span in (order, charge):
        assert span["resource"]["service.name"] == "shop"
        assert span["resource"]["service.namespace"] == "tests"
        assert span["resource"]["deployment.environment"] == "test"
        assert span["scope"] == "perdure"


def test_a_name_of_the_services_own(tmp_path: Path, receiver: Collector) -> None:
    shop = Shop(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_SERVICE_NAME="checkout")
    try:
        shop.start()
        shop.start_order("o-1")
        shop.until_status("o-1", "RUNNING")
        assert shop.stop() == 0
    finally:
        shop.kill()
    assert {span["resource"]["service.name"] for span in receiver.spans} == {"checkout"}


def test_a_collector_that_is_not_there(tmp_path: Path) -> None:
    """Nothing waits for it but the end of the process, and that not for long."""
    shop = Shop(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    try:
        shop.start()
        shop.start_order("o-1")
        shop.call("POST", f"{WORKFLOWS}/o-1/raiseEvent/approved")
        shop.output("o-1")
        assert shop.stop() == 0
    finally:
        shop.kill()


def test_without_the_extra_only_a_warning(tmp_path: Path, receiver: Collector) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    path = os.pathsep.join(filter(None, [str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")]))
    shop = Shop(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, PYTHONPATH=path)
    try:
        shop.start()
        shop.start_order("o-1")
        shop.until_status("o-1", "RUNNING")
        assert shop.stop() == 0
    finally:
        shop.kill()
    assert "traces.off" in shop.text()
    assert "perdure[otel]" in shop.text()
    assert receiver.spans == []
