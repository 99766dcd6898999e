"""The one layer around every handler: whatever ends a request badly becomes a JSON answer."""

from __future__ import annotations

from aiohttp import web

from perdure.errors import PerdureError
from perdure.logs import fields
from perdure.sidecar.errors import (
    FAILURE_CODES,
    Handler,
    Refusal,
    answer,
    error_response,
    from_aiohttp,
    logger,
)
from perdure.sidecar.requests import check_encoding, check_site


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        check_encoding(request.rel_url.raw_path)
        check_site(request)
        return await handler(request)
    except Refusal as refusal:
        return error_response(refusal.status, refusal.code, str(refusal))
    except PerdureError as error:
        return answer(error, _failure_code(request))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return from_aiohttp(error, request)
    except ConnectionError:
        raise  # the client is gone: nobody to answer
    except Exception:  # noqa: BLE001 - the last resort: the cause is in the log, the client gets an answer
        logger.exception("request_crashed", extra=fields(method=request.method, path=request.path))
        return error_response(500, _failure_code(request), "internal error; the node's log has the details")


def _failure_code(request: web.Request) -> str:
    return request.app[FAILURE_CODES].get(request.match_info.handler, "ERR_INTERNAL")
