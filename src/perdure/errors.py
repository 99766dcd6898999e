"""Errors, told apart by whose fault they are and what to do about them.

Each class's docstring is its default message; values go into attributes. `code` is what crosses a wire, where
classes do not exist.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PerdureError(Exception):
    """Something went wrong in Perdure."""

    code: ClassVar[str] = "ERR_INTERNAL"

    def __init__(self, message: str | None = None, **values: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def message(self) -> str:
        return str(self.args[0])


# --- the caller's fault: do not retry, change the request -------------------------------------------------------


class InvalidInput(PerdureError, ValueError):
    """The request is not valid."""

    code = "ERR_INVALID_INPUT"


class InvalidId(InvalidInput):
    """An id has 1 to 256 bytes, and no control characters and no '/'."""

    code = "ERR_INSTANCE_ID_INVALID"


class PayloadTooLarge(InvalidInput):
    """A payload is larger than the limit."""

    code = "ERR_PAYLOAD_TOO_LARGE"
    non_retriable = True


class NotFound(PerdureError, LookupError):
    """There is nothing of that name."""

    code = "ERR_NOT_FOUND"


class InstanceNotFound(NotFound):
    """no such instance exists"""

    code = "ERR_INSTANCE_ID_NOT_FOUND"


class AlreadyExists(PerdureError):
    """An instance with this id exists already."""

    code = "ERR_INSTANCE_ALREADY_EXISTS"


class KeyReused(PerdureError):
    """The idempotency key was used for another request."""

    code = "ERR_IDEMPOTENCY_KEY_REUSED"


class InvalidState(PerdureError):
    """The instance is not in a state that allows this."""

    code = "ERR_INVALID_STATE"


class NotRegistered(PerdureError, LookupError):
    """No function or class is registered under this name."""

    code = "ERR_NOT_REGISTERED"


class Unauthorized(PerdureError):
    """The API token is missing, or it is not the right one."""

    code = "ERR_API_TOKEN"


class ConfigurationError(PerdureError):
    """The configuration is not valid."""

    code = "ERR_CONFIGURATION"


# --- nobody's fault: somebody else may do it, or the same request later -------------------------------------------


class Unavailable(PerdureError):
    """This cannot be done now; the same request may succeed later."""

    code = "ERR_UNAVAILABLE"


class LinkRefused(Unavailable):
    """The other process does not accept this one, or this one not it, for its certificate or token: until somebody
    changes these, no attempt will succeed."""


class Moved(Unavailable):
    """Another node owns this actor.

    `term` and `epoch` name the placement table that the refusing node goes by: whoever was refused may wait for it
    before it tries again. 0: not known.
    """

    code = "ERR_MOVED"
    term: int = 0
    epoch: int = 0


class OutcomeUnknown(Unavailable):
    """The call may or may not have been executed."""

    code = "ERR_OUTCOME_UNKNOWN"


class DeadlineExceeded(Unavailable, TimeoutError):
    """No answer came within the deadline."""

    code = "ERR_DEADLINE_EXCEEDED"


# --- the store's ---------------------------------------------------------------------------------------------------


class StoreError(PerdureError):
    """The store refused; nothing was written."""

    code = "ERR_STORE"


class StoreUnavailable(StoreError, Unavailable):
    """The store gave no answer; whether it wrote anything is not known."""

    code = "ERR_STORE_UNAVAILABLE"


class StoreHeld(ConfigurationError):
    """Another process holds this store."""

    code = "ERR_STORE_HELD"


class StoreFormat(ConfigurationError):
    """The store was written by a newer release."""

    code = "ERR_STORE_FORMAT"


class CorruptState(PerdureError):
    """A stored value cannot be read."""

    code = "ERR_CORRUPT_STATE"


# --- the author's of workflow, activity or actor code ----------------------------------------------------------------


class ActorMethodFailed(PerdureError):
    """An actor's method raised; nothing that it changed was stored, and it is not tried again.

    `error_type` and `error_message` are the original's class name and text, where they are known.
    """

    code = "ERR_ACTOR_METHOD_FAILED"
    error_type: str = ""
    error_message: str = ""


class LoopBlocked(BaseException):
    """This code held the event loop too long; everything else in the process stood still.

    Raised by the watchdog inside the code that blocks. A BaseException, so that `except Exception` in that code
    does not swallow it.
    """

    def __str__(self) -> str:
        # The watchdog can raise a class only, not an instance with a message.
        return super().__str__() or "this code held the event loop too long; everything else stood still"
