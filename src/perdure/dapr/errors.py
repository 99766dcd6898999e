"""What the blocking clients raise, under the names of Dapr's SDK."""

from __future__ import annotations

from typing import Any

from perdure.errors import PerdureError

ERROR_CODE_UNKNOWN = "UNKNOWN"


class DaprInternalError(Exception):
    """A request was refused or could not be carried out. `__cause__` is Perdure's own error, where there is one."""

    def __init__(
        self,
        message: str | None,
        error_code: str | None = ERROR_CODE_UNKNOWN,
        raw_response_bytes: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self._message = message
        self._error_code = error_code
        self._raw_response_bytes = raw_response_bytes

    @classmethod
    def of(cls, error: PerdureError) -> DaprInternalError:
        """One with the message and the code of Perdure's own error."""
        return cls(error.message, error.code)

    def as_dict(self) -> dict[str, Any]:
        return {
            "message": self._message,
            "errorCode": self._error_code,
            "raw_response_bytes": self._raw_response_bytes,
        }
