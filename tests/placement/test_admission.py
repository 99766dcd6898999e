"""Who may take part, and as what."""

from __future__ import annotations

import msgspec
import pytest

from perdure.placement.admission import refusal
from perdure.placement.member import Member
from perdure.placement.messages import PROTOCOL, Hello

ORDERS = Member("n1", "h:1", "orders", "default", ("dapr.internal.default.orders.workflow", "Cart"))


def hello(**changes: object) -> Hello:
    return Hello(msgspec.structs.replace(ORDERS, **changes))


def test_a_node_with_its_own_types_may() -> None:
    assert refusal(Hello(ORDERS), ()) is None
    assert refusal(hello(actor_types=()), ()) is None
    blue = hello(namespace="blue", actor_types=("dapr.internal.blue.orders.activity", "blue/Cart"))
    assert refusal(blue, {"blue/orders"}) is None


@pytest.mark.parametrize(
    "actor_type",
    [
        "dapr.internal.default.shipping.workflow",
        "dapr.internal.blue.orders.workflow",
        "dapr.internal.default.orders",
        "dapr.internal.default.orders.",
        "dapr.internal.default.orders.x.workflow",
        "dapr.internal.",
        "blue/Cart",
        "/Cart",
    ],
)
def test_no_node_hosts_the_types_of_another_app_or_namespace(actor_type: str) -> None:
    reason = refusal(hello(actor_types=("Cart", actor_type)), ())
    assert reason is not None
    assert repr(actor_type) in reason
    assert "default/orders" in reason


def test_a_plain_type_is_of_the_default_namespace() -> None:
    assert refusal(hello(namespace="blue", actor_types=("Cart",)), ()) is not None


def test_a_certificate_names_the_apps() -> None:
    assert refusal(Hello(ORDERS), {"default/orders", "default/shipping"}) is None
    reason = refusal(Hello(ORDERS), {"default/shipping", "blue/orders"})
    assert reason is not None
    assert "default/orders" in reason
    assert "blue/orders, default/shipping" in reason


def test_another_protocol_is_told_with_both_versions() -> None:
    reason = refusal(Hello(ORDERS, protocol=PROTOCOL + 1), ())
    assert reason is not None
    assert f"version {PROTOCOL + 1}" in reason
    assert f"version {PROTOCOL}" in reason


@pytest.mark.parametrize(
    "changes",
    [
        {"node": ""},
        {"node": "n" * 257},
        {"address": "é" * 129},
        {"actor_types": tuple(f"T{number}" for number in range(1001))},
        {"actor_types": ("T" * 257,)},
        {"weight": -1},
        {"weight": 2**40},
    ],
    ids=str,
)
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    assert refusal(hello(**changes), ()) is not None
