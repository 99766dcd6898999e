"""Python values to payload bytes and back."""

from __future__ import annotations

import enum
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import payload
from perdure.errors import ConfigurationError, InvalidInput

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Address(TypedDict):
    street: str


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Order:
    amount: int
    address: Address
    price: Decimal = Decimal("0.1")
    colour: Colour = Colour.RED


class Customer(pydantic.BaseModel):
    name: str
    born: datetime | None = None


class Aliased(pydantic.BaseModel):
    kind: str = pydantic.Field(alias="type")


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Mixed:
    customer: Customer


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Order(1, {"street": "Main"}), Order),
        ({"a": [Order(1, {"street": "Main"})]}, dict[str, list[Order]]),
        (Point(1, 2), Point),
        (Colour.RED, Colour),
        (datetime(2030, 1, 1, 1, 2, 3, 4, tzinfo=UTC), datetime),
        (timedelta(seconds=1.5), timedelta),
        (uuid.UUID(int=7), uuid.UUID),
        (Decimal("1.10"), Decimal),
        (b"\x00\xff", bytes),
        ({1, 2}, set[int]),
        ((1, "a"), tuple[int, str]),
        (1, int | str),
        ("a", Literal["a", "b"]),
        (Customer(name="Ann", born=datetime(2000, 1, 1, tzinfo=UTC)), Customer),
        ([Customer(name="Ann")], list[Customer]),
        (Page[Customer](items=[Customer(name="Ann")]), Page[Customer]),
        (Aliased(type="x"), Aliased),
        (Mixed(Customer(name="Ann")), Mixed),
        (10**30, int),
    ],
)
def test_typed_values_come_back_as_they_were(value: Any, annotation: Any) -> None:
    encoded = payload.encode(value)
    back = payload.decoder(annotation, "it")(encoded)
    assert back == value
    assert type(back) is type(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_plain_values_need_no_annotation(value: Any) -> None:
    assert payload.decode(payload.encode(value)) == value


def test_none_is_no_payload() -> None:
    """In both directions, whatever the annotation; a payload that says null is None too."""
    assert payload.encode(None) is None
    assert payload.decode(None) is None
    assert payload.decoder(int, "it")(None) is None
    assert payload.decode(b"null") is None


def test_no_payload_for_a_required_value() -> None:
    """The default where there is one, None where that is allowed, an error that names the type otherwise."""
    assert payload.decoder(int, "it", default=5, required=True)(None) == 5
    assert payload.decoder(int | None, "it", required=True)(None) is None
    assert payload.decoder(Any, "it", required=True)(None) is None
    with pytest.raises(InvalidInput, match="it is missing: expected Customer"):
        payload.decoder(Customer, "it", required=True)(None)


@pytest.mark.parametrize(
    ("annotation", "encoded", "message"),
    [
        (int, b'"a"', "it: expected `int`, got `str`"),
        (Order, b'{"amount":"x"}', "it: field `amount`: expected `int`, got `str`"),
        (Order, b'{"amount":1,"address":{}}', "it: field `address`: object missing required field `street`"),
        (list[int], b'[1,"a"]', r"it: field `\[1\]`: expected `int`"),
        (Customer, b'{"born":1}', "it: field `name`: field required"),
        (Page[Customer], b'{"items":[{}]}', r"it: field `items\.0\.name`: field required"),
        (Mixed, b'{"customer":{}}', "it: field `customer`"),
        (Any, b"{", "it is not valid JSON"),
        (Order, b"\xff", "it is not valid JSON"),
        (Customer, b"{", "it: invalid JSON"),
    ],
)
def test_wrong_values_name_the_field(annotation: Any, encoded: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        payload.decoder(annotation, "it")(encoded)


def test_what_is_no_json_names_the_type() -> None:
    class Own: ...

    loop: list[Any] = []
    loop.append(loop)
    for value in (Own(), [Own()], 1j, loop, {(1, 2): 3}):
        with pytest.raises(InvalidInput, match=r"it has type .*cannot be written as JSON"):
            payload.encode(value, "it")


def test_what_was_not_awaited_is_told_from_what_is_no_json() -> None:
    async def work() -> None: ...

    pending = work()
    for value in (pending, [pending]):
        with pytest.raises(
            InvalidInput, match=r"it has type .*an `await` is missing in front of what made it"
        ):
            payload.encode(value, "it")
    pending.close()


def test_a_type_that_json_cannot_give_is_refused() -> None:
    """At once where that is known, with the remedy; else when a value comes."""

    class Own: ...

    with pytest.raises(ConfigurationError, match="leave the annotation out"):
        payload.decoder(Order | Mixed, "it")
    with pytest.raises(InvalidInput, match="make it a dataclass"):
        payload.decoder(Own, "it")(b"{}")


def test_pydantic_is_never_imported_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic")
    payload.decoder(list[Order], "it")(b"[]")
    assert "pydantic" not in sys.modules
