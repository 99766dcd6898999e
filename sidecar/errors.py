"""Errors as HTTP answers: a status, and Dapr's body `{"errorCode": …, "message": …}`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from perdure import errors
from perdure.client.answers import ERROR_HEADER
from perdure.logs import fields

logger = logging.getLogger("perdure.sidecar")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The error code to answer with when a handler fails for a reason that has none of its own.
FAILURE_CODES: web.AppKey[dict[Handler, str]] = web.AppKey("failure_codes", dict)


class Refusal(Exception):
    """The edge itself refuses a request. The message says what was wrong and what would be right."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


# First match wins. None: the code of the operation that failed, as Dapr has it.
_ANSWERS: tuple[tuple[type[errors.PerdureError], int, str | None], ...] = (
    (errors.NotFound, 404, ""),
    (errors.NotRegistered, 404, ""),
    (errors.AlreadyExists, 409, ""),
    (errors.KeyReused, 409, ""),
    (errors.InvalidState, 409, None),
    (errors.PayloadTooLarge, 413, ""),
    (errors.InvalidInput, 400, ""),
    (errors.DeadlineExceeded, 504, ""),
    # Not 503: a client that repeats a 503 by itself would perhaps do it twice.
    (errors.OutcomeUnknown, 504, ""),
    (errors.Unavailable, 503, ""),
)


def error_response(status: int, code: str, message: str) -> web.Response:
    body = msgspec.json.encode({"errorCode": code, "message": message})
    response = web.Response(status=status, body=body, content_type="application/json")
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response


def answer(error: errors.PerdureError, failure_code: str) -> web.Response:
    """The answer to a request that ended with `error` in an operation that Dapr reports as `failure_code`. A header
    names the error itself, for clients that have classes for it."""
    response = _answer(error, failure_code)
    response.headers[ERROR_HEADER] = error.code
    return response


def _answer(error: errors.PerdureError, failure_code: str) -> web.Response:
    for kind, status, code in _ANSWERS:
        if isinstance(error, kind):
            return error_response(status, failure_code if code is None else error.code, error.message)
    logger.warning("request_failed", extra=fields(code=error.code, error=error.message))
    return error_response(500, failure_code, error.message)


def from_aiohttp(error: web.HTTPException, request: web.Request) -> web.Response:
    """aiohttp's own error pages are text or HTML; only what they say is kept."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        response = error_response(
            405, "ERR_METHOD_NOT_ALLOWED", f"{request.method} is not allowed here; allowed: {allowed}"
        )
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, web.HTTPNotFound):
        return error_response(
            404, "ERR_NOT_FOUND", f"nothing is served at {request.path}; /openapi.json lists what is"
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        limit = request.client_max_size
        return error_response(
            413, "ERR_PAYLOAD_TOO_LARGE", f"the body is larger than the limit, {limit} bytes"
        )
    return error_response(error.status, "ERR_MALFORMED_REQUEST", error.text or error.reason)
