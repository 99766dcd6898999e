"""Where workflows and activities are registered, and what runs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, overload

from perdure.app import App
from perdure.dapr.conf import Settings
from perdure.dapr.functions import as_activity, as_workflow
from perdure.dapr.host import Host, begin, end
from perdure.dapr.names import ALTERNATE_NAME, name_of
from perdure.errors import ConfigurationError, InvalidInput
from perdure.node import DEFAULT_STORE, NodeOptions
from perdure.runtime import RuntimeOptions

F = TypeVar("F", bound=Callable[..., Any])


class WorkflowRuntime:
    """Runs workflows in this process, on a thread of its own, from `start` to `shutdown`. One runs at a time.

    The environment says the rest: `PERDURE_STORE` is the URL of the store (`sqlite:///perdure.db`), `APP_ID` the app id
    (`app`), `PERDURE_HTTP_PORT` a port on which HTTP and the console are served (none), `DAPR_API_TOKEN` what requests
    there must show, `PERDURE_HOST` the address on which HTTP is served and other nodes reach this one (`127.0.0.1`).
    """

    def __init__(
        self,
        host: str | None = None,
        port: str | int | None = None,
        logger_options: object = None,
        *,
        maximum_concurrent_activity_work_items: int | None = None,
        maximum_concurrent_orchestration_work_items: int | None = None,
        maximum_thread_pool_workers: int | None = None,
    ) -> None:
        """`maximum_concurrent_activity_work_items`: how many activities run at a time. The other parameters are there
        for Dapr's sake: there is no sidecar to reach, workflows take turns, and threads come as they are needed."""
        self._app = App(os.environ.get("APP_ID") or "app", replay_check="off")
        self._most = maximum_concurrent_activity_work_items
        self._host: Host | None = None

    @property
    def app(self) -> App:
        """The app on which everything is registered, for whatever Perdure can do with one."""
        return self._app

    # --- registering -------------------------------------------------------------------------------------------------

    def register_workflow(self, fn: Callable[..., Any], *, name: str | None = None) -> None:
        """Registers a workflow `(ctx)` or `(ctx, input)`: a generator, a plain function or an `async def`.
        `ValueError` when it or its name is registered already, or it takes something else."""
        chosen = self._chosen("Workflow", fn, name, self._app.registry.workflows)
        _register(self._app.workflow(name=chosen), as_workflow(fn, chosen))

    def register_activity(self, fn: Callable[..., Any], *, name: str | None = None) -> None:
        """Registers an activity `(ctx)` or `(ctx, input)`: a plain function, run in a thread, or an `async def`.
        `ValueError` as `register_workflow`."""
        chosen = self._chosen("Activity", fn, name, self._app.registry.activities)
        _register(self._app.activity(name=chosen), as_activity(fn, chosen))

    @overload
    def workflow(self, fn: F, /, *, name: str | None = None) -> F: ...
    @overload
    def workflow(self, fn: None = None, /, *, name: str | None = None) -> Callable[[F], F]: ...
    def workflow(self, fn: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
        """`register_workflow` as a decorator, with or without arguments. The function stays callable."""

        def register(function: F) -> F:
            self.register_workflow(function, name=name)
            return function

        return register if fn is None else register(fn)

    @overload
    def activity(self, fn: F, /, *, name: str | None = None) -> F: ...
    @overload
    def activity(self, fn: None = None, /, *, name: str | None = None) -> Callable[[F], F]: ...
    def activity(self, fn: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
        """`register_activity` as a decorator, with or without arguments. The function stays callable."""

        def register(function: F) -> F:
            self.register_activity(function, name=name)
            return function

        return register if fn is None else register(fn)

    def _chosen(self, kind: str, fn: Callable[..., Any], name: str | None, registered: dict[str, Any]) -> str:
        if self._host is not None:
            raise ValueError(
                f"{kind} {name_of(fn)} comes too late: register everything before start(), since other nodes are told "
                "then what this one can do"
            )
        given = getattr(fn, ALTERNATE_NAME, None)
        if given is not None and name not in (None, given):
            raise ValueError(f"{kind} {fn.__name__} already has an alternate name {given}")
        chosen = name or name_of(fn)
        if chosen in registered:
            raise ValueError(f"{kind} {getattr(fn, '__name__', fn)} already registered as {chosen}")
        if given is None and hasattr(fn, "__dict__"):
            # By this a function is known wherever it is called from.
            fn.__dict__[ALTERNATE_NAME] = chosen
        return chosen

    # --- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when the node serves; what was in flight when the last process ended goes on. `RuntimeError` when it
        is running; `StoreHeld` when another process has the store; `ConfigurationError` for wrong settings."""
        if self._host is not None:
            raise RuntimeError("The runtime is already running.")
        options = NodeOptions(
            store=os.environ.get("PERDURE_STORE") or DEFAULT_STORE,
            http_port=_port(os.environ.get("PERDURE_HTTP_PORT")),
            host=os.environ.get("PERDURE_HOST") or "127.0.0.1",
            api_token=Settings().DAPR_API_TOKEN,
            runtime=RuntimeOptions(replay_check="off", max_concurrent_activities=self._most),
        )
        self._host = begin(self._app, options)

    def wait_for_worker_ready(self, timeout: float = 30.0) -> bool:
        """Whether it runs: `start` has waited for that."""
        return self._host is not None

    def shutdown(self) -> None:
        """Running activities have ten seconds to end; everything else goes on at the next start. Idempotent."""
        running = self._host
        if running is not None:
            end(running)
            self._host = None


def _register(decorate: Callable[[Any], Any], fn: Callable[..., Any]) -> None:
    try:
        decorate(fn)
    except (ConfigurationError, InvalidInput) as error:
        raise ValueError(error.message) from error


def _port(given: str | None) -> int | None:
    if not given:
        return None
    try:
        return int(given)
    except ValueError:
        raise ConfigurationError(f"PERDURE_HTTP_PORT is {given!r}; it must be a number") from None
