"""Payloads and long texts, cut to what a page shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

#: Characters of one payload that an instance's page shows, of one that a list shows, and of an event's.
MAX_PAYLOAD = 64 * 1024
MAX_CELL = 200
MAX_EVENT = 4 * 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encoder = msgspec.json.Encoder(enc_hook=str)


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(text: str | None, limit: int = MAX_PAYLOAD) -> dict[str, Any] | None:
    """A payload's text with its whole length, cut where it is too long to be read as JSON any more."""
    if text is None:
        return None
    return {"text": text[:limit], "length": len(text), "cut": len(text) > limit}


def compact(value: object) -> str:
    """A value as JSON, on one line."""
    return _encoder.encode(value).decode()


def shown_value(value: object, limit: int) -> dict[str, Any]:
    """As `shown`, for a value that is not JSON text yet."""
    found = shown(compact(value), limit)
    assert found is not None
    return found


def moment(at: datetime | int | None) -> int | None:
    """A time for the browser, in microseconds since 1970 UTC; None for one that is not there."""
    if isinstance(at, datetime):
        return (at - _EPOCH) // timedelta(microseconds=1)
    return at or None
