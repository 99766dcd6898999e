"""Functions that were written for Dapr's SDK, as functions of Perdure: other contexts, and lenient annotations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from perdure import payload
from perdure.dapr.context import DaprWorkflowContext, WorkflowActivityContext
from perdure.dapr.names import ALTERNATE_NAME
from perdure.dapr.values import fitting
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.context import WorkflowContext

F = TypeVar("F", bound=Callable[..., Any])

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def alternate_name(name: str | None = None) -> Callable[[F], F]:
    """Gives a function another name than its own to be registered under. `ValueError` when it has one already."""

    def decorate(fn: F) -> F:
        known = getattr(fn, ALTERNATE_NAME, None)
        if known is not None:
            raise ValueError(f"Function {fn.__name__} already has an alternate name {known}")
        setattr(fn, ALTERNATE_NAME, name or fn.__name__)
        return fn

    return decorate


def as_workflow(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A workflow of Perdure that runs this one of Dapr."""

    @functools.wraps(fn)
    def adapted(ctx: WorkflowContext, *input: Any) -> Any:
        return fn(DaprWorkflowContext(ctx), *input)

    return _signed(adapted, fn, f"workflow {name!r}")


def as_activity(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    """An activity of Perdure that runs this one of Dapr; on the event loop if it is `async def`."""
    adapted: Callable[..., Any]
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def adapted(ctx: ActivityContext, *input: Any) -> Any:
            return await fn(WorkflowActivityContext(ctx), *input)

    else:

        @functools.wraps(fn)
        def adapted(ctx: ActivityContext, *input: Any) -> Any:
            return fn(WorkflowActivityContext(ctx), *input)

    return _signed(adapted, fn, f"activity {name!r}")


def _signed(adapted: Callable[..., Any], fn: Callable[..., Any], what: str) -> Callable[..., Any]:
    """`adapted` with the signature of `fn`, in which the annotations of input and result are lenient."""
    signature = inspect.signature(fn)
    parameters = list(signature.parameters.values())
    taking = [index for index, parameter in enumerate(parameters) if parameter.kind in _POSITIONAL][1:2]
    taking = taking or [
        index
        for index, parameter in enumerate(parameters)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL
    ]
    for index in taking:
        parameter = parameters[index]
        parameters[index] = parameter.replace(
            annotation=fitting(fn, parameter.annotation, f"the input of {what}")
        )
    result = signature.return_annotation
    if inspect.isgeneratorfunction(fn):
        # A generator's annotation says what it yields, not only what it returns.
        parts = get_args(result)
        result = parts[-1] if len(parts) == 3 else payload.EMPTY
    returns = fitting(fn, result, f"the result of {what}")
    signed: Any = adapted
    signed.__signature__ = signature.replace(parameters=parameters, return_annotation=returns)
    return adapted
