"""Values as Dapr's SDK hands them over: what is annotated is typed, what is not has its fields as attributes.

Annotations mean nothing to Dapr's SDK, so there are programs whose annotations are wrong. These run here too.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from typing import Any

from perdure import payload
from perdure.errors import ConfigurationError, InvalidInput
from perdure.logs import fields

log = logging.getLogger("perdure.dapr")


class Fields(dict[str, Any]):
    """A JSON object whose fields are attributes too: `order["cost"]` and `order.cost`.

    Dapr's SDK gives an object of attributes for what was a dataclass and a dict for what was a dict; this is both.
    A field that has the name of a dict's method (`items`, say) is no attribute.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            known = ", ".join(self) or "none"
            raise AttributeError(f"there is no field {name!r}; there are: {known}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"there is no field {name!r}") from None


def plain(data: bytes) -> Any:
    """The value of JSON text, objects as `Fields`. `ValueError` when it is no JSON."""
    return json.loads(data, object_hook=Fields)


class Fitting:
    """Stands for an annotation where functions are registered: reads values of its type, and hands over plain those
    that do not fit, with a warning the first time."""

    def __init__(self, annotation: Any, what: str) -> None:
        self._what = what
        self._typed: Callable[[bytes], Any] | None = None
        self._told = False
        # What is said to return nothing may return something all the same.
        if not any(annotation is one for one in (payload.EMPTY, Any, object, None, type(None))):
            try:
                self._typed = payload.decoder(annotation, what)
            except ConfigurationError as error:
                log.debug("dapr.annotation_ignored", extra=fields(reason=error.message))

    def __from_json__(self, data: bytes) -> Any:
        if data == b"null":
            return None
        if self._typed is not None:
            try:
                return self._typed(data)
            except InvalidInput as error:
                if not self._told:
                    self._told = True
                    log.warning("dapr.annotation_does_not_fit", extra=fields(reason=error.message))
        return plain(data)


#: For what has no annotation.
ANY = Fitting(payload.EMPTY, "the value")


def fitting(fn: Callable[..., Any], annotation: Any, what: str) -> Fitting:
    """What reads values of this annotation of `fn`; text that means nothing is no annotation."""
    if isinstance(annotation, str):
        function = inspect.unwrap(fn)
        try:
            annotation = eval(annotation, getattr(function, "__globals__", {}))
        except Exception:  # noqa: BLE001 - whatever evaluating it raises
            annotation = payload.EMPTY
    return Fitting(annotation, what)
