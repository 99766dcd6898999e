"""Which methods can be called, how their types are read, and what typed proxies make of a class."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from perdure.actors.actor import Actor, actor_methods
from perdure.actors.proxy import ActorProxy, bind
from perdure.actors.user_type import UserActorType
from perdure.errors import ConfigurationError, InvalidId, InvalidInput


class Caller:
    """Takes down what is called and gives an answer."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.calls: list[Any] = []

    async def call_actor(self, actor: Any, method: str, payload: bytes | None, **options: Any) -> Any:
        self.calls.append((str(actor), method, payload, options["timeout"]))
        return self.answer


class Base(Actor):
    limit = 5

    async def shared(self) -> int:
        return 1

    async def replaced(self) -> int:
        return 1

    async def hidden(self) -> int:
        return 1


class Cart(Base, type="cart"):
    hidden = None  # type: ignore[assignment]

    async def replaced(self) -> str:  # type: ignore[override]
        return "x"

    async def add(self, item: str) -> list[str]:
        return [item]

    async def count(self, by: int = 1) -> int:
        return by

    @property
    def size(self) -> int:
        return 1

    @staticmethod
    async def helper() -> None: ...

    async def on_activate(self) -> None: ...


def test_what_can_be_called() -> None:
    assert sorted(actor_methods(Cart)) == ["add", "count", "replaced", "shared"]
    assert sorted(actor_methods(Base)) == ["hidden", "replaced", "shared"]


def test_types_of_a_function_around_the_class() -> None:
    @dataclass
    class Local:
        x: int

    class Inner(Actor):
        async def take(self, value: Local) -> Local:
            return value

    method = actor_methods(Inner)["take"]
    assert method.arguments(b'{"x":1}') == (Local(1),)
    assert method.decode_result(b'{"x":2}') == Local(2)


def test_classes_that_cannot_be_actors() -> None:
    class Two(Actor):
        async def add(self, a: int, b: int) -> int:
            return a + b

    class Generator(Actor):
        async def add(self) -> AsyncIterator[int]:
            yield 1

    class Unknown(Actor):
        async def add(self, item: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821

    class Constructor(Actor):
        def __init__(self, name: str) -> None: ...

    class Hook(Actor):
        def on_activate(self) -> None: ...  # type: ignore[override]

    class Slash(Actor, type="a/b"): ...

    class Reserved(Actor, type="dapr.internal.x"): ...

    expected = {
        Two: r"Two\.add must take \(self\) or \(self, input\)",
        Generator: r"Generator\.add is a generator",
        Unknown: r"the input of Unknown\.add is annotated 'Nowhere'",
        Constructor: r"Constructor\.__init__ takes 'name'",
        Hook: r"Hook\.on_activate must be an async def",
        Slash: r"contains a '/'",
        Reserved: r"is reserved",
        int: r"derived from perdure\.Actor",
    }
    for cls, message in expected.items():
        with pytest.raises(ConfigurationError, match=message):
            UserActorType(cls, Caller())  # type: ignore[arg-type]


async def test_a_typed_proxy_calls_and_reads() -> None:
    caller = Caller(b'["tea"]')
    cart = ActorProxy.of(caller, Cart, "42", timeout=5)
    assert await cart.add("tea") == ["tea"]
    assert await cart.add(item="tea") == ["tea"]
    caller.answer = b"3"
    assert await cart.count() == 3
    assert await cart.shared() == 3
    assert caller.calls == [
        ("cart||42", "add", b'"tea"', 5),
        ("cart||42", "add", b'"tea"', 5),
        ("cart||42", "count", None, 5),
        ("cart||42", "shared", None, 5),
    ]
    assert repr(cart) == "<ActorProxy cart||42>"


async def test_a_typed_proxy_has_nothing_else() -> None:
    caller = Caller()
    cart: Any = ActorProxy.of(caller, Cart, "42")
    for name in ("state", "on_reminder", "nope", "hidden", "size", "_make"):
        with pytest.raises(AttributeError):
            getattr(cart, name)
    for call in (lambda: cart.shared(1), lambda: cart.add("a", "b"), lambda: cart.add(other="a")):
        with pytest.raises(TypeError, match="takes"):
            await call()
    with pytest.raises(InvalidInput, match=r"input of Cart\.add has type object"):
        await cart.add(object())
    caller.answer = b'"x"'
    with pytest.raises(InvalidInput, match=r"result of Cart\.count: expected `int`"):
        await cart.count()


def test_proxies_check_what_they_are_given() -> None:
    with pytest.raises(InvalidId):
        ActorProxy.of(Caller(), Cart, "a/b")
    with pytest.raises(ConfigurationError, match=r"derived from perdure\.Actor"):
        ActorProxy.of(Caller(), int, "a")  # type: ignore[type-var]


async def test_create_calls_through_the_node_that_serves_here() -> None:
    with pytest.raises(ConfigurationError, match="no node serves here"):
        ActorProxy.create(Cart, "42")
    caller = Caller(b"7")
    bind(caller)
    assert await ActorProxy.create(Cart, "42").count() == 7
    bind(None)


async def test_an_untyped_proxy() -> None:
    caller = Caller(b'{"x":1}')
    proxy = ActorProxy(caller, "cart", "42")
    assert await proxy.call("anything", [1]) == {"x": 1}
    assert await proxy.call("anything", type=dict[str, int]) == {"x": 1}
    assert caller.calls[0] == ("cart||42", "anything", b"[1]", 60.0)
