"""Which functions are workflows and activities, under which names, and how their values are read and written."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import FunctionType
from typing import Any, TypeVar, get_args, overload

from perdure import payload
from perdure.errors import ConfigurationError, NotRegistered
from perdure.payload import Payload
from perdure.spelling import instead_of
from perdure.workflow import names
from perdure.workflow.limits import check_grace, check_limit, check_timeout
from perdure.workflow.retry import RetryPolicy

F = TypeVar("F", bound=Callable[..., Any])

#: Names that begin so are Perdure's own.
RESERVED_PREFIXES = ("perdure.", "dapr.internal.")

_MAX_NAME = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Definition:
    """One registered function: what it is called, and how its input and result cross a payload."""

    kind = "function"
    __slots__ = (
        "decode",
        "decode_result",
        "fn",
        "input_label",
        "name",
        "place",
        "result_label",
        "takes_input",
    )

    def __init__(self, name: str, fn: Callable[..., Any], scope: dict[str, Any]) -> None:
        self.name = name
        self.fn = fn
        self.place = _place(fn)
        self.input_label = f"the input of {self.kind} {name!r}"
        self.result_label = f"the result of {self.kind} {name!r}"
        parameter = _input_parameter(self.kind, fn)
        self.takes_input = parameter is not None
        #: Reads the function's input; `InvalidInput` names the field.
        self.decode = self._input_decoder(parameter, scope)
        #: Reads the function's result, for whoever called it.
        self.decode_result = self._result_decoder(scope)

    def encode(self, value: Any) -> Payload:
        """The payload of the function's result; `InvalidInput` names the type that cannot be written."""
        return payload.encode(value, self.result_label)

    def encode_input(self, value: Any) -> Payload:
        return payload.encode(value, self.input_label)

    def _input_decoder(self, parameter: inspect.Parameter | None, scope: dict[str, Any]) -> payload.Decode:
        if parameter is None:
            return functools.partial(payload.decode, what=self.input_label)
        annotation = _resolve(parameter.annotation, self.fn, scope, self.input_label)
        return payload.decoder(annotation, self.input_label, default=parameter.default, required=True)

    def _result_decoder(self, scope: dict[str, Any]) -> payload.Decode:
        annotation = inspect.signature(self.fn).return_annotation
        return payload.decoder(_resolve(annotation, self.fn, scope, self.result_label), self.result_label)


class WorkflowDefinition(Definition):
    kind = "workflow"
    __slots__ = ("global_max_concurrent", "max_concurrent", "retry_policy")

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        scope: dict[str, Any],
        *,
        retry_policy: RetryPolicy | None = None,
        max_concurrent: int | None = None,
        global_max_concurrent: int | None = None,
    ) -> None:
        super().__init__(name, fn, scope)
        what = f"of workflow {name!r}"
        #: How many instances are under way at a time on a node, and in the cluster; None: any number.
        self.max_concurrent = check_limit(f"max_concurrent {what}", max_concurrent)
        self.global_max_concurrent = check_limit(f"global_max_concurrent {what}", global_max_concurrent)
        #: For calls as a child that give none.
        self.retry_policy = retry_policy

    def _result_decoder(self, scope: dict[str, Any]) -> payload.Decode:
        # A generator's annotation says what it yields, not only what it returns.
        annotation = _resolve(inspect.signature(self.fn).return_annotation, self.fn, scope, self.result_label)
        if inspect.isgeneratorfunction(_function(self.fn)):
            parts = get_args(annotation)
            annotation = parts[-1] if len(parts) == 3 else payload.EMPTY
        return payload.decoder(annotation, self.result_label)


class ActivityDefinition(Definition):
    kind = "activity"
    __slots__ = (
        "global_grace",
        "global_max_concurrent",
        "heartbeat_timeout",
        "is_async",
        "max_concurrent",
        "retry_policy",
        "schedule_to_close_timeout",
        "start_to_close_timeout",
        "timed",
    )

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        scope: dict[str, Any],
        *,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        max_concurrent: int | None = None,
        global_max_concurrent: int | None = None,
        global_grace: timedelta | None = None,
    ) -> None:
        super().__init__(name, fn, scope)
        what = f"of activity {name!r}"
        #: How many run at a time on a node, and in the cluster; None: any number.
        self.max_concurrent = check_limit(f"max_concurrent {what}", max_concurrent)
        self.global_max_concurrent = check_limit(f"global_max_concurrent {what}", global_max_concurrent)
        #: Seconds; None: placement's own.
        self.global_grace = check_grace(f"global_grace {what}", global_grace)
        self.is_async = inspect.iscoroutinefunction(_function(fn))
        #: For calls that give none.
        self.retry_policy = retry_policy
        #: Microseconds, for requests and calls that give none; 0: no limit.
        self.start_to_close_timeout = check_timeout(f"start_to_close_timeout {what}", start_to_close_timeout)
        self.heartbeat_timeout = check_timeout(f"heartbeat_timeout {what}", heartbeat_timeout)
        self.schedule_to_close_timeout = check_timeout(
            f"schedule_to_close_timeout {what}", schedule_to_close_timeout
        )
        #: Whether each attempt has a time limit.
        self.timed = bool(self.start_to_close_timeout or self.heartbeat_timeout)


