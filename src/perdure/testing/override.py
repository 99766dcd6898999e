"""Activities that are something else for a while."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from types import TracebackType
from typing import Any, Self

from perdure.app import App
from perdure.errors import ConfigurationError
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.registry import ActivityDefinition, function_name


class Override:
    """What stands in for an activity, and what it was asked: a context manager, made by `override`."""

    def __init__(self, definition: ActivityDefinition, stand_in: Callable[..., Any]) -> None:
        self._definition = definition
        self._stand_in = stand_in
        self._before: list[tuple[Callable[..., Any], bool]] = []
        #: The input of each run, in the order in which they began; None where the activity takes none.
        self.inputs: list[Any] = []

    @property
    def count(self) -> int:
        """How often it has been run. A retry counts, too."""
        return len(self.inputs)

    def __enter__(self) -> Self:
        definition = self._definition
        self._before.append((definition.fn, definition.is_async))
        # In place: a node that runs, and calls that name the function, find the same definition as before.
        definition.fn, definition.is_async = self._run, True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._definition.fn, self._definition.is_async = self._before.pop()

    async def _run(self, ctx: ActivityContext, *input: Any) -> Any:
        self.inputs.append(input[0] if input else None)
        result = self._stand_in(ctx, *input)
        return await result if isawaitable(result) else result


def override(app: App, activity: Callable[..., Any] | str, stand_in: Callable[..., Any]) -> Override:
    """Has `stand_in` run in place of an activity of the app, while the context lasts:

        with override(app, charge, lambda ctx, order: "paid") as charged:
            ...
        assert charged.inputs == [Order(...)]

    It is called as the activity is, with (ctx, input) or (ctx), on the event loop, and may be a coroutine function, a
    plain one, or a mock; what it returns or raises is the activity's. Input, result and retries are as before.
    `ConfigurationError` when the app has no such activity.
    """
    definition = app.registry.activity_index.get(activity)
    if definition is None:
        name = activity if isinstance(activity, str) else function_name(activity)
        known = ", ".join(sorted(app.registry.activities)) or "none"
        raise ConfigurationError(f"app {app.app_id!r} has no activity {name!r}; it has: {known}")
    if not callable(stand_in):
        raise ConfigurationError(
            f"what stands in for activity {definition.name!r} is called as it is: give a function, not {stand_in!r}"
        )
    return Override(definition, stand_in)
