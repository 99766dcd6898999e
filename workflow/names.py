"""Under which names functions are workflows, in whatever app of this process: for clients that have no app."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from perdure.errors import InvalidInput

_names: weakref.WeakKeyDictionary[Callable[..., Any], set[str]] = weakref.WeakKeyDictionary()


def remember(workflow: Callable[..., Any], name: str) -> None:
    """What cannot be remembered (a callable object that takes no weak reference) goes by its own name."""
    with suppress(TypeError):
        _names.setdefault(workflow, set()).add(name)


def remembered(workflow: Callable[..., Any]) -> str:
    """The name that a function has been registered under; empty: none. `InvalidInput` for several."""
    try:
        found = _names.get(workflow, set())
    except TypeError:
        return ""
    if len(found) > 1:
        raise InvalidInput(
            f"{getattr(workflow, '__name__', workflow)!r} is registered under several names "
            f"({', '.join(sorted(found))}): give the name as text"
        )
    return next(iter(found), "")