class Registry:
    """The workflows and activities of one app. A name is used once per kind."""

    def __init__(self) -> None:
        self.workflows: dict[str, WorkflowDefinition] = {}
        self.activities: dict[str, ActivityDefinition] = {}
        #: By function and by name: what a call looks up, in one step.
        self.workflow_index: dict[object, WorkflowDefinition] = {}
        self.activity_index: dict[object, ActivityDefinition] = {}

    @overload
    def workflow(self, fn: F, *, name: str | None = None) -> F: ...
    @overload
    def workflow(
        self,
        fn: None = None,
        *,
        name: str | None = None,
        retry_policy: RetryPolicy | None = None,
        max_concurrent: int | None = None,
        global_max_concurrent: int | None = None,
    ) -> Callable[[F], F]: ...
    def workflow(
        self,
        fn: F | None = None,
        *,
        name: str | None = None,
        retry_policy: RetryPolicy | None = None,
        max_concurrent: int | None = None,
        global_max_concurrent: int | None = None,
    ) -> F | Callable[[F], F]:
        """Registers a workflow `(ctx)` or `(ctx, input)`: an `async def`, a generator or a plain function.

        At most `max_concurrent` of its instances are under way at a time on each node, at most
        `global_max_concurrent` on all nodes together: from their start until they have ended, whatever they wait for
        meanwhile. The others stay PENDING, and start in the order of creation.

        `retry_policy` is for calls of it as a child workflow that give none."""
        scope = _caller_scope()

        def register(function: F) -> F:
            definition = WorkflowDefinition(
                _check_name("workflow", name, function),
                function,
                scope,
                retry_policy=retry_policy,
                max_concurrent=max_concurrent,
                global_max_concurrent=global_max_concurrent,
            )
            _add(self.workflows, self.workflow_index, definition)
            return function

        return register if fn is None else register(fn)

    @overload
    def activity(self, fn: F, *, name: str | None = None) -> F: ...
    @overload
    def activity(
        self,
        fn: None = None,
        *,
        name: str | None = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        max_concurrent: int | None = None,
        global_max_concurrent: int | None = None,
        global_grace: timedelta | None = None,
    ) -> Callable[[F], F]: ...
    def activity(
        self,
        fn: F | None = None,
        *,
        name: str | None = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        max_concurrent: int | None = None,
        global_max_concurrent: int | None = None,
        global_grace: timedelta | None = None,
    ) -> F | Callable[[F], F]:
        """Registers an activity `(ctx)` or `(ctx, input)`: an `async def`, or a plain function, run in a thread.

        At most `max_concurrent` of it run at a time on each node, at most `global_max_concurrent` on all nodes
        together; the others wait in order. When a node falls silent, what it may still be running counts for
        `global_grace` more (a minute): give more to an activity that may take longer.

        `retry_policy`, `start_to_close_timeout`, `heartbeat_timeout` and `schedule_to_close_timeout` are for calls that
        give none: see `WorkflowContext.call_activity`."""
        scope = _caller_scope()

        def register(function: F) -> F:
            definition = ActivityDefinition(
                _check_name("activity", name, function),
                function,
                scope,
                retry_policy=retry_policy,
                start_to_close_timeout=start_to_close_timeout,
                heartbeat_timeout=heartbeat_timeout,
                schedule_to_close_timeout=schedule_to_close_timeout,
                max_concurrent=max_concurrent,
                global_max_concurrent=global_max_concurrent,
                global_grace=global_grace,
            )
            _add(self.activities, self.activity_index, definition)
            return function

        return register if fn is None else register(fn)

    def get_workflow(self, name: str) -> WorkflowDefinition:
        """`NotRegistered` when there is none of that name."""
        found = self.workflows.get(name)
        if found is None:
            raise NotRegistered(_unknown("workflow", name, self.workflows), name=name)
        return found

    def get_activity(self, name: str) -> ActivityDefinition:
        """`NotRegistered` when there is none of that name."""
        found = self.activities.get(name)
        if found is None:
            raise NotRegistered(_unknown("activity", name, self.activities), name=name)
        return found


