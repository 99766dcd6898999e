"""What is suggested for a name that does not exist."""

from __future__ import annotations

import pytest

from perdure.spelling import LISTED, instead_of, nearest


@pytest.mark.parametrize(
    ("name", "names", "meant"),
    [
        ("shippin", ["ship", "shipping", "pay"], "shipping"),
        ("Pay", ["pay", "play"], "pay"),
        ("charge_card", ["chargeCard", "refund"], "chargeCard"),
        ("x", ["shipping"], None),
        ("", ["shipping"], None),
        ("pay", [], None),
        ("a" * 100_000, ["a" * 64, "b"], "a" * 64),
    ],
)
def test_the_nearest(name: str, names: list[str], meant: str | None) -> None:
    assert nearest(name, names) == meant


def test_what_is_registered_instead() -> None:
    assert (
        instead_of("shippin", ["shipping", "pay"]) == "did you mean 'shipping'? registered are: pay, shipping"
    )
    assert instead_of("refund", ["pay"]) == "registered are: pay"
    assert instead_of("refund", []) == "registered are: none"


def test_of_many_some_are_listed_and_the_nearest_always() -> None:
    names = [f"a{number:03}" for number in range(LISTED + 5)] + ["zebra"]
    text = instead_of("zebr", names)
    assert text.startswith("did you mean 'zebra'? registered are: a000, ")
    assert text.endswith("a019 and 6 more")
