"""The pytest plugin of Perdure: the fixture `perdure`, a node whose time the test moves. See docs/testing.md.

Apart from the package `perdure`, which pytest would import whether a test uses it or not: this imports nothing before
the fixture is used. It needs no other plugin, and gets along with pytest-asyncio and anyio.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perdure import App
    from perdure.testing import BlockingEnvironment, Environment

FIXTURE = "perdure"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("perdure_app", "the app of the fixture `perdure`, as module:attribute", default="")


@pytest.fixture
def perdure_app(request: pytest.FixtureRequest) -> App:
    """The app that the fixture `perdure` serves: the setting perdure_app, unless a project has its own fixture."""
    named = str(request.config.getini("perdure_app"))
    module, _, attribute = named.partition(":")
    if not module or not attribute:
        raise pytest.UsageError(
            "the fixture `perdure` does not know which app to serve: set perdure_app = module:attribute in the "
            "settings of pytest, or write a fixture `perdure_app` that returns it"
        )
    found: App = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))  # type: ignore[assignment]
    return found


@pytest.fixture
def perdure_options() -> dict[str, Any]:
    """Further arguments of `perdure.testing.Environment`; a project may have its own."""
    return {}


@pytest.fixture
def perdure(
    request: pytest.FixtureRequest, perdure_app: App, perdure_options: dict[str, Any]
) -> Iterator[Environment | BlockingEnvironment]:
    """A node of `perdure_app` on a memory store, whose time the test moves. In an `async def` test its methods are
    coroutines, and it runs on the test's own event loop; in a plain one they are calls."""
    from perdure import testing

    item = request.node
    function = getattr(item, "obj", None)
    if not inspect.iscoroutinefunction(function):
        with testing.BlockingEnvironment(perdure_app, **perdure_options) as blocking:
            yield blocking
        return
    environment = testing.Environment(perdure_app, **perdure_options)
    # Whoever runs the test, runs the node around it: fixtures that are not coroutines have no loop to do so.
    item.obj = _within(environment, function)
    try:
        yield environment
    finally:
        item.obj = function


def _within(environment: Environment, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def test(*args: Any, **kwargs: Any) -> Any:
        async with environment:
            return await function(*args, **kwargs)

    return test


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a coroutine function that uses the fixture, where no other plugin does."""
    if FIXTURE not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    import asyncio

    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True
