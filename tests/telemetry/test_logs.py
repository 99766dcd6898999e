"""Logs: every line is readable by machines, and says whose it is."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure import ActivityContext, App, WorkflowContext
from perdure.logs import JsonFormatter, TextFormatter, configure, fields, identify
from tests.faults.processes import WORKFLOWS
from tests.telemetry.test_otlp import Shop

user = logging.getLogger("tests.shop")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    user.addHandler(handler)
    user.setLevel(logging.DEBUG)
    yield stream
    user.removeHandler(handler)
    user.setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_code_of_users_is_known_by_what_it_runs_for(written: io.StringIO) -> None:
    """Whatever logger it uses: in workflow code, in activities on the loop and in threads, and in what they call."""
    app = App("shop", replay_check="off")

    @app.activity
    async def on_the_loop(ctx: ActivityContext) -> None:
        user.info("loop")

    @app.activity
    def in_a_thread(ctx: ActivityContext) -> None:
        user.info("thread %d", 1, extra={"amount": 5, "instance": "mine"})

    @app.workflow
    async def order(ctx: WorkflowContext) -> None:
        user.info("workflow")
        await ctx.call_activity(on_the_loop)
        await ctx.call_activity(in_a_thread)

    async with app.serve(store="memory://") as node:
        id = await node.client.schedule_new_workflow(order)
        state = await node.client.wait_for_workflow_completion(id, timeout=30)
    user.info("outside")
    found = {line["event"]: line for line in lines(written)}
    whose = {"instance": id, "workflow": "order", "execution": state.execution_id}
    assert found["workflow"].items() >= whose.items()
    assert found["loop"].items() >= {**whose, "activity": "on_the_loop", "task": 0}.items()
    assert (
        found["thread 1"].items()
        >= {**whose, "activity": "in_a_thread", "amount": 5, "instance": "mine"}.items()
    )
    assert "instance" not in found["outside"]
    assert found["outside"]["logger"] == "tests.shop"


async def test_the_trace_of_a_line(written: io.StringIO) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        user.info("inside")
    user.info("outside")
    inside, outside = lines(written)
    assert inside["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert inside["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in outside


def test_any_value_can_be_written(written: io.StringIO) -> None:
    """One line each, however odd: a log must not end what logs."""

    class Odd:
        def __repr__(self) -> str:
            return "odd\nthing"

    user.info("a\nb", extra=fields(thing=Odd(), none=None, nested={"a": [1, Odd()]}, text="\ud800"))
    try:
        raise ValueError("no")
    except ValueError:
        user.exception("failed")
    first, second = lines(written)
    assert (first["event"], first["thing"], first["nested"]["a"][1]) == ("a\nb", "odd\nthing", "odd\nthing")
    assert "none" not in first
    assert second["exception"].startswith("Traceback")
    assert second["level"] == "ERROR"


def test_values_that_are_no_json(written: io.StringIO) -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    loop: dict[str, Any] = {}
    loop["self"] = loop
    for value in (float("nan"), loop, {(1, 2): 3}, Bad()):
        user.info("odd", extra={"value": value})
    found = lines(written)
    assert [line["event"] for line in found] == ["odd"] * 4
    assert found[0]["value"] == "nan"
    assert "Bad" in found[3]["value"]


def test_ids_of_the_process(written: io.StringIO) -> None:
    identify(app="shop", node="n-1")
    try:
        user.info("one")
        identify(node=None)
        user.info("two")
    finally:
        identify(app=None, node=None)
    user.info("three")
    one, two, three = lines(written)
    assert (one["app"], one["node"], two["app"]) == ("shop", "n-1", "shop")
    assert "node" not in two
    assert "app" not in three


def test_text() -> None:
    record = logging.makeLogRecord({"name": "shop", "levelname": "INFO", "msg": "charged", "amount": 5})
    assert TextFormatter().format(record).endswith("INFO    shop charged amount=5")


def test_who_has_a_configuration_keeps_it() -> None:
    """Loggers of others are left alone where the program has said what becomes of them."""
    code = (
        "import logging, sys\n"
        "if sys.argv[1] == 'own': logging.basicConfig(format='own %(message)s', level='INFO')\n"
        "from perdure.logs import configure\n"
        "configure('DEBUG', as_json=True); configure('DEBUG', as_json=True)\n"
        "logging.getLogger('shop').info('sold')\n"
        "logging.getLogger('shop').debug('detail')\n"
        "logging.getLogger('perdure.x').debug('event')\n"
    )
    for argument, wanted in (("own", ["own sold", "event"]), ("", ["sold", "event"])):
        ran = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, check=True, timeout=60
        )
        found = ran.stderr.decode().splitlines()
        assert [line if line.startswith("own") else json.loads(line)["event"] for line in found] == wanted


def test_a_program(tmp_path: Path) -> None:
    """`perdure run --log-format json`: each line of its own and of its users has its ids."""
    shop = Shop(tmp_path, "--log-format", "json")
    try:
        shop.start()
        shop.start_order("o-1")
        shop.call("POST", f"{WORKFLOWS}/o-1/raiseEvent/approved")
        shop.output("o-1")
        assert shop.stop() == 0
    finally:
        shop.kill()
    entries = [json.loads(line) for line in shop.log.read_text().splitlines()]
    by_event = {entry["event"]: entry for entry in entries}
    node = by_event["node.ready"]["node"]
    assert by_event["charged"].items() >= {
        "logger": "shop", "level": "INFO", "app": "shop", "namespace": "tests", "node": node,
        "instance": "o-1", "activity": "charge", "amount": 5,
    }.items()  # fmt: skip
    assert by_event["packed"].items() >= {"activity": "pack", "node": node, "level": "WARNING"}.items()
    assert by_event["approved"].items() >= {"instance": "o-1", "workflow": "order"}.items()


def test_a_format_that_does_not_exist(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "perdure", "run", "shop:app", "--log-format", "xml"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert b"text, json" in ran.stderr


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """What `configure` does to the process is undone."""
    loggers = [logging.getLogger(), logging.getLogger("perdure")]
    before = [(each, list(each.handlers), each.level, each.propagate) for each in loggers]
    yield
    for each, handlers, level, propagate in before:
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def test_twice_is_once() -> None:
    logger = logging.getLogger("perdure")
    configure("INFO")
    configure("INFO", as_json=True)
    (handler,) = logger.handlers
    assert isinstance(handler.formatter, JsonFormatter)
