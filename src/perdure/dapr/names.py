"""Under which name a function is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: The attribute of a function that says so; Dapr's SDK has the same.
ALTERNATE_NAME = "_dapr_alternate_name"


def name_of(function: Callable[..., Any] | str) -> str:
    """The name that a call of this function asks for."""
    if isinstance(function, str):
        return function
    return str(getattr(function, ALTERNATE_NAME, None) or getattr(function, "__name__", function))