def function_name(fn: Callable[..., Any]) -> str:
    """The name under which a function is registered when none is given; empty when it has none."""
    return str(getattr(_function(fn), "__name__", ""))


def _add(table: dict[str, Any], index: dict[object, Any], definition: Definition) -> None:
    known = table.get(definition.name)
    if known is not None:
        raise ConfigurationError(
            f"two {definition.kind} functions have the name {definition.name!r}: {known.place} and "
            f"{definition.place}. Give one of them another name with name="
        )
    table[definition.name] = definition
    index[definition.name] = definition
    index.setdefault(definition.fn, definition)
    if definition.kind == "workflow":
        names.remember(definition.fn, definition.name)


def _check_name(kind: str, name: str | None, fn: object) -> str:
    if not callable(fn):
        raise ConfigurationError(
            f"@{kind} decorates a function, not {fn!r}; options are keywords: @{kind}(name=…)"
        )
    chosen = function_name(fn) if name is None else name
    if not isinstance(chosen, str) or not 1 <= len(chosen) <= _MAX_NAME or _CONTROL.search(chosen):
        raise ConfigurationError(
            f"the name of a {kind} has 1 to {_MAX_NAME} characters, none of them a control character: {chosen!r}. "
            "Set it with name="
        )
    if chosen.startswith(RESERVED_PREFIXES):
        raise ConfigurationError(
            f"names of {kind} functions do not begin with {' or '.join(RESERVED_PREFIXES)}: {chosen!r}"
        )
    return chosen


def _input_parameter(kind: str, fn: Callable[..., Any]) -> inspect.Parameter | None:
    """The parameter that takes the input; None when the function takes only the context."""
    function = _function(fn)
    if inspect.isasyncgenfunction(function):
        raise _wrong_signature(kind, fn, "it is an async generator: await, do not yield")
    if kind == "activity" and inspect.isgeneratorfunction(function):
        raise _wrong_signature(kind, fn, "it is a generator: return the result, do not yield")
    parameters = inspect.signature(fn).parameters.values()
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    for parameter in parameters:
        optional = parameter.default is not payload.EMPTY
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not optional:
            raise _wrong_signature(kind, fn, f"nothing gives it {parameter.name!r}")
    for parameter in positional[2:]:
        if parameter.default is payload.EMPTY:
            raise _wrong_signature(
                kind, fn, f"nothing gives it {parameter.name!r}; put all of the input into one value"
            )
    rest = next((p for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
    if len(positional) >= 2:
        return positional[1]
    if rest is not None:
        return rest
    if not positional:
        raise _wrong_signature(kind, fn, "it takes no parameter")
    return None


def _wrong_signature(kind: str, fn: Callable[..., Any], why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{kind} {function_name(fn)!r} at {_place(fn)} must take (ctx) or (ctx, input), but {why}"
    )


def _resolve(annotation: Any, fn: Callable[..., Any], scope: dict[str, Any], what: str) -> Any:
    """The type that an annotation means. Each one alone, so that an unknown one elsewhere does no harm."""
    if not isinstance(annotation, str):
        return annotation
    function = inspect.unwrap(_function(fn))
    names = _nonlocals(function) if inspect.isfunction(function) else {}
    try:
        return eval(annotation, getattr(function, "__globals__", {}), {**scope, **names})
    except Exception as error:
        raise ConfigurationError(
            f"{what} is annotated {annotation!r}, which means nothing at {_place(fn)}: {error}. "
            "Import it outside `if TYPE_CHECKING`, or leave the annotation out for plain values"
        ) from error


def _nonlocals(function: FunctionType) -> dict[str, Any]:
    """The names that a function has from those around it; not those that are assigned below it, and so not yet."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _function(fn: Any) -> Any:
    """What is called in the end: the function of a partial, a method or an object with `__call__`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isroutine(fn) or inspect.isclass(fn):
        return getattr(fn, "__func__", fn)
    return getattr(type(fn), "__call__", fn)  # noqa: B004 - not a test


def _place(fn: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(_function(fn)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(fn)


def _caller_scope() -> dict[str, Any]:
    """The local names where the decorator stands: string annotations may mean classes of a function around it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("perdure."):
        frame = frame.f_back
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)


def _unknown(kind: str, name: str, table: dict[str, Any]) -> str:
    return f"no {kind} {name!r} is registered here; {instead_of(name, table)}"
