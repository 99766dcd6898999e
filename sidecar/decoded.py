"""Stored values as JSON, for people: every state key can be shown.

Values that Perdure writes are msgpack maps; payload bytes inside them are shown as the JSON that they are, other bytes
as `{"base64": …}`, times as RFC 3339.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from perdure.actors.expiry import bare
from perdure.workflow.events import Event

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Fields that hold whole microseconds since 1970 UTC.
_TIMES = frozenset(
    {
        "at",
        "completed",
        "created",
        "due",
        "expires",
        "fire_at",
        "last",
        "scheduled",
        "started",
        "turn",
        "updated",
    }
)
#: JSON nested deeper than this is shown as bytes, so that encoding the answer around it cannot fail.
_MAX_DEPTH = 100

_msgpack = msgspec.msgpack.Decoder()
_json = msgspec.json.Decoder()


def decode_value(key: str, value: bytes) -> object:
    """What a state key holds, as JSON values. Never fails: what cannot be read is shown as bytes."""
    value = bare(value)
    if key != "customStatus":
        found = _unpack(value)
        if found is not None:
            return readable(found)
    return payload(value)


def event_json(event: Event) -> dict[str, Any]:
    """One history event: `type`, `at`, and its fields that are not defaults."""
    return readable(msgspec.to_builtins(event, builtin_types=(bytes,)))


def readable(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _shown(str(name), item) for name, item in value.items()}


def rfc3339(moment: datetime) -> str:
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def time_text(microseconds: int) -> object:
    try:
        return rfc3339(_EPOCH + timedelta(microseconds=microseconds))
    except OverflowError:
        return microseconds  # no time at all: show what is there


def payload(value: bytes) -> object:
    """The JSON that the bytes are, or else `{"base64": …}`."""
    try:
        found: object = _json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"base64": base64.b64encode(value).decode()}
    if value.count(b"[") + value.count(b"{") > _MAX_DEPTH and not _shallow(found):
        return {"base64": base64.b64encode(value).decode()}
    return found


def _shallow(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return True
    return False


def _unpack(value: bytes) -> dict[Any, Any] | None:
    """The msgpack map that the bytes are. Nothing else: JSON text such as `5` is msgpack, too."""
    try:
        found = _msgpack.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _shown(name: str, value: object) -> object:
    if isinstance(value, bytes):
        return payload(value)
    if isinstance(value, int) and not isinstance(value, bool) and name in _TIMES:
        return time_text(value)
    if isinstance(value, Mapping):
        return readable(value)
    if isinstance(value, list | tuple):
        return [_shown(name, item) for item in value]
    return value
