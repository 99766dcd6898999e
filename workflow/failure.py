"""Exceptions in words that cross processes and languages."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from perdure.workflow.events import FailureDetails
from perdure.workflow.retry import retry_delay

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep

#: Causes of causes that are kept.
_DEPTH = 8
#: Frames that are kept, the innermost ones.
_FRAMES = 50
#: What every exception is derived from says nothing.
_EVERY = frozenset({Exception, BaseException, object})


def describe(error: BaseException) -> FailureDetails:
    """What failed and why: class, message, the frames of the user's own code, and the chain of causes."""
    return _describe(error, _DEPTH)


def _describe(error: BaseException, depth: int) -> FailureDetails:
    details = getattr(error, "details", None)
    inner = details if isinstance(details, FailureDetails) else None
    cause = error.__cause__
    if inner is None and cause is not None and depth > 0:
        inner = _describe(cause, depth - 1)
    return FailureDetails(
        type=type(error).__name__,
        message=_message(error),
        stack=_stack(error.__traceback__),
        inner=inner,
        non_retriable=getattr(error, "non_retriable", False) is True,
        retry_after=_retry_after(error),
        bases=tuple(base.__name__ for base in type(error).__mro__[1:] if base not in _EVERY),
    )


def _retry_after(error: BaseException) -> int | None:
    try:
        return retry_delay(getattr(error, "retry_after", None))
    except Exception:  # noqa: BLE001 - a user's property must not take the turn with it
        return None


def _message(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - a user's __str__ must not take the turn with it
        return type(error).__name__


def _stack(trace: TracebackType | None) -> str:
    if trace is None:
        return ""
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(_HERE)]
    return "".join(traceback.format_list(frames[-_FRAMES:]))
