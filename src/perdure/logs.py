"""Structured logs: a constant event name, ids in fields, JSON on request.

Every layer logs through its own stdlib logger (`perdure.actors`, `perdure.workflow`, …) with the event's name as the
message and everything else in `extra=fields(…)`. Importing Perdure installs no handler; `perdure run` does.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_FIELDS = "perdure_fields"


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """What to pass as `extra=`: the event's ids and values, None left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value is not None}}


class TextFormatter(logging.Formatter):
    """`12:00:00.123 INFO perdure.workflow stalled instance=order-7 reason=…`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {record.name} {record.getMessage()}"
        for name, value in getattr(record, _FIELDS, {}).items():
            line += f" {name}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure(level: str = "INFO", *, as_json: bool = False) -> None:
    """Sends Perdure's logs to stderr. For programs (`perdure run`, `app.run()`), never for libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logger = logging.getLogger("perdure")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
