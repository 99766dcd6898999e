"""Registering functions: names, signatures, and the types of what they take and give."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from perdure.errors import ConfigurationError, InvalidInput, NotRegistered
from perdure.workflow.registry import Registry
from perdure.workflow.retry import RetryPolicy

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Order:
    amount: int


@pytest.fixture
def app() -> Registry:
    return Registry()


def test_decorated_functions_stay_what_they_were(app: Registry) -> None:
    """With and without parentheses, and with another name."""

    def plain(ctx: Any, input: int) -> int:
        return input + 1

    assert app.activity(plain) is plain
    assert app.activity(name="other")(plain) is plain
    assert app.workflow()(plain) is plain
    assert plain(None, 1) == 2
    assert set(app.activities) == {"plain", "other"}
    assert set(app.workflows) == {"plain"}
    assert app.activity_index[plain].name == "plain"


def test_one_name_twice_is_refused_with_both_places(app: Registry) -> None:
    """Per kind: a workflow and an activity may share a name."""

    @app.activity
    def pay(ctx: Any) -> None: ...

    app.workflow(pay)
    with pytest.raises(ConfigurationError, match=r"test_registry\.py:\d+ and .*test_registry\.py:\d+.*name="):

        @app.activity(name="pay")
        def other(ctx: Any) -> None: ...


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, "perdure.cleanup", "dapr.internal.x", 7])
def test_names_that_cannot_be_are_refused(app: Registry, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        app.activity(lambda ctx: None, name=name)


def test_options_in_place_of_the_function_are_refused(app: Registry) -> None:
    with pytest.raises(ConfigurationError, match="options are keywords"):
        app.activity("pay")  # type: ignore[call-overload]


def no_parameters() -> None: ...


def three(ctx: Any, first: int, second: int) -> None: ...


def keyword(ctx: Any, *, needed: int) -> None: ...


async def stream(ctx: Any) -> AsyncIterator[int]:
    yield 1


def yields(ctx: Any) -> Generator[int, None, None]:
    yield 1


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (no_parameters, "it takes no parameter"),
        (three, "nothing gives it 'second'; put all of the input into one value"),
        (keyword, "nothing gives it 'needed'"),
        (stream, "async generator"),
        (yields, "generator"),
    ],
)
def test_a_wrong_signature_says_what_is_right(app: Registry, fn: Callable[..., Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"must take \(ctx\) or \(ctx, input\), but .*{why}"):
        app.activity(fn)


def test_optional_parameters_do_no_harm(app: Registry) -> None:
    """What has a default need not be given."""

    @app.activity
    def pay(ctx: Any, input: int = 5, other: int = 6, *, more: int = 7) -> None: ...

    @app.activity
    def collect(ctx: Any, *inputs: Any) -> None: ...

    assert app.get_activity("pay").decode(None) == 5
    assert app.get_activity("collect").takes_input


def test_all_kinds_of_callables_are_taken(app: Registry) -> None:
    """Partials, methods and objects, sync and async."""

    class Shop:
        async def pay(self, ctx: Any, input: int) -> int:
            return input

        async def __call__(self, ctx: Any) -> None: ...

    async def charge(currency: str, ctx: Any, input: int) -> int:
        return input

    app.activity(Shop().pay)
    app.activity(Shop(), name="shop")
    app.activity(functools.partial(charge, "EUR"))
    app.activity(lambda ctx: None, name="sync")
    assert {name: found.is_async for name, found in app.activities.items()} == {
        "pay": True,
        "shop": True,
        "charge": True,
        "sync": False,
    }
    assert [found.takes_input for found in app.activities.values()] == [True, False, True, False]
    assert app.get_activity("pay").decode_result(b"1") == 1


def test_options_of_an_activity_are_kept(app: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=2)
    app.activity(retry_policy=policy)(three_or_two)
    found = app.get_activity("three_or_two")
    assert found.retry_policy == policy


def three_or_two(ctx: Any, first: Order, second: int = 0) -> Order:
    return first


def test_string_annotations_mean_module_names(app: Registry) -> None:
    """This module postpones their evaluation."""
    app.activity(three_or_two)
    found = app.get_activity("three_or_two")
    assert found.decode(b'{"amount":1}') == Order(1)
    assert found.decode_result(b'{"amount":1}') == Order(1)
    assert found.encode(Order(2)) == b'{"amount":2}'


def test_string_annotations_mean_local_names_too(app: Registry) -> None:
    @dataclass
    class Local:
        amount: int

    @app.workflow
    async def local(ctx: Any, input: Local) -> Local:
        return input

    assert app.get_workflow("local").decode(b'{"amount":1}') == Local(1)


def test_an_annotation_without_meaning_is_refused(app: Registry) -> None:
    """Typical: imported only for the type checker."""

    def pay(ctx: Any, input: Decimal) -> None: ...

    with pytest.raises(ConfigurationError, match="outside `if TYPE_CHECKING`"):
        app.activity(pay)


def test_the_contexts_annotation_does_not_matter(app: Registry) -> None:
    def pay(ctx: Decimal, input: int) -> int:
        return input

    app.activity(pay)
    assert app.get_activity("pay").decode(b"1") == 1


def test_a_generator_workflows_result_is_what_it_returns(app: Registry) -> None:
    @app.workflow
    def steps(ctx: Any) -> Generator[Any, Any, Order]:
        yield
        return Order(1)

    @app.workflow
    def untyped(ctx: Any) -> Any:
        yield

    assert app.get_workflow("steps").decode_result(b'{"amount":1}') == Order(1)
    assert app.get_workflow("untyped").decode_result(b'{"amount":1}') == {"amount": 1}


def test_wrong_input_names_function_and_field(app: Registry) -> None:
    app.activity(three_or_two)
    with pytest.raises(
        InvalidInput, match="the input of activity 'three_or_two': field `amount`: expected `int`"
    ):
        app.get_activity("three_or_two").decode(b'{"amount":"x"}')


def test_unknown_names_list_the_known_ones(app: Registry) -> None:
    app.activity(three_or_two)
    with pytest.raises(
        NotRegistered, match="no activity 'pay' is registered here; registered are: three_or_two"
    ):
        app.get_activity("pay")
    with pytest.raises(NotRegistered, match="registered are: none"):
        app.get_workflow("pay")
