"""`dapr.clients.exceptions`."""

from perdure.dapr.errors import ERROR_CODE_UNKNOWN, DaprInternalError

__all__ = ["ERROR_CODE_UNKNOWN", "DaprInternalError"]
