"""Values reach functions as Dapr's SDK hands them over, and typed where the annotation says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from perdure import payload
from perdure.dapr import DaprWorkflowClient, WorkflowRuntime
from perdure.dapr.values import Fields


@dataclass
class Order:
    cost: float
    product: str

    def is_dear(self) -> bool:
        return self.cost >= 1000


def result(workflow: Any, value: Any = None) -> Any:
    client = DaprWorkflowClient()
    state = client.wait_for_workflow_completion(
        client.schedule_new_workflow(workflow, input=value), timeout_in_seconds=60
    )
    state.raise_if_failed()
    return None if state.serialized_output is None else json.loads(state.serialized_output)


def test_an_annotated_value_is_an_object_of_its_class(runtime: WorkflowRuntime) -> None:
    @runtime.activity
    def raise_price(ctx: Any, order: Order) -> Order:
        assert isinstance(order, Order)
        return Order(order.cost * 10, order.product)

    @runtime.workflow
    def dear(ctx: Any, order: Order) -> Generator[Any, Any, list[bool]]:
        dearer = yield ctx.call_activity(raise_price, input=order)
        return [order.is_dear(), dearer.is_dear()]

    runtime.start()
    assert result(dear, Order(150, "Chair")) == [False, True]


def test_what_is_not_annotated_has_its_fields_as_attributes_and_as_items(runtime: WorkflowRuntime) -> None:
    @runtime.activity
    def raise_price(ctx, order):  # type: ignore[no-untyped-def]
        return Order(order.cost * 10, order["product"])

    @runtime.workflow
    def dear(ctx, order):  # type: ignore[no-untyped-def]
        dearer = yield ctx.call_activity(raise_price, input=order)
        event = yield ctx.wait_for_external_event("discount")
        order.cost -= event.amount
        return {"dearer": dearer.cost, "cost": order["cost"], "lines": [line.name for line in event.lines]}

    runtime.start()
    client = DaprWorkflowClient()
    instance = client.schedule_new_workflow(dear, input=Order(150, "Chair"))
    client.raise_workflow_event(instance, "Discount", data={"amount": 50, "lines": [{"name": "winter"}]})
    state = client.wait_for_workflow_completion(instance, timeout_in_seconds=60)
    state.raise_if_failed()
    assert json.loads(state.serialized_output or "") == {"dearer": 1500, "cost": 100, "lines": ["winter"]}


def test_a_wrong_annotation_does_no_harm_and_is_warned_of_once(
    runtime: WorkflowRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    """Annotations mean nothing to Dapr's SDK: programs run there whose annotations are wrong."""

    @runtime.activity
    def double(ctx: Any, amount: int) -> str:
        return amount * 2  # type: ignore[return-value]

    @runtime.activity
    def nothing(ctx: Any) -> None:
        return "something"  # type: ignore[return-value]

    @runtime.workflow
    def wrong(ctx: Any, order: "Nowhere") -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037
        first = yield ctx.call_activity(double, input=order.cost)
        second = yield ctx.call_activity(double, input=first)
        third = yield ctx.call_activity(nothing)
        return [first, second, third]

    runtime.start()
    with caplog.at_level(logging.WARNING, "perdure.dapr"):
        assert result(wrong, Order(1.5, "Chair")) == [3.0, 6.0, "something"]
    reasons = [record.__dict__["perdure_fields"]["reason"] for record in caplog.records]
    assert sorted(reason.split(":")[0] for reason in reasons) == [
        "the input of activity 'double'",
        "the result of activity 'double'",
    ]


def test_no_input_is_none_or_the_default(runtime: WorkflowRuntime) -> None:
    @runtime.activity
    def shown(ctx: Any, value: int = 7) -> int:
        return value

    @runtime.workflow
    def nothing(ctx: Any, value: Order) -> Any:
        default = yield ctx.call_activity(shown)
        zero = yield ctx.call_activity(shown, input=0)
        return [value, default, zero]

    runtime.start()
    assert result(nothing) == [None, 7, 0]


def test_fields_are_a_dict_of_attributes() -> None:
    order = payload.decode(payload.encode({"cost": 5, "items": [1]}))
    fields = Fields(order)
    assert fields == {"cost": 5, "items": [1]}
    assert fields.cost == 5
    # A method of dict stays one.
    assert list(fields.items()) == [("cost", 5), ("items", [1])]
    with pytest.raises(AttributeError, match="no field 'price'; there are: cost, items"):
        _ = fields.price
    fields.price = 6
    del fields.cost
    assert payload.encode(fields) == b'{"items":[1],"price":6}'
    with pytest.raises(AttributeError, match="no field 'cost'"):
        del fields.cost


def test_a_simple_namespace_is_written_as_an_object() -> None:
    assert payload.encode({"order": SimpleNamespace(cost=5, lines=[SimpleNamespace(name="a")])}) == (
        b'{"order":{"cost":5,"lines":[{"name":"a"}]}}'
    )
