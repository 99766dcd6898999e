"""Reading requests: every value is checked here, so that what reaches the engine is well formed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web

from perdure.duration import parse_moment
from perdure.errors import InvalidInput
from perdure.sidecar.errors import Refusal
from perdure.workflow.workflows import IF_EXISTS, StartOptions

#: Holds what a caller calls its request, so that sending it again changes nothing.
KEY_HEADER = "Idempotency-Key"
#: Ids and names are at most this long in UTF-8.
MAX_ID_BYTES = 256
#: Dapr's own limit, kept where Dapr has it.
MAX_DAPR_ID = 64

_decoder = msgspec.json.Decoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAPR_ID = re.compile(r"[A-Za-z0-9_-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_START_ID = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def malformed(message: str) -> Refusal:
    return Refusal(400, "ERR_MALFORMED_REQUEST", message)


def check_encoding(raw_path: str) -> None:
    """A path whose percent-encoding is broken is refused: it would be read as something else than was meant."""
    if "%" not in raw_path:
        return
    if _BAD_PERCENT.search(raw_path):
        raise malformed("the path has a '%' that two hexadecimal digits do not follow; a '%' itself is %25")
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise malformed("the path, percent-decoded, is not UTF-8") from None


def check_site(request: web.Request) -> None:
    """A browser says when a page of another site makes it send something: nobody who uses the API does that."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method not in ("GET", "HEAD"):
        raise Refusal(
            403, "ERR_CROSS_SITE", "requests that change something are not taken from pages of other sites"
        )


def instance_id(request: web.Request) -> str:
    """The path's instance id: 1 to 256 bytes, without control characters and '/'."""
    value = request.match_info["id"]
    if not value:
        raise Refusal(400, "ERR_INSTANCE_ID_PROVIDED_MISSING", "the path has no instance id")
    return checked_id(value, "instance id", "ERR_INSTANCE_ID")


def checked_id(value: str, what: str, code: str) -> str:
    """`code` is followed by what is wrong: `_TOO_LONG` or `_INVALID`."""
    if len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise Refusal(400, f"{code}_TOO_LONG", f"the {what} is longer than {MAX_ID_BYTES} bytes")
    if not value or "/" in value or _CONTROL.search(value):
        raise Refusal(
            400,
            f"{code}_INVALID",
            f"the {what} {value!r} is not valid: 1 to {MAX_ID_BYTES} bytes without control characters and '/'",
        )
    return value


def dapr_instance_id(value: str | None) -> str | None:
    """The id given to Dapr's own start call, which is narrower than elsewhere; none or empty: one is made."""
    if not value:
        return None
    if len(value) > MAX_DAPR_ID:
        raise Refusal(
            400,
            "ERR_INSTANCE_ID_TOO_LONG",
            f"the instance id has {len(value)} characters; {MAX_DAPR_ID} are allowed",
        )
    if not _DAPR_ID.fullmatch(value) and not all(c.isalpha() or c.isdecimal() or c in "_-" for c in value):
        raise Refusal(
            400,
            "ERR_INSTANCE_ID_INVALID",
            f"the instance id {value!r} is not valid: only letters, digits, '_' and '-' are allowed",
        )
    return value


def name_in_path(request: web.Request, key: str, what: str, code: str) -> str:
    return checked_name(request.match_info[key], what, code)


def checked_name(value: str, what: str, code: str) -> str:
    """A workflow's, event's or method's name: any text of 1 to 256 bytes without control characters."""
    if not value:
        raise Refusal(400, f"{code}_MISSING", f"the {what} is missing")
    if len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES or _CONTROL.search(value):
        raise Refusal(
            400,
            f"{code}_INVALID",
            f"the {what} is not valid: 1 to {MAX_ID_BYTES} bytes without control characters",
        )
    return value


def text(request: web.Request, name: str, default: str = "", limit: int = 1024) -> str:
    value = request.query.get(name, default)
    if len(value) > limit or _CONTROL.search(value):
        raise malformed(f"{name} must have at most {limit} characters, and no control characters")
    return value


def whole(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    value = request.query.get(name)
    if value is None:
        return default
    if not _WHOLE.fullmatch(value) or not low <= int(value) <= high:
        raise malformed(f"{name} must be a whole number from {low} to {high}, not {value[:40]!r}")
    return int(value)


def seconds(request: web.Request, name: str, default: float, high: float) -> float:
    value = request.query.get(name)
    if value is None:
        return default
    if not _NUMBER.fullmatch(value) or float(value) > high:
        raise malformed(f"{name} must be a number of seconds from 0 to {high:g}, not {value[:40]!r}")
    return float(value)


def flag(request: web.Request, name: str, default: bool) -> bool:
    value = request.query.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise malformed(f"{name} must be true or false, not {value[:40]!r}")
    return value == "true"


def moment(request: web.Request, name: str) -> datetime | None:
    """A time of RFC 3339, with its offset."""
    value = request.query.get(name)
    if value is None:
        return None
    try:
        found = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        found = None
    if found is None or found.tzinfo is None:
        raise malformed(f"{name} must be a time such as 2026-01-31T13:00:00Z, not {value[:40]!r}")
    return found


def start_id(request: web.Request) -> str | None:
    """What makes a start the same start when it is sent again."""
    value = request.query.get("startID")
    if value is not None and not _START_ID.fullmatch(value):
        raise malformed("startID must have 16 to 64 letters, digits, '-' and '_'")
    return value


def request_key(request: web.Request) -> str | None:
    """The caller's key of a request that it may send again."""
    return request.headers.get(KEY_HEADER)


def start_options(request: web.Request) -> StartOptions:
    """When and on which conditions a start is to begin an instance; the engine looks at what they say."""
    found: StartOptions = {}
    query = request.query
    if "startTime" in query:
        found["start_at"] = _start_time(query["startTime"])
    if "ifExists" in query:
        wanted = query["ifExists"]
        if wanted not in IF_EXISTS:
            raise malformed(f"ifExists must be one of {', '.join(IF_EXISTS)}, not {wanted[:40]!r}")
        found["if_exists"] = wanted
    if "tag" in query:
        found["tags"] = dict(_tag(text) for text in query.getall("tag"))
    given = request_key(request)
    if given is not None:
        found["idempotency_key"] = given
    return found


def _start_time(text: str) -> datetime | timedelta:
    try:
        if not text.strip():
            raise InvalidInput("it is empty")
        wanted = parse_moment(text)
        if wanted.time is None:
            return timedelta(microseconds=wanted.delay)
        return _EPOCH + timedelta(microseconds=wanted.time)
    except (InvalidInput, OverflowError) as error:
        raise malformed(f"startTime must be a time or a delay: {error}") from None


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise malformed(f"a tag is written name=value, not {text[:40]!r}")
    return name, value


async def body_bytes(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.RequestPayloadError as error:
        reason = str(error).rpartition("message:")[2].strip()
        raise malformed(f"the body cannot be read: {reason}") from error


async def json_body(request: web.Request) -> bytes | None:
    """The body exactly as it came, once it is known to be JSON; None when it is empty."""
    body = await body_bytes(request)
    if not body:
        return None
    check_json(body)
    return body


def check_json(body: bytes) -> None:
    """Reads it whole, as whoever takes the payload later will: that must not fail there."""
    try:
        _decoder.decode(body)
    except RecursionError:
        raise malformed("the body's JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise malformed(f"the body is not UTF-8 (byte {error.start} of a text)") from None
    except msgspec.MsgspecError as error:
        hint = "" if body[:1] in b'{["' else '; text must be in double quotes: "text"'
        raise malformed(f"the body is not JSON: {error}{hint}") from None
