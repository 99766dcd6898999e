"""Which methods of an actor class can be called from outside, and how their inputs and results cross as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from perdure import payload
from perdure.errors import ConfigurationError, InvalidInput, NotFound
from perdure.payload import Payload

_TABLE = "__perdure_methods__"
_SCOPE = "__perdure_scope__"
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Method:
    """One callable method: `async def` or `def`, with one argument at most."""

    __slots__ = ("decode", "decode_result", "fn", "input_label", "label", "name", "parameter", "result_label")

    def __init__(self, cls: type, name: str, fn: Callable[..., Any]) -> None:
        self.name = name
        self.fn = fn
        self.label = f"{cls.__name__}.{name}"
        self.input_label = f"the input of {self.label}"
        self.result_label = f"the result of {self.label}"
        parameter = _input_parameter(self.label, fn)
        #: The argument's name; None when there is none.
        self.parameter = parameter.name if parameter is not None else None
        scope = getattr(cls, _SCOPE, {})
        if parameter is not None:
            annotation = _resolve(parameter.annotation, fn, scope, self.input_label)
            #: Reads the argument; `InvalidInput` names the field.
            self.decode = payload.decoder(
                annotation, self.input_label, default=parameter.default, required=True
            )
        result = _resolve(inspect.signature(fn).return_annotation, fn, scope, self.result_label)
        #: Reads the result, for whoever called.
        self.decode_result = payload.decoder(result, self.result_label)

    def arguments(self, body: Payload) -> tuple[Any, ...]:
        """What to call the method with, besides `self`."""
        if self.parameter is not None:
            return (self.decode(body or None),)
        if body and body.strip() != b"null":
            raise InvalidInput(f"{self.label} takes no input")
        return ()

    def encode_input(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Payload:
        """The payload of a call with these arguments; TypeError when the method does not take them."""
        given = [*args, *kwargs.values()]
        if len(given) > (self.parameter is not None) or any(name != self.parameter for name in kwargs):
            takes = f"one argument, {self.parameter!r}" if self.parameter is not None else "no arguments"
            raise TypeError(f"{self.label} takes {takes}")
        return payload.encode(given[0], self.input_label) if given else None

    def encode_result(self, value: Any) -> Payload:
        return payload.encode(value, self.result_label)


def note_scope(cls: type, scope: dict[str, Any]) -> None:
    """The local names where the class was written: its string annotations may mean classes from there."""
    setattr(cls, _SCOPE, scope)


def methods_of(cls: type, base: type) -> Mapping[str, Method]:
    """The public methods of an actor class by name: those of the class and its parents up to `base`, without what
    `base` itself has. `ConfigurationError` for one that cannot be called. Made at first use, when all types that the
    annotations name exist."""
    table: Mapping[str, Method] | None = cls.__dict__.get(_TABLE)
    if table is None:
        found = {name: Method(cls, name, fn) for name, fn in _public(cls, base).items()}
        setattr(cls, _TABLE, found)
        table = found
    return table


def find(methods: Mapping[str, Method], actor_type: str, name: str) -> Method:
    """`NotFound` names the methods that there are."""
    method = methods.get(name)
    if method is None:
        known = ", ".join(sorted(methods)[:20]) or "none"
        raise NotFound(f"actor type {actor_type!r} has no method {name!r}; it has: {known}")
    return method


def _public(cls: type, base: type) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for parent in reversed(cls.__mro__):
        if parent is object or issubclass(base, parent):
            continue
        for name, member in vars(parent).items():
            if name.startswith("_") or hasattr(base, name):
                continue
            if inspect.isfunction(member):
                found[name] = member
            else:
                # A property or plain attribute hides a parent's method of that name.
                found.pop(name, None)
    return found


def _input_parameter(label: str, fn: Callable[..., Any]) -> inspect.Parameter | None:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigurationError(f"{label} is a generator: a method returns its result, it does not yield")
    parameters = list(inspect.signature(fn).parameters.values())[1:]
    if not parameters:
        return None
    if len(parameters) > 1 or parameters[0].kind not in _NAMED:
        raise ConfigurationError(
            f"{label} must take (self) or (self, input): put all of the input into one value, such as a dataclass, "
            "or begin the name with _ if it is not to be called from outside"
        )
    return parameters[0]


def _resolve(annotation: Any, fn: Callable[..., Any], scope: Mapping[str, Any], what: str) -> Any:
    """The type that an annotation means."""
    if not isinstance(annotation, str):
        return annotation
    function = inspect.unwrap(fn)
    names = inspect.getclosurevars(function).nonlocals
    try:
        return eval(annotation, getattr(function, "__globals__", {}), {**scope, **names})
    except Exception as error:
        raise ConfigurationError(
            f"{what} is annotated {annotation!r}, which means nothing in {function.__module__}: {error}. "
            "Import it outside `if TYPE_CHECKING`, or leave the annotation out for plain values"
        ) from error
